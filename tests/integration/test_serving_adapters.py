"""Adapters that cannot be served are refused with the fault named, and leave nothing behind."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.refusals_suite import assert_openai_error

from .adapters import HIDDEN, make_adapter
from .stack import Stack

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
Spoil = Callable[[Path], None]


def change_config(**changes: Any) -> Spoil:
    def spoil(folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps(config | changes))

    return spoil


def change_weights(change: Callable[[bytes], bytes]) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / WEIGHTS).write_bytes(change((folder / WEIGHTS).read_bytes()))

    return spoil


def only_pickle(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps({"a": 1}))


def linked(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder.parent / "elsewhere")
    (folder / WEIGHTS).symlink_to(folder.parent / "elsewhere")


def rename_module(data: bytes) -> bytes:
    return data.replace(b"self_attn.q_proj", b"self_attn.z_proj")


FAULTS: dict[str, tuple[Spoil, str]] = {
    "other base": (change_config(base_model_name_or_path="org/other-model"), "other-model"),
    "rank over": (change_config(r=64), "64"),
    "not lora": (change_config(peft_type="IA3"), "peft_type"),
    "broken config": (lambda f: (f / CONFIG).write_text('{"r": ') and None, CONFIG),
    "no config": (lambda f: (f / CONFIG).unlink(), CONFIG),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), WEIGHTS),
    "pickle": (only_pickle, "safetensors"),
    "pickle in disguise": (change_weights(lambda _: pickle.dumps({"a": [1] * 99})), "pickle"),
    "empty weights": (change_weights(lambda _: b""), WEIGHTS),
    "truncated": (change_weights(lambda data: data[:-100]), "corrupt"),
    "longer": (change_weights(lambda data: data + b"\0" * 100), "corrupt"),
    "header length": (change_weights(lambda data: struct.pack("<Q", 2**40) + data[8:]), "corrupt"),
    "header text": (change_weights(lambda data: data[:8] + b"x" + data[9:]), "corrupt"),
    "unknown module": (change_weights(rename_module), "z_proj"),
    "symlink": (linked, "link"),
}


def left_behind(stack: Stack) -> set[str]:
    return {str(path) for path in (stack.home / "storage").rglob("*")}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_named(stack: Stack, tmp_path: Path, name: str) -> None:
    spoil, word = FAULTS[name]
    folder = make_adapter(stack.home / "sources" / tmp_path.name, seed=99)
    spoil(folder)
    before = left_behind(stack)
    answer = stack.register("broken", folder)
    error = assert_openai_error(answer, 400, 413, 422)
    assert word in error["message"], error["message"]
    assert left_behind(stack) == before
    with stack.live.admin() as admin:
        assert admin.get("/admin/v1/adapters/broken").status_code == 404


def test_shapes_that_do_not_fit(stack: Stack, tmp_path: Path) -> None:
    folder = stack.home / "sources" / tmp_path.name
    make_adapter(folder, hidden=HIDDEN * 2)
    assert "shape" in assert_openai_error(stack.register("broken", folder), 400)["message"]


@pytest.mark.parametrize(
    "alias", ["..%2fup", "%2e%2e", "Upper", "a b", "-dash", "base", "x" * 64, "na%00me", "a@1"]
)
def test_names_that_are_none(stack: Stack, tmp_path: Path, alias: str) -> None:
    folder = make_adapter(stack.home / "sources" / tmp_path.name)
    before = left_behind(stack)
    assert_openai_error(stack.register(alias, folder), 400, 404)
    assert left_behind(stack) == before


@pytest.mark.parametrize(
    "path", ["/etc", "/", "../../etc", "", "relative", "{sources}/../storage", "{sources}/nothing",
             "\x00", "{home}/keys"],
)  # fmt: skip
def test_paths_outside_the_roots(stack: Stack, path: str) -> None:
    sources = stack.home / "sources"
    asked = path.replace("{sources}", str(sources)).replace("{home}", str(stack.home))
    with stack.live.admin() as admin:
        answer = admin.post("/admin/v1/adapters/broken/versions", json={"path": asked})
    assert_openai_error(answer, 400, 403, 404)


@pytest.mark.parametrize("name", ["../../escape.safetensors", "/tmp/escape", "model.py", "x.pt"])
def test_uploads_with_odd_names(stack: Stack, tmp_path: Path, name: str) -> None:
    folder = make_adapter(tmp_path / "adapter")
    files = [
        ("files", (CONFIG, (folder / CONFIG).read_bytes())),
        ("files", (name, (folder / WEIGHTS).read_bytes())),
    ]
    before = left_behind(stack)
    with stack.live.admin() as admin:
        answer = admin.post("/admin/v1/adapters/broken/versions", files=files)
    assert_openai_error(answer, 400, 422)
    assert left_behind(stack) == before
    assert not Path("/tmp/escape").exists()


def test_upload_and_the_same_bytes_again(stack: Stack, tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "adapter", seed=41)
    files = [("files", (n, (folder / n).read_bytes())) for n in (CONFIG, WEIGHTS)]
    with stack.live.admin() as admin:
        first = admin.post("/admin/v1/adapters/uploaded/versions", files=files)
        assert first.status_code == 201, first.text
        made = first.json()
        assert made["alias"] == "uploaded"
        assert made["version"] == 1
        assert len(made["sha256"]) == 64
        again = admin.post("/admin/v1/adapters/uploaded/versions", files=files)
        assert again.status_code == 200
        assert again.json()["version"] == 1
