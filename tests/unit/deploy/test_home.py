from __future__ import annotations

import os
import stat
from pathlib import Path

from deploy.home import LONGEST_SOCKET_PATH, Home, read_env, write_env


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_home_is_for_its_owner_alone(tmp_path: Path) -> None:
    home = Home(tmp_path / "deep" / "home")
    home.create()
    home.create()
    assert {mode(path) for path in (home.root, home.run, home.logs, home.storage)} == {0o700}


def test_an_open_home_is_closed(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    Home(tmp_path).create()
    assert mode(tmp_path) == 0o700


def test_a_socket_lies_in_the_home(tmp_path: Path) -> None:
    home = Home(Path("/srv/home"))
    assert home.socket("guard") == Path("/srv/home/run/guard.sock")


def test_a_socket_of_a_deep_home_stays_short(tmp_path: Path) -> None:
    deep, other = Home(tmp_path / ("x" * 120)), Home(tmp_path / ("y" * 120))
    assert len(os.fsencode(deep.socket("supervisor"))) <= LONGEST_SOCKET_PATH
    assert deep.socket("guard").parent == deep.socket("supervisor").parent
    assert deep.socket("guard") != other.socket("guard")


def test_keys_are_written_for_the_owner_alone_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "keys.env"
    path.write_text("old", encoding="utf-8")
    path.chmod(0o644)
    write_env(path, {"OPENAI_API_KEY": "sk-a=b", "OPENAI_BASE_URL": "http://127.0.0.1:1/v1"})
    assert mode(path) == 0o600
    assert path.read_text(encoding="utf-8").splitlines()[0] == "OPENAI_API_KEY=sk-a=b"
    assert read_env(path)["OPENAI_API_KEY"] == "sk-a=b"
    assert [p.name for p in tmp_path.iterdir()] == ["keys.env"]


def test_no_keys_yet(tmp_path: Path) -> None:
    assert read_env(tmp_path / "keys.env") == {}
