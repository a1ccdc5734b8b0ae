"""The client and the server of the guard process, over a real Unix socket, without models."""

from __future__ import annotations

import asyncio
import stat
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from guardrails.client import JudgeClient
from guardrails.errors import GuardUnavailable
from guardrails.process import serve
from guardrails.settings import GuardSettings
from guardrails.types import Finding, Passage


class Letters:
    """Scores a passage by its length; counts batches; can be held up or made to fail."""

    name = "toxicity"
    version = "letters 1"

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.go = threading.Event()
        self.go.set()

    def run(self, passages: Sequence[Passage]) -> list[list[Finding]]:
        self.go.wait(10)
        self.batches.append(len(passages))
        if any(passage.text == "poison" for passage in passages):
            raise ValueError("poison")
        return [[Finding(self.name, p.text[:1], 0, len(p.text), 0.5)] for p in passages]


@asynccontextmanager
async def process(socket: Path, model: Letters, **settings: float) -> AsyncIterator[None]:
    stop = asyncio.Event()
    parsed = GuardSettings.model_validate(settings)
    task = asyncio.create_task(serve(socket, {model.name: model}, parsed, stop))
    await asyncio.wait_for(_listening(socket), 5)
    try:
        yield
    finally:
        stop.set()
        await task


async def _listening(socket: Path) -> None:
    while True:
        try:
            _, writer = await asyncio.open_unix_connection(str(socket))
        except OSError:
            await asyncio.sleep(0.005)
            continue
        writer.close()
        await writer.wait_closed()
        return


def _mode(socket: Path) -> int:
    return socket.stat().st_mode


def labels(findings: list[list[Finding]]) -> list[str]:
    return [found[0].label for found in findings]


async def test_answers_come_back_in_order(tmp_path: Path) -> None:
    socket, model = tmp_path / "g.sock", Letters()
    async with process(socket, model):
        client = JudgeClient(socket)
        found = await client.judge(["toxicity"], [Passage("a"), Passage("b", "context")])
        assert labels(found) == ["a", "b"]
        assert await client.ping() == client.versions == {"toxicity": "letters 1"}
        assert stat.S_IMODE(_mode(socket)) == 0o600
        await client.close()
    assert list(tmp_path.iterdir()) == []  # noqa: ASYNC240


async def test_questions_in_flight_are_judged_together(tmp_path: Path) -> None:
    model = Letters()
    async with process(tmp_path / "g.sock", model):
        client = JudgeClient(tmp_path / "g.sock")
        await client.ping()
        model.go.clear()
        asked = [
            asyncio.ensure_future(client.judge(["toxicity"], [Passage(str(n))])) for n in range(9)
        ]
        await client.ping()  # answered at once, after they were taken
        model.go.set()
        assert [labels(each) for each in await asyncio.gather(*asked)] == [
            [str(n)] for n in range(9)
        ]
        assert len(model.batches) <= 2
        await client.close()


async def test_a_long_question_does_not_hold_up_a_short_one(tmp_path: Path) -> None:
    model = Letters()
    async with process(tmp_path / "g.sock", model, batch=10):
        client = JudgeClient(tmp_path / "g.sock")
        await client.ping()
        model.go.clear()
        long = asyncio.ensure_future(client.judge(["toxicity"], [Passage("x")] * 1_000))
        await client.ping()  # answered at once, after it was taken
        short = asyncio.ensure_future(client.judge(["toxicity"], [Passage("y")]))
        await client.ping()
        model.go.set()
        assert labels(await short) == ["y"]
        assert not long.done()
        assert len(await long) == 1_000
        assert max(model.batches) <= 10
        await client.close()


async def test_one_bad_passage_costs_only_its_own_question(tmp_path: Path) -> None:
    model = Letters()
    async with process(tmp_path / "g.sock", model):
        client = JudgeClient(tmp_path / "g.sock")
        await client.ping()
        model.go.clear()
        asked = [
            asyncio.ensure_future(client.judge(["toxicity"], [Passage(text)]))
            for text in ("first", "poison", "good")
        ]
        await client.ping()  # answered at once, after they were taken
        model.go.set()
        first, bad, good = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(bad, GuardUnavailable)
        assert not isinstance(first, BaseException)
        assert not isinstance(good, BaseException)
        assert (labels(first), labels(good)) == (["f"], ["g"])
        await client.close()


async def test_no_answer_in_time_is_unavailable(tmp_path: Path) -> None:
    model = Letters()
    async with process(tmp_path / "g.sock", model):
        client = JudgeClient(tmp_path / "g.sock", timeout=1.5)
        await client.ping()
        model.go.clear()
        with pytest.raises(GuardUnavailable):
            await client.judge(["toxicity"], [Passage("a")])
        model.go.set()
        assert labels(await client.judge(["toxicity"], [Passage("b")])) == ["b"]
        await client.close()


async def test_no_process_is_unavailable_and_a_new_one_is_found(tmp_path: Path) -> None:
    socket = tmp_path / "g.sock"
    client = JudgeClient(socket)
    with pytest.raises(GuardUnavailable):
        await client.judge(["toxicity"], [Passage("a")])
    await asyncio.sleep(0.25)
    for _ in range(2):  # the second process takes the place of the first
        async with process(socket, Letters()):
            assert labels(await client.judge(["toxicity"], [Passage("a")])) == ["a"]
        with pytest.raises(GuardUnavailable):
            await client.judge(["toxicity"], [Passage("a")])
        await asyncio.sleep(0.25)
    await client.close()


async def test_questions_in_flight_end_when_the_process_does(tmp_path: Path) -> None:
    model = Letters()
    client = JudgeClient(tmp_path / "g.sock")
    async with process(tmp_path / "g.sock", model):
        await client.ping()
        model.go.clear()
        asked = asyncio.ensure_future(client.judge(["toxicity"], [Passage("a")]))
        await client.ping()
        model.go.set()
        await client.close()
        with pytest.raises(GuardUnavailable):
            await asked


async def test_a_guard_that_is_not_loaded_is_unavailable(tmp_path: Path) -> None:
    async with process(tmp_path / "g.sock", Letters()):
        client = JudgeClient(tmp_path / "g.sock")
        with pytest.raises(GuardUnavailable, match="names is not loaded"):
            await client.judge(["toxicity", "names"], [Passage("a")])
        await client.close()


async def test_lone_surrogates_are_no_trouble(tmp_path: Path) -> None:
    async with process(tmp_path / "g.sock", Letters()):
        client = JudgeClient(tmp_path / "g.sock")
        [[finding]] = await client.judge(["toxicity"], [Passage("ab\ud800")])
        assert finding.end == 3
        await client.close()


async def test_a_connection_that_talks_nonsense_is_ended(tmp_path: Path) -> None:
    async with process(tmp_path / "g.sock", Letters()):
        for nonsense in (b"\xff\xff\xff\xff", b"\x00\x00\x00\x01\xc1"):
            reader, writer = await asyncio.open_unix_connection(str(tmp_path / "g.sock"))
            writer.write(nonsense)
            await asyncio.wait_for(reader.read(), 5)
            writer.close()
            await writer.wait_closed()


async def test_a_server_that_never_greets_is_unavailable(tmp_path: Path) -> None:
    gone = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        await writer.wait_closed()
        gone.set()

    server = await asyncio.start_unix_server(silent, str(tmp_path / "g.sock"))
    client = JudgeClient(tmp_path / "g.sock", timeout=0.1)
    with pytest.raises(GuardUnavailable):
        await client.ping()
    await client.close()
    await asyncio.wait_for(gone.wait(), 5)
    server.close()
