"""Records are encrypted while they wait on this machine: their text is not scrubbed yet."""

from __future__ import annotations

import itertools
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NONCE = 12
_COUNTER = 5


class Unsealable(Exception):
    """A record was sealed with another key, or is damaged."""


class Seal:
    """Encrypts records with AES-GCM; `key` has 32 bytes. The nonce stands in front."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)
        # Asking the kernel for each nonce costs more than the encryption. A random start and a
        # counter never repeat: 7 random bytes a process, then 2^40 records.
        self._start = os.urandom(_NONCE - _COUNTER)
        self._count = itertools.count()

    def seal(self, plain: bytes) -> bytes:
        """Encrypt a record."""
        nonce = self._start + next(self._count).to_bytes(_COUNTER, "big")
        return nonce + self._cipher.encrypt(nonce, plain, None)

    def unseal(self, sealed: bytes) -> bytes:
        """Undo `seal`. Raises `Unsealable`."""
        try:
            return self._cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], None)
        except (InvalidTag, ValueError) as error:
            raise Unsealable("sealed with another key, or damaged") from error
