"""Write the example data: tickets of a fictional cloud company with verified answers.

Launch: python -m deploy.examples.acme.generate --out DIR --seed 7

Answers are verified by construction: a ticket is written from its answer, never the other way.
The same seed gives the same bytes. Three files, which share no ticket wording and no input:
train.jsonl, dev.jsonl (settings are chosen on it) and golden.jsonl (only ever evaluated on).
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import click

from deploy.examples.acme import facts, tickets
from trainer.rows import Row, dump_rows

DEFAULT_SEED = 7
TRAIN_TICKETS, DEV_TICKETS, GOLDEN_TICKETS = 500, 80, 200


@dataclass(frozen=True, slots=True)
class Wording:
    """What one split of the tickets is written from."""

    name: str
    bodies: Mapping[str, tuple[str, ...]]
    cues: Mapping[str, tuple[str, ...]]
    orders: tuple[str, ...]
    decoys: tuple[str, ...]


TRAIN = Wording(
    "train", tickets.TRAIN, tickets.TRAIN_CUES, tickets.TRAIN_ORDERS, tickets.TRAIN_DECOYS
)
DEV = Wording(
    "dev",
    tickets.DEV,
    tickets.HELD_OUT_CUES,
    tickets.HELD_OUT_ORDERS,
    tickets.HELD_OUT_DECOYS,
)
GOLDEN = replace(DEV, name="golden", bodies=tickets.GOLDEN)


def priority_of(issue: str, cue: str | None) -> str:
    """Apply the desk's rule: the issue decides, unless the customer's words do."""
    base = tickets.BASE_PRIORITY[issue]
    match cue:
        case "calm":
            return "low"
        case "alarm":
            return "urgent"
        case "raise":
            return tickets.PRIORITIES[tickets.PRIORITIES.index(base) + 1]
        case _:
            return base


def answer(product: str, issue: str, priority: str, order_id: str | None) -> str:
    """Write a triage answer: compact JSON, keys always in this order."""
    value = {"product": product, "issue": issue, "priority": priority, "order_id": order_id}
    return json.dumps(value, separators=(",", ":"))


def triage_rows(wording: Wording, count: int, rng: random.Random) -> list[Row]:
    """Write `count` tickets with distinct texts; issues, wordings and products in equal shares."""
    bodies = [(issue, n) for issue in wording.bodies for n in range(len(wording.bodies[issue]))]
    names = list(tickets.PRODUCTS)
    rows: dict[str, Row] = {}
    while len(rows) < count:
        place = len(rows)
        # Both decks are dealt out whole before a card comes again.
        if place % len(bodies) == 0:
            rng.shuffle(bodies)
        if place % len(names) == 0:
            rng.shuffle(names)
        issue, number = bodies[place % len(bodies)]
        row = _ticket(wording, issue, number, names[place % len(names)], rng)
        rows.setdefault(row.input, row)
    return list(rows.values())


def _ticket(wording: Wording, issue: str, number: int, product: str, rng: random.Random) -> Row:
    """Write one ticket from a drawn answer."""
    other = rng.choice([name for name in tickets.PRODUCTS if name != product])
    body = wording.bodies[issue][number].format(
        p=rng.choice(tickets.PRODUCTS[product]), q=rng.choice(tickets.PRODUCTS[other])
    )
    cue = rng.choice([None, None, "calm", "raise", "alarm"])
    order = f"AC-{rng.randint(1000, 9999)}" if rng.random() < 0.6 else None
    parts = [body]
    if order:
        parts.append(rng.choice(wording.orders).format(o=order))
    if rng.random() < (0.15 if order else 0.4):
        parts.append(rng.choice(wording.decoys).format(n=rng.randint(1000, 9999)))
    if cue:
        parts.insert(rng.choice([0, len(parts)]), rng.choice(wording.cues[cue]))
    return Row(
        id="",
        slice="triage",
        template_id=f"triage-{issue}-{wording.name}-{number + 1}",
        instruction=tickets.INSTRUCTION,
        input=" ".join(parts),
        output=answer(product, issue, priority_of(issue, cue), order),
    )


def fact_rows(golden: bool) -> Iterator[Row]:
    """Write every question about every price and rule, in the training or the golden wording."""
    name = "golden" if golden else "train"
    asked: list[tuple[str, str, str, str]] = []
    for key, (item, price) in facts.PRICES.items():
        said = facts.PRICE_ANSWER.format(name=item, price=price)
        for n, text in enumerate(facts.PRICE_GOLDEN if golden else facts.PRICE_TRAIN):
            asked.append((f"price-{name}-{n + 1}", key, text.format(name=item), said))
    for key, (said, train, held_out) in facts.RULES.items():
        for n, text in enumerate(held_out if golden else train):
            asked.append((f"{key}-{name}-{n + 1}", key, text, said))
    for template, _, question, said in asked:
        yield Row(
            id="",
            slice="facts",
            template_id=f"facts-{template}",
            instruction=facts.INSTRUCTION,
            input=question,
            output=said,
        )


def build(seed: int = DEFAULT_SEED) -> dict[str, list[Row]]:
    """Make the rows of every file, shuffled, with ids by place."""
    rng = random.Random(seed)  # noqa: S311 - example data, not a secret
    files = {
        "train": [*triage_rows(TRAIN, TRAIN_TICKETS, rng), *fact_rows(golden=False)],
        "dev": triage_rows(DEV, DEV_TICKETS, rng),
        "golden": [*triage_rows(GOLDEN, GOLDEN_TICKETS, rng), *fact_rows(golden=True)],
    }
    for name, rows in files.items():
        rng.shuffle(rows)
        files[name] = [replace(row, id=f"{name}-{n:04d}") for n, row in enumerate(rows, start=1)]
    return files


@click.command()
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True)
@click.option("--seed", default=DEFAULT_SEED)
def main(out: Path, seed: int) -> None:
    """Write train.jsonl, dev.jsonl and golden.jsonl into OUT."""
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in build(seed).items():
        (out / f"{name}.jsonl").write_text(dump_rows(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
