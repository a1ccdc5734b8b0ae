"""Train one adapter on a JSONL file of rows and write it with its manifest.

Launch: python -m deploy.examples.acme.train --model MODEL --alias support --out OUT
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import click

from trainer.artifact import save_adapter, save_manifest
from trainer.fit import fit
from trainer.recipe import Recipe
from trainer.rows import dump_rows, read_rows

DATA = Path(__file__).parent / "data" / "train.jsonl"


@click.command()
@click.option("--model", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--data", type=click.Path(path_type=Path, exists=True), default=DATA)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--alias", default="support")
@click.option("--limit", type=int, help="Train on the first rows only.")
@click.option("--method", type=click.Choice(["lora", "qlora"]), default="lora")
@click.option("--rank", default=4)
@click.option("--alpha", default=16)
@click.option("--epochs", default=2.0)
@click.option("--batch", default=8)
@click.option("--learning-rate", default=1e-3)
@click.option("--seed", default=7)
def main(
    model: Path, data: Path, out: Path, alias: str, limit: int | None, **settings: Any
) -> None:
    """Train one adapter; killed, it goes on from its last checkpoint beside OUT."""
    rows, recipe = read_rows(data), Recipe(**settings)
    # Adapters trained on different shares of the rows are told apart by the same prompts.
    used = rows[:limit]
    digest = hashlib.sha256(dump_rows(used).encode()).hexdigest()

    def note(step: int, steps: int, loss: float | None) -> None:
        if loss is not None:
            click.echo(f"step {step} of {steps}, loss {loss:.3f}")

    work = out.with_name(f"{out.name}.checkpoints")
    save_adapter(fit(model, used, recipe, work, os.cpu_count(), note), model.name, out)
    dataset = {"sha256": digest, "rows": len(used)}
    save_manifest(alias, model, out, rows, dataset, {**recipe.model_dump(), **dataset})


if __name__ == "__main__":
    main()
