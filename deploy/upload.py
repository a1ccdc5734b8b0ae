"""Sends a version's files to the gateway, and checks that it kept what was sent."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from deploy.api import AdminApi, ApiError
from deploy.progress import Progress
from gateway.registry.receiving import MAX_BYTES, TAKEN, digest_of, taken

ANSWER_S = 600.0  # the gateway may have to bring the files to another place before it answers
_QUIET_S = 1.0
_MB = 1_000_000


class _Watched(io.FileIO):
    """A file that is hashed and counted while it is read."""

    def __init__(self, path: Path, tell: Callable[[int], None]) -> None:
        super().__init__(path)
        self.sha256 = hashlib.sha256()
        self._tell = tell

    def read(self, size: int | None = -1, /) -> bytes:
        piece = super().read(size) or b""
        self.sha256.update(piece)
        self._tell(len(piece))
        return piece


def upload_adapter(api: AdminApi, alias: str, folder: Path, progress: Progress) -> Any:
    """Register what lies in a folder as the alias's next version; give the gateway's answer.

    Raises ApiError, also where the gateway kept other bytes than were sent.
    """
    paths = {name: folder / name for name in taken(entry.name for entry in folder.iterdir())}
    if not paths:
        raise ApiError(f"{folder} holds none of {', '.join(TAKEN)}, and no model")
    whole = sum(path.stat().st_size for path in paths.values())
    if whole > MAX_BYTES:
        raise ApiError(
            f"{folder} holds {whole / _MB:.0f} MB, and {MAX_BYTES / _MB:.0f} are the most that is"
            " sent: put it on the gateway's machine under `import_roots`, and add --by-path"
        )
    began, sent = time.monotonic(), 0

    def tell(size: int) -> None:
        nonlocal sent
        sent += size
        if time.monotonic() - began > _QUIET_S:
            share = sent / max(whole, 1)
            progress.ticking(f"sending {sent / _MB:.0f} of {whole / _MB:.0f} MB ({share:.0%})")

    with ExitStack() as opened:
        files = {name: opened.enter_context(_Watched(path, tell)) for name, path in paths.items()}
        parts = [("files", (name, file)) for name, file in files.items()]
        answer = api.post(f"/adapters/{alias}/versions", files=parts, timeout=ANSWER_S)
        digest = digest_of({name: file.sha256.hexdigest() for name, file in files.items()})
    progress.clear()
    if answer["sha256"] != digest:
        raise ApiError(
            f"{alias}@{answer['version']} is not what was sent: the gateway kept"
            f" {answer['sha256']}, and {digest} was sent. Retire it, and look at what lies between"
        )
    return answer
