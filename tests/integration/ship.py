"""Records without end, telling what it has been given, until it is killed; ships as a gateway does.

python -m tests.integration.ship SETTINGS ROUND RECORDS

SETTINGS is a file with `GatewaySettings`. The first line tells the id of the shipping process.
With RECORDS 0 what is left is shipped, and then it ends.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import msgspec

from feedback.outbox import Outbox
from gateway.scrubbing import make_seal
from gateway.settings import GatewaySettings
from gateway.shipping import Shipping
from tests.unit.feedback.conftest import a_capture, a_use, some_feedback

SECRET = bytes(32)


async def main(settings: GatewaySettings, round_: int, records: int) -> None:
    """Put and ship at the same time."""
    folder = settings.outbox
    outbox = Outbox.open(folder, f"gateway-{round_ % 2}")
    seal = make_seal(SECRET)
    shipping = Shipping(settings)
    keeping = asyncio.create_task(shipping.run(SECRET, outbox.file))
    while shipping.pid is None:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    sys.stdout.write(f"pid {shipping.pid}\n")
    for at in range(records):
        number = round_ * 1_000_000 + at
        capture = a_capture(number)
        outbox.put(capture.id, seal.seal(msgspec.json.encode(capture)))
        sys.stdout.write(f"c {capture.id}\n")
        if at % 3 == 0:
            use = a_use(number, alias="triage")
            outbox.put(use.id, seal.seal(msgspec.json.encode(use)))
            sys.stdout.write(f"u {use.id}\n")
        if at % 5 == 0:
            said = some_feedback(number, number)
            sealed = seal.seal(msgspec.json.encode(said))
            await asyncio.to_thread(outbox.put_now, said.id, sealed)
            sys.stdout.write(f"f {said.id}\n")
        sys.stdout.flush()
        await asyncio.sleep(0.004)
    async with asyncio.timeout(90):
        while outbox.waiting or list(folder.glob("*.db")) != [outbox.file.path]:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    keeping.cancel()
    await asyncio.to_thread(outbox.close)
    await shipping.close()


if __name__ == "__main__":
    told = GatewaySettings.model_validate_json(Path(sys.argv[1]).read_bytes())
    asyncio.run(main(told, int(sys.argv[2]), int(sys.argv[3])))
