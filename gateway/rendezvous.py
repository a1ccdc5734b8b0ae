"""Rendezvous hashing (Thaler and Ravishankar 1998): for a key, every worker has a weight.

Whoever takes the heaviest worker takes the same one in every process, and a worker that joins or
leaves changes the choice only for the keys that it wins or had won.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b

_64_BITS = (1 << 64) - 1


def number(key: str) -> int:
    """Give 64 bits for a key, the same in every process."""
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big")


worker_number = lru_cache(maxsize=4096)(number)


def weight(key: int, worker: str) -> int:
    """Give the weight of a worker for a key's `number`."""
    # Every bit must depend on every bit: SplitMix64's last step (Steele et al. 2014).
    mixed = key ^ worker_number(worker)
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _64_BITS
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _64_BITS
    return mixed ^ (mixed >> 31)
