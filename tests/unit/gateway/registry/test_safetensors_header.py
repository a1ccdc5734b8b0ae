"""The header's reader believes nothing that it has not checked."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.registry.safetensors_header import (
    MAX_HEADER_BYTES,
    BadSafetensors,
    TensorInfo,
    is_pickle,
    read_header,
)

from .adapter_files import safetensors


def write(folder: Path, content: bytes) -> Path:
    path = folder / "file.safetensors"
    path.write_bytes(content)
    return path


def headed(header: object, size: int = 0) -> bytes:
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + b"\0" * size


def one(**changes: object) -> dict[str, object]:
    return {"t": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


def test_gives_every_tensor(tmp_path: Path) -> None:
    content = safetensors({"a": ("F32", (2, 3)), "b": ("BF16", ()), "c": ("I64", (0, 4))})
    assert read_header(write(tmp_path, content)) == {
        "a": TensorInfo("F32", (2, 3)),
        "b": TensorInfo("BF16", ()),
        "c": TensorInfo("I64", (0, 4)),
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "too short"),
        (b"\x08\0\0", "too short"),
        (struct.pack("<Q", 2**63) + b"{}", "header length"),
        (struct.pack("<Q", 3) + b"{}", "header length"),
        (struct.pack("<Q", 2) + b"{]", "not JSON"),
        (struct.pack("<Q", 2) + b"\xff\xff", "not JSON"),
        (struct.pack("<Q", 200_000) + b"[" * 200_000, "not JSON"),
        (struct.pack("<Q", 6001) + b"1" * 6001, "not JSON"),
        (headed([1]), "not a JSON object"),
        (struct.pack("<Q", 15) + b'{"a": 1, "a":2}', "twice"),
        (headed({"t": 5}), "'t' is not described"),
        (headed(one(dtype="F31"), 8), "'t' has the unknown dtype 'F31'"),
        (headed(one(dtype=None), 8), "unknown dtype"),
        (headed(one(shape=[-2]), 8), "'t' has no valid shape"),
        (headed(one(shape=[True]), 8), "no valid shape"),
        (headed(one(shape=[1] * 9), 8), "no valid shape"),
        (headed(one(shape=[2**64]), 8), "no valid shape"),
        (headed(one(shape=2), 8), "no valid shape"),
        (headed(one(data_offsets=[8, 0]), 8), "no valid data_offsets"),
        (headed(one(data_offsets=[0]), 8), "no valid data_offsets"),
        (headed(one(shape=[3]), 8), "has 8 bytes in data_offsets"),
        (headed(one(data_offsets=[4, 12]), 12), "gap or overlap at byte 0"),
        (headed(one(), 7), "the tensors need 8 bytes, the file has 7"),
        (headed(one(), 9), "the tensors need 8 bytes, the file has 9"),
        (headed({**one(), "u": one()["t"]}, 8), "gap or overlap"),
    ],
)
def test_names_the_fault(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(BadSafetensors) as caught:
        read_header(write(tmp_path, content))
    assert message in str(caught.value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(data=st.data())
def test_any_damage_to_a_small_file_is_told_or_harmless(
    tmp_path: Path, data: st.DataObject
) -> None:
    content = bytearray(safetensors({"a": ("F32", (2,)), "b": ("F16", (2,))}))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    try:
        read_header(write(tmp_path, bytes(content[:cut])))
    except BadSafetensors:
        pass
    else:
        assert cut == len(content)


@pytest.mark.parametrize("start", [b"PK\x03\x04abcdefgh", b"\x80\x02}q\x00(X\x01\0", b"\x80\x04"])
def test_knows_pickles(tmp_path: Path, start: bytes) -> None:
    assert is_pickle(write(tmp_path, start))


def test_a_header_of_640_bytes_is_no_pickle(tmp_path: Path) -> None:
    raw = json.dumps(one()).encode().ljust(0x280)
    path = write(tmp_path, struct.pack("<Q", len(raw)) + raw + b"\0" * 8)
    assert path.read_bytes()[:2] == b"\x80\x02"
    assert not is_pickle(path)
    assert read_header(path) == {"t": TensorInfo("F32", (2,))}


def test_a_header_of_no_sensible_size_is_not_read(tmp_path: Path) -> None:
    """It is sound, but to read some of them at once would take the gateway's memory."""
    path = write(tmp_path, headed({"__metadata__": {"padding": "x" * MAX_HEADER_BYTES}}))
    with pytest.raises(BadSafetensors, match=f"and {MAX_HEADER_BYTES} are the most"):
        read_header(path)
