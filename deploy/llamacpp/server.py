"""One llama-server: its command line, its start, its end, and what it says of itself."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.config import Config
from deploy.health import get
from deploy.model import find_gguf
from deploy.processes import die_with_parent
from deploy.setup import llama_server
from deploy.worker import BASE_NAME
from gateway.workers.llamacpp import CACHE_OFF, REQUESTS

HOST = "127.0.0.1"
STOP_S = 3.0


class NoServer(Exception):
    """llama-server cannot run here; the message says what is missing."""


def program(config: Config) -> Path:
    """Return the llama-server that `up` runs; it need not exist yet."""
    return config.local_worker.llama_server or llama_server()


def base_gguf(config: Config) -> Path:
    """Return the base model's file. Raises NoServer, DefaultModelUnavailable."""
    if given := config.local_worker.gguf:
        if not given.is_file():
            raise NoServer(f"local_worker.gguf: {given} is no file")
        return given
    if config.model:
        raise NoServer(
            f"llama-server reads no {config.model}: name the same model as a GGUF file with"
            " ADAPTERLOOP_LOCAL_WORKER__GGUF"
        )
    return find_gguf()


def command(config: Config, gguf: Path, port: int, adapters: Sequence[str]) -> list[str]:
    """Return the command line; `adapters` are names on workers, whose files lie where it runs."""
    own = config.local_worker
    return [
        *(str(program(config)), "--model", str(gguf), "--alias", f"{BASE_NAME},{CACHE_OFF}"),
        *("--host", HOST, "--port", str(port), "--offline"),
        *("--ctx-size", str(own.max_model_len * own.slots), "--parallel", str(own.slots)),
        *("--threads", str(own.threads or os.cpu_count() or 1)),
        # A connection keeps its thread for five seconds after its last call, and where few threads
        # are left, calls that come together wait for that.
        *("--threads-http", "64"),
        # Its cache of prompts goes by their tokens alone, and so would mix up the adapters'.
        *("--cache-ram", "0"),
        # What a call leaves out is as OpenAI's API has it.
        *("--temp", "1", "--top-p", "1", "--top-k", "0", "--min-p", "0"),
        *("--metrics", "--no-slots", "--no-webui", "--log-verbosity", "1"),
        *("--cors-origins", "localhost", "--no-cors-credentials"),
        *(["--lora", ",".join(f"{name}.gguf" for name in adapters)] if adapters else []),
        *own.extra_arguments,
    ]


@dataclass(slots=True)
class Server:
    """A llama-server that was started with these adapters; `restart` runs it again as it was."""

    line: Sequence[str]
    folder: Path
    port: int
    adapters: tuple[str, ...]
    process: subprocess.Popen[bytes]

    @classmethod
    def start(
        cls, config: Config, gguf: Path, folder: Path, port: int, adapters: Sequence[str]
    ) -> Server:
        """Start one that ends with this process, however that ends. Raises NoServer."""
        line = command(config, gguf, port, adapters)
        return cls(line, folder, port, tuple(adapters), _run(line, folder))

    def restart(self) -> None:
        """Run it again on its port. Raises NoServer."""
        self.process = _run(self.line, self.folder)

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process.poll() is None

    @property
    def healthy(self) -> bool:
        """Whether it has read its model and answers."""
        return self.alive and get(HOST, self.port, "/health")[0] == 200

    @property
    def busy(self) -> bool:
        """Whether calls are under way or wait; one that says nothing may be."""
        if not self.alive:
            return False
        status, text = get(HOST, self.port, "/metrics")
        found = REQUESTS.findall(text)
        return status != 200 or not found or any(int(count) for _, count in found)

    def stop(self) -> None:
        """End it, and the calls that are under way."""
        self.process.terminate()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _run(line: Sequence[str], folder: Path) -> subprocess.Popen[bytes]:
    # Its options can be given by variables too, and these were meant for another.
    environment = {n: v for n, v in os.environ.items() if not n.startswith("LLAMA_")}
    # Threads that spin while they wait lose half the speed where others want the cores too.
    environment.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        return subprocess.Popen(
            line,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            preexec_fn=lambda: die_with_parent(signal.SIGKILL),
        )
    except OSError as error:
        raise NoServer(f"{line[0]}: {error.strerror}; run `adapterloop setup` first") from error
