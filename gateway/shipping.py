"""The shipping process: carries a gateway's records to the store, outside the serving process.

    python -m gateway.shipping

A gateway starts it and writes one line, an `Errand`, to its standard input. The end of that input
is the order to ship what is left and end: a gateway that ends gives it, and one that is killed
gives it too. So no signal is needed, and those that a whole process group gets are left to the
gateway, which still writes its last records then.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from contextlib import AsyncExitStack, suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from feedback.db import make_engine
from feedback.outbox_file import OutboxFile
from feedback.shipper import Shipper
from feedback.store import FeedbackStore
from gateway.policies import keep_fresh
from gateway.scrubbing import make_scrubber, make_seal
from gateway.settings import GatewaySettings
from guardrails.client import JudgeClient
from guardrails.policy_book import PolicyBook

logger = logging.getLogger(__name__)

_FIRST_BACKOFF = 0.1
_MAX_BACKOFF = 5.0
_STEADY = 10.0
"""Seconds after which a process counts as having run well."""
_END = 15.0
"""Seconds to end in: shipping what is left takes ten at most."""
_LINE = 1024 * 1024


class Errand(BaseModel):
    """What the process is told; `lock` is the inherited descriptor of the outbox's lock."""

    model_config = ConfigDict(frozen=True)

    settings: GatewaySettings
    secret: str
    outbox: Path
    lock: int


class Shipping:
    """Keeps a shipping process for one outbox, whatever ends it."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._process: Process | None = None

    @property
    def pid(self) -> int | None:
        """The process's id, None before its first start."""
        return None if self._process is None else self._process.pid

    async def run(self, secret: bytes, file: OutboxFile) -> None:
        """Start it, and again when it dies, until cancelled; then it still runs."""
        errand = Errand(
            settings=self._settings, secret=secret.hex(), outbox=file.path, lock=file.lock
        )
        line = errand.model_dump_json().encode() + b"\n"
        loop = asyncio.get_running_loop()
        backoff = _FIRST_BACKOFF
        while True:
            started = loop.time()
            try:
                code = await self._once(line, file.lock)
                logger.error("the shipping process has ended with %d and is started again", code)
            except OSError as error:
                logger.error("the shipping process cannot be started: %s", error)
            if loop.time() > started + _STEADY:
                backoff = _FIRST_BACKOFF
            await asyncio.sleep(backoff)
            backoff = min(_MAX_BACKOFF, backoff * 2)

    async def close(self) -> None:
        """Let it ship what is left, and wait for its end. Comes after the outbox is closed."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        assert process.stdin is not None  # noqa: S101 (it was asked for)
        process.stdin.close()
        try:
            async with asyncio.timeout(_END):
                await process.wait()
        except TimeoutError:
            logger.error("the shipping process does not end and is killed")
            process.kill()
            await process.wait()

    async def _once(self, line: bytes, lock: int) -> int:
        # Its standard output is never written to, and must not keep a reader of ours waiting.
        self._process = process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway.shipping"),
            stdin=PIPE,
            stdout=DEVNULL,
            pass_fds=(lock,),
        )
        assert process.stdin is not None  # noqa: S101
        with suppress(ConnectionError):  # it has died already
            process.stdin.write(line)
            await process.stdin.drain()
        return await process.wait()


async def main() -> None:
    """Ship for the gateway that started this process, until that ends."""
    reader = asyncio.StreamReader(limit=_LINE)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    line = await reader.readline()
    if not line.endswith(b"\n"):
        return
    errand = Errand.model_validate_json(line)
    async with AsyncExitStack() as stack:
        file = OutboxFile(errand.outbox, errand.lock)
        stack.callback(file.close)
        judge = JudgeClient(errand.settings.guard_socket)
        stack.push_async_callback(judge.close)
        store = FeedbackStore(make_engine(errand.settings.database_url), errand.settings.feedback)
        stack.callback(store.close)
        policies = PolicyBook(errand.settings.policy_file)
        secret = bytes.fromhex(errand.secret)
        shipper = Shipper(file, store, make_scrubber(secret, judge, policies), make_seal(secret))
        async with asyncio.TaskGroup() as group:
            refreshing = group.create_task(keep_fresh(policies))
            shipping = group.create_task(shipper.run())
            await reader.read()
            shipper.stop()
            await shipping
            refreshing.cancel()


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    asyncio.run(main())
