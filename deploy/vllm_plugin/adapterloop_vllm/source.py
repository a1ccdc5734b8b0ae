"""The registry's storage as a worker reads it: nothing is taken that its digest does not vouch for.

adapters/<sha256>/files.json holds each file's digest and size, and <sha256> is the digest of those.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Protocol

LISTING = "files.json"
_CHUNK = 16 * 1024 * 1024
_MAX_LISTING_BYTES = 64 * 1024


class AdapterUnavailable(Exception):
    """The adapter cannot be fetched now; another try may do."""


class AdapterDamaged(Exception):
    """What lies in the storage is not what its digest says."""


class Source(Protocol):
    """Files by their path in the storage."""

    def read(self, path: str) -> Iterator[bytes]:
        """Give a file's content piece by piece. Raises `AdapterUnavailable`."""
        ...


def open_source(location: str) -> Source:
    """Open a folder or `s3://bucket/prefix`. Raises `AdapterUnavailable`."""
    if location.startswith("s3://"):
        return BucketSource(location)
    if not location or "://" in location:
        raise AdapterUnavailable(
            "ADAPTERLOOP_STORAGE must name the gateway's storage:"
            f" a folder or s3://bucket/prefix, not {location!r}."
        )
    return FolderSource(Path(location))


class FolderSource:
    """A folder, which may be another machine's."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, path: str) -> Iterator[bytes]:
        """Read a file."""
        try:
            with (self._root / path).open("rb") as stream:
                while piece := stream.read(_CHUNK):
                    yield piece
        except OSError as error:
            raise AdapterUnavailable(
                f"{self._root / path} cannot be read ({error.strerror}): ADAPTERLOOP_STORAGE must"
                " name the gateway's storage."
            ) from error


class BucketSource:
    """A bucket of an S3-compatible service; credentials and endpoint come from AWS_* variables."""

    def __init__(self, url: str) -> None:
        try:
            from obstore.store import S3Store
        except ImportError as error:
            raise AdapterUnavailable(
                "s3:// needs obstore in this worker's environment: pip install obstore"
            ) from error
        self._url = url.rstrip("/")
        self._store = S3Store.from_url(
            self._url,
            # Whether the endpoint is http:// is said where the endpoint is said.
            client_options={"allow_http": True, "connect_timeout": "5s"},
            retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=30)},
        )

    def read(self, path: str) -> Iterator[bytes]:
        """Read an object in ranges, each a request that is tried again by itself."""
        import obstore
        from obstore.exceptions import BaseError

        try:
            size = obstore.head(self._store, path)["size"]
            for start in range(0, size, _CHUNK):
                end = min(start + _CHUNK, size)
                yield bytes(obstore.get_range(self._store, path, start=start, end=end))
        except (BaseError, OSError) as error:
            said = (str(error).splitlines() or [""])[0][:300]
            raise AdapterUnavailable(
                f"{self._url}/{path} cannot be read: look at ADAPTERLOOP_STORAGE and the AWS_*"
                f" variables of this worker. {said}"
            ) from error


def take(source: Source, sha256: str, target: Path | None = None) -> int:
    """Check all files of an adapter, and copy them into the folder `target` where one is given.

    Gives their size in bytes. Raises `AdapterUnavailable`, and `AdapterDamaged`, which names the
    file; what lies in `target` is of no use then.
    """
    at = f"adapters/{sha256}"
    listing = _read_listing(source, f"{at}/{LISTING}")
    files = _parse(listing, sha256)
    for name, (digest, size) in files.items():
        _take_file(source, f"{at}/{name}", digest, size, target and target / name)
    if target is not None:
        _write(target / LISTING, iter([listing]))
    return sum(size for _, size in files.values())


def _read_listing(source: Source, path: str) -> bytes:
    listing = b""
    for piece in source.read(path):
        listing += piece
        if len(listing) > _MAX_LISTING_BYTES:
            raise AdapterDamaged(f"{path} is larger than {_MAX_LISTING_BYTES} bytes.")
    return listing


def _parse(listing: bytes, sha256: str) -> dict[str, tuple[str, int]]:
    """Give digest and size of each file; the names are the gateway's, or the digest differs."""
    try:
        files = {
            str(name): (str(file["sha256"]), int(file["size"]))
            for name, file in json.loads(listing).items()
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise AdapterDamaged(f"adapters/{sha256}/{LISTING} cannot be read.") from error
    whole = hashlib.sha256()
    for name in sorted(files):
        whole.update(f"{name}\0{files[name][0]}\n".encode())
    if whole.hexdigest() != sha256:
        raise AdapterDamaged(f"adapters/{sha256}/{LISTING} does not belong there: another digest.")
    return files


def _take_file(source: Source, path: str, digest: str, size: int, target: Path | None) -> None:
    pieces = _checked(source.read(path), path, digest, size)
    if target is not None:
        _write(target, pieces)
    else:
        for _ in pieces:
            pass


def _checked(pieces: Iterator[bytes], path: str, digest: str, size: int) -> Iterator[bytes]:
    """Pass pieces on; ends in `AdapterDamaged` where size or digest differ from what was said."""
    found, got = hashlib.sha256(), 0
    for piece in pieces:
        found.update(piece)
        got += len(piece)
        if got > size:
            break
        yield piece
    if got != size:
        raise AdapterDamaged(f"{path} has {'more' if got > size else 'fewer'} than {size} bytes.")
    if found.hexdigest() != digest:
        raise AdapterDamaged(f"{path} has the digest {found.hexdigest()}, not {digest}.")


def _write(path: Path, pieces: Iterator[bytes]) -> None:
    try:
        with path.open("xb") as stream:
            for piece in pieces:
                stream.write(piece)
    except OSError as error:
        raise AdapterUnavailable(f"{path} cannot be written: {error.strerror}.") from error
