"""The serving process's side of the guards stays light."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("torch", "sklearn", "spacy", "presidio_analyzer", "transformers", "numpy")
LIGHT = ("client", "stream", "policy", "policy_book", "moderation", "testing")


def test_no_model_library_is_imported() -> None:
    code = (
        "import sys;"
        + "".join(f"import guardrails.{name};" for name in LIGHT)
        + f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
