"""Measures a part of the system whole, and writes its figures: `python -m bench.figures adapters`.

Takes about a quarter of an hour on two cores. Needs PostgreSQL's programs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench import canaries, choose, faults, swaps, zipf
from bench.machine import describe

OUT = Path("build")


def adapters() -> dict[str, Any]:
    """Placement, choosing, swaps, canaries, and what fails when a part is lost."""
    zipf_ = zipf.figures()
    zipf_["choose_us"] = choose.medians(10, 1000)
    return {
        "machine": describe(),
        "zipf": zipf_,
        **swaps.measure(),
        "canary": canaries.figures(canaries.World()),
        **faults.measure(),
    }


PARTS = {"adapters": adapters}


def table(figures: Mapping[str, Any], below: str = "") -> list[str]:
    """Give the figures as lines of a Markdown table, one for each."""
    lines: list[str] = []
    for name, value in figures.items():
        if isinstance(value, Mapping):
            lines += table(value, f"{below}{name}.")
        else:
            lines.append(f"| {below}{name} | {value} |")
    return lines


def main(argv: list[str] | None = None) -> None:
    """Measure, write `build/<part>.json`, and print a table."""
    parser = argparse.ArgumentParser(description="Figures of a part of the system.")
    parser.add_argument("part", choices=PARTS)
    part = parser.parse_args(argv).part
    found = PARTS[part]()
    OUT.mkdir(exist_ok=True)
    path = OUT / f"{part}.json"
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    shown = {name: value for name, value in found.items() if name != "machine"}
    print("\n".join(["| figure | |", "|---|---|", *table(shown)]))
    print(f"figures: {path}")


if __name__ == "__main__":
    main()
