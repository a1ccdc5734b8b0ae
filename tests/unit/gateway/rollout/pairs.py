"""Pairs of a shadow to put into a store."""

from __future__ import annotations

import itertools
from typing import Any

from sqlalchemy import Engine, insert

from feedback.db import writing
from feedback.tables import SHADOW_PAIRS

_FAULTS = ("failed", "blocked")
_numbers = itertools.count(1)


def put_pairs(engine: Engine, candidate: int, stable: int, times: int = 1, **changes: Any) -> None:
    """Put equal pairs of `support` into a store, each of a user of its own, unless changed."""
    same = {f"{role}_{name}": False for role in ("stable", "candidate") for name in _FAULTS}
    with writing(engine) as connection:
        for _ in range(times):
            number = next(_numbers)
            values = {
                "id": f"chatcmpl-{number:048x}",
                "tenant": "default",
                "alias": "support",
                "stable_id": stable,
                "candidate_id": candidate,
                "started": 4e9 + number,
                "stable_seconds": 1.0 + number % 7 / 100,
                "candidate_seconds": 1.0 + number % 5 / 100,
                "stable_mean": -0.5,
                "candidate_mean": -0.25,
                "same_text": number % 2 == 0,
                **same,
                **changes,
            }
            connection.execute(insert(SHADOW_PAIRS).values(**values))
