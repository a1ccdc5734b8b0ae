"""Nothing that a guard blocks reaches a client, whatever the route, the cuts or the channel."""

from __future__ import annotations

import asyncio
import json
import random
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from guardrails.client import JudgeClient
from guardrails.policy import default_policy
from guardrails.types import Passage
from tests.acceptance.live import wait_for
from tests.stub.script import Asked, Script
from tests.stub.server import StubWorker

from .conftest import MakeStack
from .stack import GUARD, Process, Stack
from .wire import CHAT, RESPONSES, ROUTES, TEXT, Got, body_for, read

SENTENCES = [
    line.strip()
    for line in (Path(__file__).parents[1] / "data" / "toxic_sentences.txt")
    .read_text(encoding="utf-8")
    .splitlines()
    if line.strip() and not line.startswith("#")
]
BEFORE = "Thank you for writing to us. The train leaves at noon. "
AFTER = " We wish you a pleasant journey. Goodbye."
HARMLESS = (
    "Good morning! Here is what you asked for:\n\n"
    "1. Open the app, then choose *Settings*.\n"
    "2. Tap “Reset” — it takes about 3.5 seconds…\n\n"
    "```python\ndef add(a, b):\n    return a + b\n```\n\n"
    "Grüße aus Köln 🙂👩‍👩‍👧‍👦 und viel Spaß! 日本語もできます。次の文です。\t\r\n"
    "See https://example.org/a?b=c&d=%20 for more. Dr. Smith e.g. said: 'Fine.'  \n  Bye"
)


FEWEST = 16  # of the 20 that the default guard must find; its own tests look at recall closer


@pytest.fixture(scope="session")
def foul(guard_socket: Path) -> list[str]:
    """The sentences that the default policy blocks when the guard is asked for them alone."""

    async def scores() -> list[float]:
        client = JudgeClient(guard_socket, timeout=60)
        try:
            found = await client.judge(["toxicity"], [Passage(text) for text in SENTENCES])
        finally:
            await client.close()
        return [max((one.score for one in findings), default=0.0) for findings in found]

    rules = {
        rule.guard: rule.threshold for rule in default_policy().guards if rule.stage == "output"
    }
    found = asyncio.run(scores())
    kept = [
        text for text, score in zip(SENTENCES, found, strict=True) if score >= rules["toxicity"]
    ]
    assert len(kept) >= FEWEST, found
    return kept


def numbered(texts: list[str]) -> Any:
    """A script's text that goes by the number in the user's words."""

    def answer(asked: Asked, choice: int) -> str:
        found = re.search(r"#(\d+)", asked.last)
        return texts[int(found[1])] if found else HARMLESS

    return answer


async def ask(
    stack: Stack, route: str, words: str, *, stream: bool, client: httpx.AsyncClient, **more: Any
) -> Got:
    body = body_for(route, "support", words, stream=stream, **more)
    answer = await client.post(stack.live.root + route, json=body)
    assert answer.status_code == 200, answer.text
    return read(route, answer.text, stream=stream)


def http(stack: Stack) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {stack.live.api_key}"}
    return httpx.AsyncClient(headers=headers, timeout=60)


def logprobs_for(route: str) -> dict[str, Any]:
    return {CHAT: {"logprobs": True, "top_logprobs": 2}, TEXT: {"logprobs": 2}}.get(route, {})


def assert_withheld(got: Got, sentence: str) -> None:
    """Nothing of the sentence, nor of what follows, in text or logprobs; the end says why."""
    assert BEFORE.startswith(got.text), got.text
    assert BEFORE.startswith(got.tokens.get(0, "")), got.tokens
    assert got.end == "content_filter"
    assert sentence not in got.raw
    assert AFTER.strip() not in got.raw


CUTS = ["chars", 1, 2, 3]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("cuts", CUTS)
async def test_streamed_toxic_sentences_never_arrive(
    stack: Stack, stub: StubWorker, foul: list[str], route: str, cuts: str | int
) -> None:
    texts = [BEFORE + sentence + AFTER for sentence in foul]
    stub.script = Script(
        text=numbered(texts),
        cuts="chars" if cuts == "chars" else "random",
        seed=0 if cuts == "chars" else int(cuts),
    )
    async with http(stack) as client:
        answers = await asyncio.gather(
            *(
                ask(stack, route, f"#{at}", stream=True, client=client, **logprobs_for(route))
                for at in range(len(foul))
            )
        )
    for sentence, got in zip(foul, answers, strict=True):
        assert_withheld(got, sentence)


@pytest.mark.parametrize("route", ROUTES)
async def test_unary_toxic_sentences_never_arrive(
    stack: Stack, stub: StubWorker, foul: list[str], route: str
) -> None:
    stub.script = Script(text=numbered([BEFORE + sentence + AFTER for sentence in foul]))
    async with http(stack) as client:
        for at, sentence in enumerate(foul):
            got = await ask(
                stack, route, f"#{at}", stream=False, client=client, **logprobs_for(route)
            )
            assert_withheld(got, sentence)


@pytest.mark.parametrize("route", ROUTES)
async def test_slow_toxic_streams_do_not_leak_by_a_timer(
    stack: Stack, stub: StubWorker, route: str
) -> None:
    sentence = SENTENCES[0]
    stub.script = Script(text=BEFORE + sentence + AFTER, cuts="chars", delay=0.03)
    async with http(stack) as client:
        assert_withheld(await ask(stack, route, "x", stream=True, client=client), sentence)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("cuts", ["chars", "tokens", "whole", 1, 2])
async def test_harmless_text_arrives_byte_for_byte(
    stack: Stack, stub: StubWorker, route: str, cuts: str | int
) -> None:
    kind: Any = {"cuts": "random", "seed": cuts} if isinstance(cuts, int) else {"cuts": cuts}
    stub.script = Script(text=HARMLESS, **kind)
    async with http(stack) as client:
        for stream in (True, False):
            more = logprobs_for(route)
            got = await ask(stack, route, "x", stream=stream, client=client, **more)
            assert got.text == HARMLESS
            assert got.end == "stop"
            if more:
                assert got.tokens[0] == HARMLESS


@pytest.mark.parametrize("stream", [True, False])
async def test_a_blocked_choice_leaves_the_other_alone(
    stack: Stack, stub: StubWorker, stream: bool
) -> None:
    sentence = SENTENCES[0]
    stub.script = Script(
        text=lambda _, choice: BEFORE + (sentence if choice == 0 else "Fine.") + AFTER,
        cuts="chars",
    )
    async with http(stack) as client:
        for route in (CHAT, TEXT):
            got = await ask(stack, route, "x", stream=stream, client=client, n=2)
            assert_withheld_choice(got, sentence)
            assert got.texts[1] == BEFORE + "Fine." + AFTER
            assert got.ends[1] == "stop"


def assert_withheld_choice(got: Got, sentence: str) -> None:
    assert BEFORE.startswith(got.texts.get(0, ""))
    assert got.ends[0] == "content_filter"
    assert sentence not in got.raw


@pytest.mark.parametrize("stream", [True, False])
async def test_reasoning_and_tool_arguments_are_judged(
    stack: Stack, stub: StubWorker, stream: bool
) -> None:
    sentence = SENTENCES[0]
    scripts = [
        Script(text="Fine.", reasoning=BEFORE + sentence, cuts="chars"),
        Script(text="", tool_calls=[("reply", json.dumps({"text": sentence}))], cuts="chars"),
        Script(text="", tool_calls=[("a", "{}"), ("b", json.dumps([sentence]))], cuts="tokens"),
        # Hidden by JSON's own escapes.
        Script(
            text="",
            tool_calls=[("a", '{"t": "' + "".join(f"\\u{ord(c):04x}" for c in sentence) + '"}')],
        ),
    ]
    tool = {"type": "function", "function": {"name": "reply", "parameters": {"type": "object"}}}
    async with http(stack) as client:
        for script in scripts:
            stub.script = script
            got = await ask(stack, CHAT, "x", stream=stream, client=client, tools=[tool])
            assert got.end == "content_filter"
            assert sentence not in got.raw
            assert "\\u00" not in got.raw.replace("\\u00e9", "")


async def test_harmless_tool_calls_arrive_whole(stack: Stack, stub: StubWorker) -> None:
    arguments = '{"city": "Köln", "days": [1, 2]}'
    stub.script = Script(text="", tool_calls=[("weather", arguments), ("noop", "{}")])
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    body = {"tools": [tool], "messages": [{"role": "user", "content": "x"}], "model": "support"}

    async with stack.live.async_client() as client:
        unary = await client.chat.completions.create(**body)
        calls = unary.choices[0].message.tool_calls or []
        assert [(c.function.name, c.function.arguments) for c in calls] == [
            ("weather", arguments), ("noop", "{}"),
        ]  # fmt: skip
        assert unary.choices[0].finish_reason == "tool_calls"
        made: dict[int, list[str]] = {}
        end = None
        async for chunk in await client.chat.completions.create(stream=True, **body):
            for choice in chunk.choices:
                end = choice.finish_reason or end
                for call in choice.delta.tool_calls or ():
                    name, text = made.setdefault(call.index, ["", ""])
                    made[call.index] = [
                        name + (call.function.name or ""), text + (call.function.arguments or "")
                    ]  # fmt: skip
        assert made == {0: ["weather", arguments], 1: ["noop", "{}"]}
        assert end == "tool_calls"


@pytest.mark.parametrize("fault", ["unknown_chunk", "unknown_delta"])
@pytest.mark.parametrize("route", ROUTES)
async def test_what_is_not_understood_is_not_passed_on(
    stack: Stack, stub: StubWorker, route: str, fault: Any
) -> None:
    sentence = SENTENCES[0]
    stub.script = Script(text=sentence, fault=fault, cuts="tokens")
    async with http(stack) as client:
        body = body_for(route, "support", "x", stream=True)
        answer = await client.post(stack.live.root + route, json=body)
    assert sentence not in answer.text
    assert "thoughts" not in answer.text
    assert "patch" not in answer.text


@pytest.mark.parametrize("route", ROUTES)
async def test_addresses_are_redacted_however_they_are_cut(
    stack: Stack, stub: StubWorker, route: str
) -> None:
    text = "Write to Anna at anna.schmidt@example.com before noon. She will answer soon."
    async with http(stack) as client:
        for seed in range(6):
            stub.script = Script(text=text, cuts="random" if seed else "chars", seed=seed)
            for stream in (True, False):
                more = logprobs_for(route)
                got = await ask(stack, route, "x", stream=stream, client=client, **more)
                assert got.text == text.replace("anna.schmidt@example.com", "[EMAIL_ADDRESS]")
                assert "schmidt" not in got.raw
                assert "@example" not in got.raw


async def test_random_mixtures(stack: Stack, stub: StubWorker, foul: list[str]) -> None:
    draw = random.Random(5)
    fine = ["The bus is late.", "Soup is served at one!", "Is that all?", "Your order 4711 left."]
    cases = []
    for _ in range(24):
        lead = " ".join(draw.choices(fine, k=draw.randint(1, 4)))
        cases.append((lead, draw.choice(foul), " ".join(draw.choices(fine, k=2))))
    stub.script = Script(
        text=numbered([" ".join(case) for case in cases]), cuts="random", seed=draw.randint(0, 99)
    )
    async with http(stack) as client:
        answers = await asyncio.gather(
            *(ask(stack, CHAT, f"#{at}", stream=True, client=client) for at in range(len(cases)))
        )
    for (lead, sentence, _), got in zip(cases, answers, strict=True):
        assert (lead + " ").startswith(got.text)
        assert got.end == "content_filter"
        assert sentence not in got.raw


async def test_no_guard_no_answer(make_stack: MakeStack, tmp_path: Path) -> None:
    stack = make_stack(guard_socket=tmp_path / "nobody.sock", start=False)
    stack.start(ready=False)
    assert await asyncio.to_thread(wait_for, lambda: stack.health("live") == 200, 60)
    assert stack.health("ready") == 503
    async with http(stack) as client:
        for stream in (False, True):
            body = body_for(CHAT, "base", "x", stream=stream)
            answer = await client.post(stack.live.root + CHAT, json=body)
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "guards_unavailable"
            assert "retry-after" in answer.headers


async def test_guards_that_die_midway_end_the_answer(make_stack: MakeStack, tmp_path: Path) -> None:
    folder = tmp_path / "guard"
    folder.mkdir()
    path = folder / "guard.sock"
    guard = Process("guard", [GUARD, "--socket", str(path)], folder).start()
    try:
        stack = make_stack(guard_socket=path)
        text = "The train leaves at noon. " * 60
        script = stack.workers[0].script = Script(text=text, delay=0.2)
        body = body_for(CHAT, "base", "x", stream=True)
        raw = ""
        async with (
            http(stack) as client,
            client.stream("POST", stack.live.root + CHAT, json=body) as answer,
        ):
            async for piece in answer.aiter_text():
                raw += piece
                if guard.alive and "noon" in raw:
                    guard.stop()
                    script.delay = 0.0  # the rest at once
        got = read(CHAT, raw, stream=True)
        assert got.end == "content_filter"
        assert text.startswith(got.text)
        assert len(got.text) < len(text) / 2
        # It comes back, and so do the answers, without a restart of the gateway.
        stack.workers[0].script = Script()
        guard.start()
        assert stack.routable("base", 200)
    finally:
        guard.stop()


def test_moderations_tell_the_same(stack: Stack, foul: list[str]) -> None:
    with stack.live.client() as client:
        answer = client.moderations.create(input=foul)
    assert len(answer.results) == len(foul)
    assert all(result.flagged for result in answer.results)


def test_responses_say_why_they_stop(stack: Stack, stub: StubWorker) -> None:
    stub.script = Script(text=BEFORE + SENTENCES[0])
    with stack.live.client() as client:
        answer = client.responses.create(model="support", input="x")
    assert answer.status == "incomplete"
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "content_filter"
    assert RESPONSES
