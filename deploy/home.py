"""The home: the one folder where everything that `adapterloop up` keeps lives."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# sockaddr_un holds 108 bytes, the last of them a zero; supervisord binds under a longer name first
# (a dot and a process id).
LONGEST_SOCKET_PATH = 107 - 9


@dataclass(frozen=True, slots=True)
class Home:
    """Names of the files in a home. Paths are absolute."""

    root: Path

    @property
    def database(self) -> Path:
        return self.root / "adapterloop.db"

    @property
    def storage(self) -> Path:
        return self.root / "storage"

    @property
    def outbox(self) -> Path:
        return self.root / "outbox"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def runs(self) -> Path:
        """A folder for each training run."""
        return self.root / "runs"

    @property
    def keys(self) -> Path:
        return self.root / "keys.env"

    @property
    def lock(self) -> Path:
        """Held by the `adapterloop up` that runs here."""
        return self.run / "up.lock"

    @property
    def worker_port(self) -> Path:
        """Remembers the port of the local worker."""
        return self.root / "worker-port"

    @property
    def gguf(self) -> Path:
        """Adapters as llama-server reads them."""
        return self.root / "gguf"

    @property
    def llamacpp_workers(self) -> Path:
        """Lists the llama-servers that get calls."""
        return self.root / "llamacpp-workers.json"

    @property
    def examples(self) -> Path:
        """Present once the example adapters have been registered."""
        return self.root / ".examples"

    def socket(self, name: str) -> Path:
        """Return where the Unix socket `name` lies.

        In `run/`, or, where that path is too long for a socket, in a folder of our own beside the
        system's temporary files.
        """
        path = self.run / f"{name}.sock"
        if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
            return path
        digest = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"adapterloop-{os.getuid()}-{digest}" / f"{name}.sock"

    def create(self) -> None:
        """Make the folders, readable by the owner alone."""
        folders = (self.root, self.storage, self.outbox, self.run, self.runs, self.logs)
        for folder in (*folders, self.models, self.cache, self.socket("guard").parent):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if folder.stat().st_uid != os.getuid():
                raise PermissionError(f"{folder} belongs to another user")
        self.root.chmod(0o700)
        self.socket("guard").parent.chmod(0o700)


def write_private(path: Path, text: str) -> None:
    """Write `text` to `path` with mode 600; a reader sees the old file or the new one, whole."""
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


def read_env(path: Path) -> dict[str, str]:
    """Return the `NAME=value` lines of a file, {} where there is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line and line[0] != "#")
    return {name.strip(): value.strip() for name, value in pairs}


def write_env(path: Path, values: Mapping[str, str]) -> None:
    """Write `NAME=value` lines, mode 600."""
    write_private(path, "".join(f"{name}={value}\n" for name, value in values.items()))
