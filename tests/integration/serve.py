"""Runs a gateway or a controller from a settings file, as a process of its own.

python -m tests.integration.serve gateway settings.json
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from gateway.settings import GatewaySettings


def main(role: str, path: str) -> None:
    """Serve until a signal ends it."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    settings = GatewaySettings.model_validate_json(Path(path).read_bytes())
    if role == "controller":
        from gateway.controller.main import run

        run(settings)
        return
    from gateway.main import run as serve

    serve(settings)


if __name__ == "__main__":
    main(*sys.argv[1:])
