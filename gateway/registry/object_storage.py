"""Adapter files in a bucket of an S3-compatible service.

Credentials, region and endpoint are the library's business: it reads the usual AWS_* variables.
"""

from __future__ import annotations

import logging
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from gateway.registry.errors import StorageUnavailable
from gateway.registry.receiving import (
    LISTING,
    MAX_BYTES,
    Draft,
    Source,
    receive,
    sweep_received,
)
from gateway.registry.storage import key_of

if TYPE_CHECKING:
    from obstore import ObjectMeta

logger = logging.getLogger(__name__)

_STALE = timedelta(days=1)
_SPOOL = Path(tempfile.gettempdir())


class ObjectStorage:
    """Adapter files in a bucket; gateways share it, and workers fetch from it.

    No object is ever changed: one that is written twice gets the same bytes.
    """

    def __init__(self, url: str, max_bytes: int = MAX_BYTES) -> None:
        """Take `s3://bucket/prefix` and the bound on one adapter's size."""
        self._url = url.rstrip("/")
        self._bucket = self._url.removeprefix("s3://").partition("/")[0]
        self._max_bytes = max_bytes
        self._store = S3Store.from_url(
            self._url,
            # Whether the endpoint is http:// is said where the endpoint is said.
            client_options={"allow_http": True, "connect_timeout": "5s"},
            retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=30)},
        )

    def receive(self, source: Source) -> AbstractContextManager[Draft]:
        # The spool is this machine's own, so nobody else can sweep it.
        sweep_received(_SPOOL)
        return receive(source, _SPOOL, self._max_bytes)

    def keep(self, draft: Draft) -> tuple[str, bool]:
        """Upload what is not there in its size, the listing last."""
        key = key_of(draft.sha256)
        with self._reaching():
            there = self._there(key)
            for name, file in draft.files.items():
                if there.get(name) != file.size:
                    obstore.put(self._store, f"{key}/{name}", draft.folder / name)
            if there.get(LISTING) != len(draft.listing):
                obstore.put(self._store, f"{key}/{LISTING}", draft.listing)
        return key, LISTING not in there

    def holds(self, key: str) -> bool:
        with self._reaching():
            try:
                obstore.head(self._store, f"{key}/{LISTING}")
            except FileNotFoundError:
                return False
        return True

    def _there(self, key: str) -> Mapping[str, int]:
        """Give the sizes of the objects under `key` that can be relied on to stay."""
        found = {_name(meta): meta for meta in self._list(f"{key}/")}
        if LISTING not in found:
            # Left by an upload that broke off, and perhaps about to be swept.
            young = datetime.now(UTC) - _STALE / 2
            found = {name: meta for name, meta in found.items() if meta["last_modified"] > young}
        return {name: meta["size"] for name, meta in found.items()}

    def read(self, key: str, name: str) -> Iterator[bytes]:
        with self._reaching():
            found = obstore.get(self._store, f"{key}/{name}")
        return map(bytes, found.stream())

    def locate(self, key: str) -> str:
        return f"{self._url}/{key}"

    def discard(self, key: str) -> None:
        """Delete the listing, then the rest."""
        try:
            with self._reaching():
                obstore.delete(self._store, f"{key}/{LISTING}")
                obstore.delete(self._store, [meta["path"] for meta in self._list(f"{key}/")])
        except StorageUnavailable as error:
            logger.warning("%s stays, though no version has it: %s", key, error.message)

    def sweep(self) -> None:
        """Delete uploads without a listing to which nothing was added for a day.

        Parts of an object that never became one are the bucket's lifecycle rule's to delete.
        """
        with self._reaching():
            uploads: defaultdict[str, list[ObjectMeta]] = defaultdict(list)
            for meta in self._list("adapters/"):
                uploads[meta["path"].rpartition("/")[0]].append(meta)
            old = datetime.now(UTC) - _STALE
            for metas in uploads.values():
                whole = any(_name(meta) == LISTING for meta in metas)
                if not whole and max(meta["last_modified"] for meta in metas) < old:
                    obstore.delete(self._store, [meta["path"] for meta in metas])

    def _list(self, prefix: str) -> Iterator[ObjectMeta]:
        for batch in obstore.list(self._store, prefix):
            yield from batch

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """Say in words what keeps the bucket from being used."""
        try:
            yield
        except (BaseError, OSError) as error:
            raise StorageUnavailable(_trouble(self._bucket, error)) from error


def _name(meta: ObjectMeta) -> str:
    return meta["path"].rpartition("/")[2]


def _trouble(bucket: str, error: Exception) -> str:
    said = str(error)
    if "NoSuchBucket" in said:
        return (
            f"The bucket {bucket!r} does not exist: set `storage` to one that does, and"
            " AWS_ENDPOINT_URL where it is not AWS's."
        )
    if isinstance(error, PermissionDeniedError | UnauthenticatedError) or "403 " in said:
        return (
            f"The bucket {bucket!r} may not be used: set AWS_ACCESS_KEY_ID and"
            f" AWS_SECRET_ACCESS_KEY, or give this machine's role access. {_first_line(said)}"
        )
    return (
        f"The bucket {bucket!r} cannot be reached: look at AWS_ENDPOINT_URL and AWS_REGION,"
        f" and whether the service is up. {_first_line(said)}"
    )


def _first_line(text: str) -> str:
    return (text.splitlines() or [""])[0][:300]
