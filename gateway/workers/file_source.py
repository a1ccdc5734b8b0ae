"""Workers that a file lists, for whoever starts and stops them on the same machine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from pathlib import Path

from gateway.workers.errors import LookupFailed


class FileList:
    """One worker for each `host:port` of a JSON list; it is read anew at each look.

    A file does not blink as a name server does: what it no longer lists is gone. Where it cannot be
    read, nothing is known.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    async def find(self) -> frozenset[tuple[str, int]]:
        """Read the file. Raises `LookupFailed`."""
        return await asyncio.to_thread(read_list, self._path)


def read_list(path: Path) -> frozenset[tuple[str, int]]:
    """Give the addresses and ports that a file lists. Raises `LookupFailed`."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(entries, list):
            raise ValueError('holds no list such as ["127.0.0.1:8001"]')
        return frozenset(_address(entry) for entry in entries)
    except (OSError, ValueError) as error:
        raise LookupFailed(f"{path}: {error}") from error


def write_list(path: Path, addresses: Iterable[tuple[str, int]]) -> None:
    """Write the file anew, by a rename: a reader sees all of the old list or of the new one."""
    entries = [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in addresses]
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(json.dumps(entries), encoding="utf-8")
    draft.replace(path)


def _address(entry: object) -> tuple[str, int]:
    host, colon, port = str(entry).rpartition(":")
    if not (isinstance(entry, str) and colon and host and port.isdigit()):
        raise ValueError(f"{entry!r} is not of the form host:port")
    return host.strip("[]"), int(port)
