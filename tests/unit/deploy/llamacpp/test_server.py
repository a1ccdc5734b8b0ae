"""llama-server's command line, and a program of that shape that is started and ended."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from deploy.config import Config, LocalWorker
from deploy.llamacpp.server import NoServer, Server, base_gguf, command
from deploy.model import find_gguf
from deploy.setup import llama_server


def config(tmp_path: Path, **own: object) -> Config:
    return Config(home=tmp_path, local_worker=LocalWorker(kind="llamacpp", **own))  # type: ignore[arg-type]


def flag(line: list[str], name: str) -> str:
    return line[line.index(name) + 1]


def test_the_command_line(tmp_path: Path) -> None:
    own = config(tmp_path, slots=3, max_model_len=100, threads=5, extra_arguments=("--seed", "7"))
    line = command(own, tmp_path / "b.gguf", 8123, ["support@1-00000001", "x@2-00000002"])
    assert line[0] == str(llama_server())
    assert flag(line, "--host") == "127.0.0.1"
    assert flag(line, "--port") == "8123"
    assert flag(line, "--lora") == "support@1-00000001.gguf,x@2-00000002.gguf"
    assert (flag(line, "--ctx-size"), flag(line, "--parallel")) == ("300", "3")
    assert flag(line, "--threads") == "5"
    assert int(flag(line, "--threads-http")) > 32
    assert line[-2:] == ["--seed", "7"]
    assert "--lora" not in command(own, tmp_path / "b.gguf", 8123, [])


def test_adapters_cannot_read_one_anothers_prompts_and_it_says_so(tmp_path: Path) -> None:
    line = command(config(tmp_path), tmp_path / "b.gguf", 1, [])
    assert flag(line, "--cache-ram") == "0"
    assert flag(line, "--alias") == "base@0,cache-ram-0"


def test_the_bundled_models_own_file_is_the_default(tmp_path: Path) -> None:
    assert base_gguf(config(tmp_path)) == find_gguf()


def test_another_model_must_be_named_as_a_gguf_file(tmp_path: Path) -> None:
    own = LocalWorker(kind="llamacpp")
    with pytest.raises(NoServer, match="ADAPTERLOOP_LOCAL_WORKER__GGUF"):
        base_gguf(Config(home=tmp_path, model="some/model", local_worker=own))
    with pytest.raises(NoServer, match="is no file"):
        base_gguf(config(tmp_path, gguf=tmp_path / "nowhere.gguf"))
    (tmp_path / "m.gguf").touch()
    named = LocalWorker(kind="llamacpp", gguf=tmp_path / "m.gguf")
    assert base_gguf(Config(home=tmp_path, model="m", local_worker=named)) == tmp_path / "m.gguf"


def test_a_program_that_is_missing_is_told(tmp_path: Path) -> None:
    own = config(tmp_path, llama_server=tmp_path / "nothing")
    with pytest.raises(NoServer, match="adapterloop setup"):
        Server.start(own, tmp_path / "b.gguf", tmp_path, 1, [])


def test_its_variables_do_not_change_it_and_it_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_ARG_PORT", "9")
    program = tmp_path / "llama-server"
    program.write_text(
        f"#!{sys.executable}\nimport os, pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "pathlib.Path('seen').write_text(','.join(n for n in os.environ if 'LLAMA' in n))\n"
        "time.sleep(60)\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr("deploy.llamacpp.server.STOP_S", 0.2)
    server = Server.start(
        config(tmp_path, llama_server=program), tmp_path / "b.gguf", tmp_path, 1, ()
    )
    while not (tmp_path / "seen").exists():
        assert server.alive
    assert (tmp_path / "seen").read_text() == ""
    server.stop()
    assert not server.alive
    assert not server.busy
