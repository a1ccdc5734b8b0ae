"""How good and how fast the default guards are.

    python -m bench.guards

Reads `bench/data/toxicity_dev.tsv`, on which the threshold was chosen, and the sentences of the
tests, which were written apart from it. Starts a guard process of its own for the times.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from guardrails.client import JudgeClient
from guardrails.models.personal_data import PersonalData
from guardrails.models.toxicity import WordToxicity
from guardrails.policy import default_policy
from guardrails.stream import OutputGuard
from guardrails.types import Passage

ROOT = Path(__file__).resolve().parents[1]
THRESHOLD = 0.8
ANSWER = (
    "The parcel was sent on Tuesday and will be with you by Friday. If it is late, tell us. " * 4
)


def main() -> None:
    """Print quality, then times."""
    rows = (ROOT / "bench/data/toxicity_dev.tsv").read_text("utf-8").splitlines()
    dev = [(row[2:], row[0] == "1") for row in rows if row[0] in "01"]
    data = ROOT / "tests/data"
    held = [(row, True) for row in (data / "toxic_sentences.txt").read_text().splitlines()]
    held += [(row, False) for row in (data / "harmless_sentences.txt").read_text().splitlines()]
    model = WordToxicity()
    for name, sentences in (("dev", dev), ("test", held)):
        for kind, score in (("classifier", model.classifier_scores), ("as used", model.scores)):
            print(f"toxicity {name:5} {kind:10} {quality(sentences, score)}")
    times(model)
    asyncio.run(over_the_socket())


def quality(
    sentences: Sequence[tuple[str, bool]], score: Callable[[Sequence[str]], list[float]]
) -> str:
    """Give AUROC, recall and false alarms at the default threshold."""
    scores = score([text for text, _ in sentences])
    bad = [s for s, (_, toxic) in zip(scores, sentences, strict=True) if toxic]
    good = [s for s, (_, toxic) in zip(scores, sentences, strict=True) if not toxic]
    wins = sum((b > g) + 0.5 * (b == g) for b in bad for g in good)
    caught, alarms = sum(s >= THRESHOLD for s in bad), sum(s >= THRESHOLD for s in good)
    return (
        f"AUROC {wins / (len(bad) * len(good)):.3f}, at {THRESHOLD}: "
        f"caught {caught}/{len(bad)}, false alarms {alarms}/{len(good)}"
    )


def times(model: WordToxicity) -> None:
    """Print the time that a batch takes in the model."""
    plain = Passage("The parcel was sent on Tuesday and will be with you by Friday.")
    number = Passage("Write to jane.doe@example.com or call +1 (415) 555-2671 today.")
    people = PersonalData()
    for size in (1, 8, 64):
        print(
            f"batch of {size:2}: toxicity {clock(lambda n=size: model.run([plain] * n)):.2f} ms, "
            f"personal data {clock(lambda n=size: people.run([plain] * n)):.3f} ms, "
            f"with a number in it {clock(lambda n=size: people.run([number] * n)):.2f} ms"
        )


def clock(work: Callable[[], object]) -> float:
    """Give the median of 15 runs, in milliseconds."""
    runs = []
    for _ in range(15):
        start = time.perf_counter()
        work()
        runs.append(time.perf_counter() - start)
    return sorted(runs)[7] * 1e3


async def over_the_socket() -> None:
    """Print what a unary answer of eight sentences costs, alone and sixteen at a time."""
    with tempfile.TemporaryDirectory() as folder:
        socket = Path(folder) / "guard.sock"
        command = [sys.executable, "-m", "guardrails.process", "--socket", str(socket)]
        process = await asyncio.create_subprocess_exec(*command, stderr=subprocess.DEVNULL)
        try:
            client = JudgeClient(socket, timeout=60)
            await asyncio.to_thread(wait_for, socket)
            for width in (1, 16):
                await unary_answers(client, width)
            await client.close()
        finally:
            process.terminate()
            await process.wait()


def wait_for(path: Path) -> None:
    """Wait until the guard process has loaded its models."""
    while not path.exists():
        time.sleep(0.1)


async def unary_answers(client: JudgeClient, width: int) -> None:
    """Scan 640 answers, `width` at a time."""
    policy, count = default_policy(), 640 // width

    async def one_after_another() -> None:
        for _ in range(count):
            await OutputGuard(policy, client).scan(0, "content", ANSWER)

    await one_after_another()
    wall, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(one_after_another() for _ in range(width)))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    total = count * width
    print(
        f"unary answers of {len(ANSWER)} characters, {width:2} at a time: "
        f"{wall / count * 1e3:.1f} ms each, serving CPU {cpu / total * 1e6:.0f} us each, "
        f"{total / wall:.0f} a second"
    )


if __name__ == "__main__":
    main()
