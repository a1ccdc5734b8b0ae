"""Workers that a file lists, for whoever starts and stops them on the same machine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

from gateway.workers.errors import LookupFailed

Address: TypeAlias = tuple[str, int]
LeftOut: TypeAlias = Mapping[str, str]
"""Why a worker was started without adapters, by their names on workers."""
NOTHING: LeftOut = MappingProxyType({})


class FileList:
    """One worker for each entry of a JSON list; it is read anew at each look.

    A file does not blink as a name server does: what it no longer lists is gone. Where it cannot be
    read, nothing is known.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._listed: Mapping[Address, LeftOut] = {}

    async def find(self) -> frozenset[Address]:
        """Read the file. Raises `LookupFailed`."""
        self._listed = await asyncio.to_thread(read_list, self._path)
        return frozenset(self._listed)

    def left_out(self, address: Address) -> LeftOut:
        """Tell what the file said of a worker when it was read last."""
        return self._listed.get(address, NOTHING)


def read_list(path: Path) -> dict[Address, LeftOut]:
    """Give the workers that a file lists, and what each runs without. Raises `LookupFailed`."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(entries, list):
            raise ValueError('holds no list such as ["127.0.0.1:8001"]')
        return dict(_entry(entry) for entry in entries)
    except (OSError, ValueError) as error:
        raise LookupFailed(f"{path}: {error}") from error


def write_list(path: Path, workers: Mapping[Address, LeftOut]) -> None:
    """Write the file anew, by a rename: a reader sees all of the old list or of the new one."""
    entries: list[object] = []
    for (host, port), left_out in workers.items():
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        more = {"address": address, "left_out": dict(left_out)}
        entries.append(more if left_out else address)
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(json.dumps(entries), encoding="utf-8")
    draft.replace(path)


def _entry(entry: object) -> tuple[Address, LeftOut]:
    """Read `"host:port"`, or `{"address": "host:port", "left_out": {"name": "why"}}`."""
    if not isinstance(entry, dict):
        return _address(entry), NOTHING
    left_out = entry.get("left_out", {})
    if not isinstance(left_out, dict) or not all(isinstance(why, str) for why in left_out.values()):
        raise ValueError("left_out is no object of names and reasons")
    return _address(entry.get("address")), left_out


def _address(entry: object) -> Address:
    host, colon, port = str(entry).rpartition(":")
    if not (isinstance(entry, str) and colon and host and port.isdigit()):
        raise ValueError(f"{entry!r} is not of the form host:port")
    return host.strip("[]"), int(port)
