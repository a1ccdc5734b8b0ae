"""Measure exact match of a served model on rows with verified answers.

Launch: python -m deploy.examples.acme.evaluate --url http://127.0.0.1:8000/v1 --model support@2
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from pathlib import Path

import click
import httpx

from trainer.rows import Row, read_rows, to_prompt

DATA = Path(__file__).parent / "data" / "dev.jsonl"
AT_ONCE = 8
TOKENS = 48


async def ask(client: httpx.AsyncClient, model: str, row: Row) -> str:
    """Give the served answer to one row, decoded greedily."""
    body = {
        "model": model,
        "messages": to_prompt(row),
        "temperature": 0,
        "max_tokens": TOKENS,
    }
    reply = await client.post("chat/completions", json=body)
    reply.raise_for_status()
    return str(reply.json()["choices"][0]["message"]["content"])


async def answers(url: str, key: str, model: str, rows: list[Row]) -> list[str]:
    """Give the served answers in the order of the rows, a few at once."""
    slots = asyncio.Semaphore(AT_ONCE)
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(
        base_url=url.rstrip("/") + "/", headers=headers, timeout=300
    ) as client:

        async def one(row: Row) -> str:
            async with slots:
                return await ask(client, model, row)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(row)) for row in rows]
    return [task.result() for task in tasks]


def exact_match(rows: list[Row], said: list[str]) -> dict[str, tuple[int, int]]:
    """Count right answers and rows by slice; an answer counts only as a whole."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for row, text in zip(rows, said, strict=True):
        counts[row.slice][0] += text.strip() == row.output
        counts[row.slice][1] += 1
    return {name: (right, total) for name, (right, total) in sorted(counts.items())}


@click.command()
@click.option("--url", default="http://127.0.0.1:8000/v1", help="OpenAI-compatible base URL.")
@click.option("--key", envvar="OPENAI_API_KEY", default="none")
@click.option("--model", "models", multiple=True, required=True)
@click.option("--data", type=click.Path(path_type=Path, exists=True), default=DATA)
@click.option("--limit", type=int, help="Ask the first rows only.")
@click.option("--wrong", is_flag=True, help="Show the wrong answers.")
def main(
    url: str, key: str, models: tuple[str, ...], data: Path, limit: int | None, wrong: bool
) -> None:
    """Ask every row and show exact match by slice."""
    rows = read_rows(data)[:limit]
    for model in models:
        said = asyncio.run(answers(url, key, model, rows))
        for name, (right, total) in exact_match(rows, said).items():
            click.echo(f"{model} {name}: {right}/{total} = {right / total:.3f}")
        for row, text in zip(rows, said, strict=True):
            if wrong and text.strip() != row.output:
                click.echo(f"  {row.input}\n    {text!r}\n    {row.output!r}")


if __name__ == "__main__":
    main()
