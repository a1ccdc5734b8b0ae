"""Uses wait until the registry has been told of them."""

from __future__ import annotations

import pytest

from gateway.serving.uses import Uses


def test_the_latest_use_is_told_once() -> None:
    now = 100.0
    uses = Uses(lambda: now)
    uses.note(1)
    now = 104.0
    uses.note(1)
    uses.note(2)
    now = 105.0
    with uses.telling() as told:
        assert told == {1: 1.0, 2: 1.0}
    with uses.telling() as told:
        assert told == {}


def test_what_could_not_be_told_is_told_later_with_what_came_meanwhile() -> None:
    now = 100.0
    uses = Uses(lambda: now)
    uses.note(1)
    uses.note(2)
    now = 101.0

    def tell() -> None:
        with uses.telling():
            uses.note(2)
            raise OSError("away")

    with pytest.raises(OSError, match="away"):
        tell()
    now = 110.0
    with uses.telling() as told:
        assert told == {1: 10.0, 2: 9.0}
