"""The guard process: classifiers behind a Unix socket.

    python -m guardrails.process --socket PATH

The socket appears once the models are loaded, so a client that can connect has a guard. It belongs
to its owner alone (mode 600).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from guardrails.batching import Batcher
from guardrails.errors import GuardError
from guardrails.models.base import Model
from guardrails.models.registry import load_models
from guardrails.settings import GuardSettings, load_settings
from guardrails.wire import Answer, Ask, Framed

logger = logging.getLogger(__name__)


class GuardServer:
    """Takes questions on connections and hands them to the batcher."""

    def __init__(self, batcher: Batcher, versions: dict[str, str]) -> None:
        self._batcher = batcher
        self._versions = versions
        self._connections: set[_Connection] = set()

    def connection(self) -> Framed:
        """Make the protocol of a new connection."""
        return _Connection(self._batcher, self._versions, self._connections)

    def close(self) -> None:
        """End all connections."""
        for connection in list(self._connections):
            connection.abort()


class _Connection(Framed):
    def __init__(
        self, batcher: Batcher, versions: dict[str, str], all_of_them: set[_Connection]
    ) -> None:
        super().__init__(self._on_ask)
        self._batcher = batcher
        self._versions = versions
        self._all = all_of_them
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Ask)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._all.add(self)
        self._reply(Answer(0, versions=self._versions))

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.discard(self)
        super().connection_lost(exc)

    def _on_ask(self, message: bytes) -> None:
        try:
            ask = self._decoder.decode(message)
        except msgspec.DecodeError as error:
            logger.warning("a message that is no question ends its connection: %s", error)
            self.abort()
            return
        if not ask.guards:
            self._reply(Answer(ask.id, versions=self._versions))
        else:
            self._batcher.put(ask, self._reply)

    def _reply(self, answer: Answer) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.send(self._encoder.encode(answer))


async def serve(
    socket: Path, models: Mapping[str, Model], settings: GuardSettings, stop: asyncio.Event
) -> None:
    """Answer on the socket until `stop` is set; the socket's file is gone afterwards."""
    loop = asyncio.get_running_loop()
    versions = {name: model.version for name, model in models.items()}
    with ThreadPoolExecutor(1, thread_name_prefix="guard") as executor:
        batcher = Batcher(models, executor, batch=settings.batch, patience=settings.patience)
        server = GuardServer(batcher, versions)
        # Until it listens, nobody can connect: there is no moment with other rights.
        listener = await loop.create_unix_server(
            server.connection, path=str(socket), start_serving=False
        )
        inode = _make_private(socket)
        work = asyncio.create_task(batcher.run())
        ended = asyncio.create_task(stop.wait())
        try:
            await listener.start_serving()
            logger.info("guards ready: %s", versions)
            # Should the batcher ever fail, the process ends and its supervisor starts it anew.
            await asyncio.wait({work, ended}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            for task in (work, ended):
                task.cancel()
            await asyncio.gather(work, ended, return_exceptions=True)
            listener.close()
            server.close()
            _remove(socket, inode)


def _make_private(socket: Path) -> int:
    socket.chmod(0o600)
    return socket.stat().st_ino


def _remove(socket: Path, inode: int) -> None:
    # A successor may have put its own socket there.
    with contextlib.suppress(FileNotFoundError):
        if socket.stat().st_ino == inode:
            socket.unlink()


async def run(socket: Path, settings: GuardSettings) -> None:
    """Load the models and serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    models = load_models(settings)
    # What models are made of never becomes garbage: looking through it for some would hold up
    # answers, and the end of the process by more than a second.
    gc.collect()
    gc.freeze()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await serve(socket, models, settings, stop)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the guard process in the foreground; gives the exit status."""
    parser = argparse.ArgumentParser(prog="guardrails.process", description=run.__doc__)
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--config", type=Path, help="YAML with the guard process's settings")
    arguments = parser.parse_args(argv)
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    os.umask(0o077)
    try:
        asyncio.run(run(arguments.socket, load_settings(arguments.config)))
    except (GuardError, OSError) as error:
        logger.error("the guard process cannot run: %s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
