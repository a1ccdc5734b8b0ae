"""Records and ships without end, telling what it has been given, until it is killed.

python -m tests.integration.ship DATABASE_URL OUTBOX_FOLDER ROUND RECORDS

With RECORDS 0 it ships what is left and ends.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from feedback.db import make_engine
from feedback.outbox import Outbox
from feedback.scrub import Scrubber, Span
from feedback.sealing import Seal
from feedback.settings import FeedbackSettings
from feedback.shipper import Shipper
from feedback.store import FeedbackStore
from tests.unit.feedback.conftest import a_capture, some_feedback

KEY = bytes(32)


class Nobody:
    """Finds nothing."""

    version = "none"

    async def find(self, texts: Sequence[str], alias: str) -> list[list[Span]]:
        return [[] for _ in texts]


async def main(url: str, folder: str, round_: int, records: int) -> None:
    """Put and ship at the same time."""
    outbox = Outbox.open(Path(folder), f"gateway-{round_ % 2}")
    store = FeedbackStore(make_engine(url), FeedbackSettings())
    seal = Seal(KEY)
    shipper = Shipper(outbox, store, Scrubber(Nobody(), KEY), seal)
    async with asyncio.TaskGroup() as group:
        group.create_task(shipper.run())
        for at in range(records):
            number = round_ * 1_000_000 + at
            capture = a_capture(number)
            outbox.put(capture.id, seal.seal(msgspec.json.encode(capture)))
            sys.stdout.write(f"c {capture.id}\n")
            if at % 5 == 0:
                said = some_feedback(number, number)
                sealed = seal.seal(msgspec.json.encode(said))
                await asyncio.to_thread(outbox.put_now, said.id, sealed)
                sys.stdout.write(f"f {said.id}\n")
            sys.stdout.flush()
            await asyncio.sleep(0.004)
        if not records:
            async with asyncio.timeout(60):
                while outbox.waiting or list(Path(folder).glob("*.db")) != [outbox.file.path]:  # noqa: ASYNC110, ASYNC240
                    await asyncio.sleep(0.05)
        shipper.stop()
    outbox.close()
    store.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
