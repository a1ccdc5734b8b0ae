"""What the demo measured: a table on the screen, and `build/demo.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from deploy.demo.traffic import Swap


@dataclass
class Report:
    """Figures as they come in, in the order in which they come."""

    golden: list[dict[str, Any]] = field(default_factory=list)
    gates: list[dict[str, Any]] = field(default_factory=list)
    confidence: dict[str, Any] = field(default_factory=dict)
    swap: Swap = field(default_factory=Swap)
    review: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def add_golden(self, version: str, slices: Mapping[str, Any]) -> None:
        """Keep a version's figures on the golden set, each version once."""
        if all(entry["version"] != version for entry in self.golden):
            self.golden.append({"version": version, "slices": dict(slices)})

    def add_gate(self, report: Mapping[str, Any]) -> None:
        """Keep a gate's verdict with the figures of each slice."""
        names = ("difference", "low", "high", "p")
        slices = {
            slice_: {name: figures[name] for name in names}
            for slice_, figures in report["slices"].items()
        }
        short = {name: report[name] for name in ("candidate", "against", "verdict")}
        self.gates.append({**short, "slices": slices})

    def write(self, path: Path) -> None:
        """Write the figures as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        value = asdict(self)
        value["swap"] = {
            name: value["swap"][name] for name in ("requests", "failed", "wrong_version")
        }
        path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")

    def table(self) -> str:
        """Give what a person wants to see at the end."""
        lines = ["", "golden set                     exact match     F1   items"]
        for entry in self.golden:
            for name, figures in entry["slices"].items():
                lines.append(
                    f"  {entry['version']:<16} {name:<12} {figures['exact_match']:>10.3f}"
                    f" {figures['f1']:>6.3f}  {figures['n']:>6}"
                )
        lines += ["", "gate                                    difference   95% interval"]
        for gate in self.gates:
            lines.append(f"  {gate['candidate']} against {gate['against']}: {gate['verdict']}")
            lines += [_gate_line(name, figures) for name, figures in gate["slices"].items()]
        lines += ["", *self._sums(), ""]
        return "\n".join(lines)

    def _sums(self) -> Sequence[str]:
        swap = self.swap
        lines = [
            f"while versions changed: {swap.requests} calls, {swap.failed} failed,"
            f" {swap.wrong_version} from another version than was due"
        ]
        if self.confidence:
            lines.append(
                f"confidence told right from wrong with AUROC {self.confidence['auroc']:.2f}"
                f" over {self.confidence['n']} answers"
            )
        if self.review:
            told = ", ".join(f"{number} {name}" for name, number in self.review.items())
            lines.append(f"review: {told}")
        total = sum(self.seconds.values())
        return [*lines, f"{total / 60:.1f} minutes in all"]


def _gate_line(name: str, figures: Mapping[str, float]) -> str:
    return (
        f"    {name:<36} {figures['difference']:>+8.3f}   "
        f"{figures['low']:+.3f} to {figures['high']:+.3f}, p = {figures['p']:.2g}"
    )
