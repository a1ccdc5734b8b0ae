"""What the serving process must not load."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

HEAVY = ("torch", "sklearn", "spacy", "presidio_analyzer", "transformers", "peft", "numpy.f2py")


def test_the_gateway_does_not_import_torch(repository: Path) -> None:
    code = "import gateway.app, sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True
    )
    loaded = set(json.loads(done.stdout))
    assert not loaded & set(HEAVY)
    assert not {name for name in loaded if name.split(".")[0] in ("trainer", "deploy")}


def test_the_running_gateway_has_no_torch_mapped(stack: object) -> None:
    pid = stack.gateway.pid  # type: ignore[attr-defined]
    maps = Path(f"/proc/{pid}/maps").read_text()
    assert "libtorch" not in maps
