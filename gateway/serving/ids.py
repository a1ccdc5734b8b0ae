"""Ids of answers: minted here, with a MAC over the tenant and the version that answered.

Layout of the hexadecimal part, 24 bytes: milliseconds since the epoch (6), random (6), the
version's registry id (4), and a keyed BLAKE2b over tenant and these (8).
"""

from __future__ import annotations

import hashlib
import hmac
import random
import time

_MAC_BYTES = 8
_LENGTH = 48


def _mac(secret: bytes, tenant: str, payload: bytes) -> bytes:
    return hashlib.blake2b(
        tenant.encode() + b"\0" + payload, key=secret, digest_size=_MAC_BYTES
    ).digest()


def mint(prefix: str, secret: bytes, tenant: str, version_id: int) -> str:
    """Make a response id such as `chatcmpl-<48 hex digits>`; `secret` has at most 64 bytes."""
    # The MAC is what proves; the random part only keeps ids apart.
    number = (int(time.time() * 1000) << 80) | (random.getrandbits(48) << 32) | version_id
    payload = number.to_bytes(16, "big")
    return prefix + (payload + _mac(secret, tenant, payload)).hex()


def cache_salt(secret: bytes, tenant: str) -> str:
    """Give what keeps a tenant's prompts apart in a worker's prefix cache, in hexadecimal.

    Else another tenant could tell from times, and from the cached tokens in the usage, what was
    asked before.
    """
    return hashlib.blake2b(
        tenant.encode(), key=secret, digest_size=16, person=b"prefix cache"
    ).hexdigest()


def minted_at(response_id: str) -> float:
    """Give the time, in seconds since the epoch, of an id that `version_of` has proved."""
    return int(response_id[-_LENGTH : -_LENGTH + 12], 16) / 1000


def version_of(response_id: str, secret: bytes, tenant: str) -> int | None:
    """Give the registry id of the version that answered, or None if the id is not this tenant's."""
    try:
        raw = bytes.fromhex(response_id[-_LENGTH:])
    except ValueError:
        return None
    if len(raw) * 2 != _LENGTH:
        return None
    payload, mac = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
    if not hmac.compare_digest(mac, _mac(secret, tenant, payload)):
        return None
    return int.from_bytes(payload[12:16], "big")
