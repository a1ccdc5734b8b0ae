"""Ports: which are free, and which another `up` on this machine has chosen but not opened yet."""

from __future__ import annotations

import contextlib
import socket
import sys
from contextlib import ExitStack
from types import TracebackType


class Claims:
    """Ports that belong to this process from the choice on, until it ends.

    vLLM opens its port tens of seconds after it was chosen. Until then a second `up` would find the
    port free and take it too, and its gateway would call the first one's worker. So each port is
    marked by an abstract Unix socket, which the kernel drops with the process. Linux only.
    """

    def __init__(self, prefix: str = "adapterloop/port") -> None:
        self._prefix = prefix
        self._held = ExitStack()

    def __enter__(self) -> Claims:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._held.close()

    def take(self, host: str, port: int) -> bool:
        """Claim `port` where nothing listens and nobody else claimed it; say whether."""
        if not is_free(host, port):
            return False
        if not sys.platform.startswith("linux"):
            return True
        mark = socket.socket(socket.AF_UNIX)
        try:
            mark.bind(f"\0{self._prefix}/{port}")
        except OSError:
            mark.close()
            return False
        self._held.enter_context(contextlib.closing(mark))
        return True

    def any(self, host: str) -> int:
        """Claim a port that the kernel finds free."""
        while True:
            with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
                probe.bind((host, 0))
                port: int = probe.getsockname()[1]
            if self.take(host, port):
                return port


def is_free(host: str, port: int) -> bool:
    """Say whether a server could listen on `port` now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do, so that closed connections of the run before do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
