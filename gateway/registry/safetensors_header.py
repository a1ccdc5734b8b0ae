"""Reads a safetensors file's header, and trusts nothing in it.

Format: an unsigned little-endian 64-bit length, a JSON object of that many bytes, then the tensors'
bytes (https://huggingface.co/docs/safetensors). Each entry gives dtype, shape and the offsets of
its bytes, which together must cover the rest of the file without gap or overlap.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

MAX_HEADER_BYTES = 16 * 1024 * 1024
"""Three times what the adapter of a large mixture of experts has: reading it takes the gateway's
interpreter, and thirty times its size in memory."""
_MAX_DIMENSIONS = 8

_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "F8_E8M0": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip


class BadSafetensors(ValueError):
    """The file is no sound safetensors file; the message says where."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor's element type, as safetensors names it, and its shape."""

    dtype: str
    shape: tuple[int, ...]


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Give the tensors of a file by name. Raises `BadSafetensors`; reads no tensor."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(8)
        if len(start) < 8:
            raise BadSafetensors("the file is too short to hold a header length")
        (length,) = struct.unpack("<Q", start)
        if MAX_HEADER_BYTES < length <= size - 8:
            raise BadSafetensors(
                f"the header has {length} bytes, and {MAX_HEADER_BYTES} are the most that is read"
            )
        if length > size - 8:
            raise BadSafetensors(
                f"the header length says {length} bytes, the file has {size - 8} after it"
            )
        raw = stream.read(length)
    tensors = _parse(raw)
    _check_cover(tensors, size - 8 - length)
    return {name: info for name, (info, _) in tensors.items()}


def is_pickle(path: Path) -> bool:
    """Whether the file is a pickle or PyTorch's zip of pickles, by its first bytes."""
    with path.open("rb") as stream:
        start = stream.read(9)
    # A safetensors header of 640 bytes begins with the bytes of a pickle, but then comes its JSON.
    if start[8:9] == b"{":
        return False
    return start[:4] == b"PK\x03\x04" or (start[:1] == b"\x80" and start[1:2] in b"\2\3\4\5")


_Tensors = dict[str, tuple[TensorInfo, tuple[int, int]]]


def _parse(raw: bytes) -> _Tensors:
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_no_twins)
    except BadSafetensors:
        raise
    except (ValueError, RecursionError) as error:
        raise BadSafetensors("the header is not JSON") from error
    if not isinstance(header, dict):
        raise BadSafetensors("the header is not a JSON object")
    return {name: _entry(name, value) for name, value in header.items() if name != "__metadata__"}


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise BadSafetensors("the header names something twice")
    return found


def _entry(name: str, value: object) -> tuple[TensorInfo, tuple[int, int]]:
    where = f"tensor {name[:120]!r}"
    if not isinstance(value, Mapping):
        raise BadSafetensors(f"{where} is not described by an object")
    dtype = value.get("dtype")
    shape, offsets = _naturals(value.get("shape")), _naturals(value.get("data_offsets"))
    if not isinstance(dtype, str) or dtype not in _BYTES:
        raise BadSafetensors(f"{where} has the unknown dtype {str(dtype)[:20]!r}")
    if shape is None:
        raise BadSafetensors(f"{where} has no valid shape")
    if offsets is None or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise BadSafetensors(f"{where} has no valid data_offsets")
    begin, end = offsets
    if end - begin != prod(shape) * _BYTES[dtype]:
        raise BadSafetensors(
            f"{where} has {end - begin} bytes in data_offsets, "
            f"but shape {list(shape)} of {dtype} needs {prod(shape) * _BYTES[dtype]}"
        )
    return TensorInfo(dtype, shape), (begin, end)


def _naturals(value: object) -> tuple[int, ...] | None:
    if not isinstance(value, list) or len(value) > _MAX_DIMENSIONS:
        return None
    numbers = tuple(item for item in value if type(item) is int and 0 <= item < 2**63)
    return numbers if len(numbers) == len(value) else None


def _check_cover(tensors: _Tensors, size: int) -> None:
    at = 0
    for begin, end in sorted(span for _, span in tensors.values()):
        if begin != at:
            raise BadSafetensors(f"data_offsets leave a gap or overlap at byte {min(at, begin)}")
        at = end
    if at != size:
        raise BadSafetensors(
            f"the tensors need {at} bytes, the file has {size}: it is cut or padded"
        )
