"""What a figure was measured on, and with what."""

from __future__ import annotations

import os
import platform
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used so far, in user and system mode (Linux).

    In nanoseconds, where /proc/<pid>/stat counts hundredths of a second.
    """
    # As glibc's clock_getcpuclockid makes the clock of another process: its scheduler's time.
    return time.clock_gettime((~pid << 3) | 2)


def describe() -> dict[str, Any]:
    """Processor, system, interpreter, and the packages that matter to a request."""
    model = ""
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(encoding="utf-8").splitlines()
        model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "")
    names = ("aiohttp", "msgspec", "starlette", "uvicorn", "uvloop", "httptools")
    return {
        "cpu": model or platform.processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": sys.version.split()[0],
        "load_before": os.getloadavg()[0],
        "packages": {name: metadata.version(name) for name in names},
    }
