"""An answer through the guards: streamed and whole answers let out the same, and never too much."""

import pytest

from gateway.serving.answers import BareToken, Parsed, Part, Token, ToolDelta, Usage, _Function
from gateway.serving.events import Event, Finished, TextReleased, ToolCalled, Used
from gateway.serving.turn import Turn
from guardrails.policy import GuardRule, Policy
from guardrails.stream import OutputGuard
from guardrails.testing import FakeJudge

SCRIPT = {
    "You fool.": ("toxicity", "toxicity", 0.99),
    "a@b.example": ("personal_data", "EMAIL_ADDRESS", 1.0),
}
POLICY = Policy(
    name="test",
    guards=(
        GuardRule(guard="toxicity", stage="output", threshold=0.8, action="block"),
        GuardRule(guard="personal_data", stage="output", threshold=0.5, action="redact"),
    ),
)


def turn(*, unary: bool, wants_tokens: bool = False, judge: FakeJudge | None = None) -> Turn:
    guard = OutputGuard(POLICY, judge or FakeJudge(SCRIPT))
    return Turn(guard, wants_tokens=wants_tokens, unary=unary)


def tokens(text: str) -> list[Token]:
    words = [word + " " for word in text.split(" ")]
    words[-1] = words[-1][:-1]
    return [Token(word, -0.5, list(word.encode())) for word in words]


async def whole(text: str, **more: bool) -> list[Event]:
    made = turn(unary=True, **more)
    part = Part(0, [("content", text)], tokens(text), None, "stop")
    events = await made.take(Parsed([part], Usage(3, 5, 8)))
    return events + await made.end()


async def streamed(text: str, **more: bool) -> list[Event]:
    made = turn(unary=False, **more)
    events: list[Event] = []
    for token in tokens(text):
        part = Part(0, [("content", token.token)], [token])
        events += await made.take(Parsed([part], Usage(3, 1, 4)))
    events += await made.take(Parsed([Part(0, [], (), None, "stop")], Usage(3, 5, 8)))
    events += await made.take(Parsed([], Usage(3, 5, 8)))
    return events + await made.end()


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextReleased))


def token_text(events: list[Event]) -> str:
    return "".join(
        token.token for event in events if isinstance(event, TextReleased) for token in event.tokens
    )


def reason(events: list[Event]) -> list[str]:
    return [event.reason for event in events if isinstance(event, Finished)]


@pytest.mark.parametrize(
    ("raw", "out", "finish"),
    [
        ("All is well. It comes today.", "All is well. It comes today.", "stop"),
        ("It comes today. You fool. Bye.", "It comes today. ", "content_filter"),
        ("Write to a@b.example please.", "Write to [EMAIL_ADDRESS] please.", "stop"),
        ("You fool.", "", "content_filter"),
    ],
)
async def test_streamed_and_whole_answers_let_out_the_same(raw: str, out: str, finish: str) -> None:
    for events in (await whole(raw), await streamed(raw)):
        assert text_of(events) == out
        assert reason(events) == [finish]
        assert isinstance(events[-1], Used)


async def test_logprobs_of_blocked_and_redacted_text_stay_back() -> None:
    raw = "Write to a@b.example please. You fool. Bye."
    for events in (await whole(raw, wants_tokens=True), await streamed(raw, wants_tokens=True)):
        assert token_text(events) == "Write to please. "


async def test_nobody_who_did_not_ask_gets_logprobs() -> None:
    assert token_text(await streamed("All is well.")) == ""


async def test_usage_of_a_stream_is_the_workers_last_word() -> None:
    events = await streamed("All is well.")
    assert events[-1] == Used(Usage(3, 5, 8))


async def test_an_answer_that_guards_cut_short_is_billed_for_what_was_made() -> None:
    made = turn(unary=False)
    for index, text in enumerate(["You ", "fool.", " Bye."]):
        await made.take(Parsed([Part(0, [("content", text)])], Usage(7, index + 1, 0)))
    assert made.cut_short(1)
    assert not made.cut_short(2)
    assert made.total == Usage(7, 3)


async def test_a_broken_answer_without_usage_is_known_by_its_tokens_or_messages() -> None:
    """Some kinds of worker tell the usage at the end only, and logprobs where they are asked."""
    made, bare = turn(unary=False), turn(unary=False)
    for text in ("You ", "are ", "well"):
        await made.take(Parsed([Part(0, [("content", text)], [BareToken(text, -0.1)] * 2)]))
        await bare.take(Parsed([Part(0, [("content", text)])]))
    await bare.take(Parsed([Part(0, [])]))
    assert (made.total, bare.total) == (Usage(0, 6), Usage(0, 3))


async def test_tool_calls_are_put_together_and_sent_whole() -> None:
    made = turn(unary=False)
    pieces = [("c1", "look", '{"q": '), (None, None, '"parcel"}')]
    events: list[Event] = []
    for call_id, name, arguments in pieces:
        delta = ToolDelta(_Function(name, arguments), 0, call_id)
        events += await made.take(Parsed([Part(0, [], (), [delta])]))
    assert events == []
    events = await made.take(Parsed([Part(0, [], (), None, "tool_calls")]))
    assert events == [
        ToolCalled(0, 0, "c1", "look", '{"q": "parcel"}'),
        Finished(0, "tool_calls"),
    ]


@pytest.mark.parametrize("unary", [True, False])
async def test_blocked_arguments_take_the_call_with_them(unary: bool) -> None:
    made = turn(unary=unary)
    deltas = [
        ToolDelta(_Function("say", '{"text": "fine"}'), 0, "c1"),
        ToolDelta(_Function("say", '{"text": "You fool."}'), 1, "c2"),
    ]
    events = await made.take(Parsed([Part(0, [], (), deltas, "tool_calls")]))
    assert [event for event in events if isinstance(event, ToolCalled)][1:] == []
    assert reason(events) == ["content_filter"]


async def test_choices_are_judged_apart() -> None:
    made = turn(unary=True)
    parts = [
        Part(0, [("content", "You fool.")], (), None, "stop"),
        Part(1, [("content", "All is well.")], (), None, "stop"),
    ]
    events = await made.take(Parsed(parts))
    assert text_of(events) == "All is well."
    assert reason(events) == ["content_filter", "stop"]


async def test_withholding_ends_what_is_open() -> None:
    made = turn(unary=False)
    await made.take(Parsed([Part(0, [("content", "All is")]), Part(1, [("content", "well")])]))
    assert reason(made.withhold()) == ["content_filter", "content_filter"]
