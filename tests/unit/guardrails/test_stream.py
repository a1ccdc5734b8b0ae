"""The guards of one response: blocking, redacting, flagging, fields, choices, silence."""

from __future__ import annotations

import json

import pytest

from guardrails.errors import GuardUnavailable
from guardrails.policy import GuardRule, Policy, default_policy
from guardrails.stream import InputGuard, OutputGuard
from guardrails.testing import FakeJudge
from guardrails.types import Piece, Release

SCRIPT = {
    "idiot": ("toxicity", "toxicity", 0.99),
    "jane@example.com": ("personal_data", "EMAIL_ADDRESS", 1.0),
    "ORD-12345": ("personal_data", "PHONE_NUMBER", 0.5),
}


def guarded(policy: Policy | None = None, judge: FakeJudge | None = None) -> OutputGuard:
    return OutputGuard(policy or default_policy(), judge or FakeJudge(SCRIPT))


def only(**rule: object) -> Policy:
    return Policy(guards=(GuardRule.model_validate({"stage": "output", **rule}),))


def text_of(*releases: Release) -> str:
    return "".join(piece.text for release in releases for piece in release.pieces)


async def test_a_sentence_goes_out_when_the_next_one_begins() -> None:
    guard = guarded()
    assert await guard.push(0, "content", "Hello there. ") == Release()
    assert await guard.push(0, "content", "How") == Release((Piece("Hello there. ", 0, 13),))
    assert guard.released_to(0, "content") == 13
    assert guard.held == 3


async def test_a_block_keeps_what_was_safe_and_ends_every_field_of_the_choice() -> None:
    guard = guarded()
    release = await guard.push(0, "content", "Hello there. You idiot! More")
    assert release == Release((Piece("Hello there. ", 0, 13),), blocked=True)
    assert await guard.push(0, "content", " text.") == Release(blocked=True)
    assert await guard.push(0, "reasoning", "Hm. Hm") == Release(blocked=True)
    assert await guard.finish(0, "content") == Release(blocked=True)
    assert guard.blocked(0)
    assert guard.flagged


async def test_choices_do_not_touch_each_other() -> None:
    guard = guarded()
    await guard.push(0, "content", "You idiot! More")
    await guard.push(1, "content", "All is well. ")
    assert text_of(await guard.finish(1, "content")) == "All is well. "
    assert not guard.blocked(1)


async def test_the_audit_tells_place_score_and_version_but_no_text() -> None:
    judge = FakeJudge(SCRIPT)
    guard = OutputGuard(default_policy(), judge, versions=judge.versions)
    await guard.scan(2, "reasoning", "Fine. You idiot! ")
    [entry] = guard.audit
    assert (entry.guard, entry.action, entry.score) == ("toxicity", "block", 0.99)
    assert (entry.choice, entry.field, entry.start, entry.end) == (2, "reasoning", 6, 17)
    assert entry.version == "fake"
    assert "idiot" not in repr(guard.audit)


async def test_redaction_puts_a_typed_placeholder() -> None:
    release = await guarded().scan(0, "content", "Write to jane@example.com. Thanks.")
    assert text_of(release) == "Write to [EMAIL_ADDRESS]. Thanks."
    assert release.pieces[1] == Piece("[EMAIL_ADDRESS]", 9, 25, redacted=True)


async def test_exempt_patterns_and_other_labels_are_left_alone() -> None:
    text = "Your order ORD-12345 and jane@example.com."
    exempt = only(guard="personal_data", action="redact", exempt=[r"ORD-\d+"])
    assert text_of(await guarded(exempt).scan(0, "content", text)) == (
        "Your order ORD-12345 and [EMAIL_ADDRESS]."
    )
    phones = only(guard="personal_data", action="redact", labels=["PHONE_NUMBER"])
    assert text_of(await guarded(phones).scan(0, "content", text)) == (
        "Your order [PHONE_NUMBER] and jane@example.com."
    )


async def test_below_the_threshold_nothing_happens() -> None:
    guard = guarded(only(guard="toxicity", action="block", threshold=0.995))
    assert not (await guard.scan(0, "content", "You idiot!")).blocked
    assert guard.audit == []


@pytest.mark.parametrize(("action", "flagged"), [("flag", True), ("annotate", False)])
async def test_flag_and_annotate_serve_the_answer(action: str, flagged: bool) -> None:
    guard = guarded(only(guard="toxicity", action=action))
    assert text_of(await guard.scan(0, "content", "You idiot!")) == "You idiot!"
    assert guard.flagged is flagged
    assert [entry.action for entry in guard.audit] == [action]


async def test_without_output_guards_text_passes_at_once_and_nobody_is_asked() -> None:
    judge = FakeJudge(SCRIPT)
    guard = guarded(Policy(), judge)
    assert await guard.push(0, "content", "You id") == Release((Piece("You id", 0, 6),))
    assert await guard.push(0, "content", "iot") == Release((Piece("iot", 6, 9),))
    assert await guard.finish(0, "content") == Release()
    assert text_of(await guard.scan(1, "arguments", "{}")) == "{}"
    assert judge.calls == []


async def test_a_unary_answer_costs_one_question() -> None:
    judge = FakeJudge(SCRIPT)
    guard = guarded(judge=judge)
    releases = await guard.scan_many(
        [
            (0, "reasoning", "Let me think. Well."),
            (0, "content", "Hello. You idiot!"),
            (1, "content", "Hello. Good day."),
            (1, "arguments", '{"a": "b"}'),
        ]
    )
    assert len(judge.calls) == 1
    assert [text_of(each) for each in releases] == [
        "Let me think. Well.", "Hello. ", "Hello. Good day.", '{"a": "b"}',
    ]  # fmt: skip
    assert [each.blocked for each in releases] == [False, True, False, False]


async def test_later_items_of_a_blocked_choice_are_blocked() -> None:
    releases = await guarded().scan_many(
        [(0, "reasoning", "You idiot!"), (0, "content", "Hello."), (1, "content", "Hello.")]
    )
    assert releases[1] == Release(blocked=True)
    assert text_of(releases[2]) == "Hello."


async def test_arguments_wait_for_their_end_and_are_flagged_rather_than_redacted() -> None:
    guard = guarded()
    text = '{"to": "jane@example.com", "note": "Hi. Ho"}'
    for character in text:
        assert await guard.push(0, "arguments", character, part=1) == Release()
    release = await guard.finish(0, "arguments", part=1)
    assert release == Release((Piece(text, 0, len(text)),))
    assert guard.flagged
    assert guard.released_to(0, "arguments", 1) == len(text)


async def test_arguments_are_blocked_whole_even_where_escapes_hide_the_text() -> None:
    text = json.dumps({"note": "All is fine. You idiot!"}).replace("idiot", "\\u0069diot")
    release = await guarded().scan(0, "arguments", text)
    assert release == Release(blocked=True)


async def test_each_tool_call_has_arguments_of_its_own() -> None:
    guard = guarded()
    await guard.push(0, "arguments", '{"a":', part=0)
    await guard.push(0, "arguments", '{"b":', part=1)
    await guard.push(0, "arguments", "1}", part=0)
    await guard.push(0, "arguments", "2}", part=1)
    assert text_of(await guard.finish(0, "arguments", part=0)) == '{"a":1}'
    assert text_of(await guard.finish(0, "arguments", part=1)) == '{"b":2}'


async def test_a_silent_judge_fails_closed() -> None:
    judge = FakeJudge(SCRIPT)
    guard = guarded(judge=judge)
    await guard.push(0, "content", "Hello there. How")
    judge.down = True
    with pytest.raises(GuardUnavailable):
        await guard.push(0, "content", " are you? I")
    assert guard.blocked(0)
    assert await guard.finish(0, "content") == Release(blocked=True)
    assert {entry.label for entry in guard.audit} == {"unavailable"}


async def test_a_silent_judge_may_fail_open_and_is_flagged_then() -> None:
    policy = only(guard="toxicity", action="block", on_failure="open")
    guard = guarded(policy, FakeJudge(SCRIPT, down=True))
    assert text_of(await guard.scan(0, "content", "You idiot!")) == "You idiot!"
    assert guard.flagged


async def test_phrases_need_no_guard_process() -> None:
    policy = only(guard="phrases", action="redact", phrases=["guaranteed returns"])
    guard = guarded(policy, FakeJudge(down=True))
    text = "We offer Guaranteed\n returns, not guaranteed returnsX."
    assert text_of(await guard.scan(0, "content", text)) == (
        "We offer [PHRASE], not guaranteed returnsX."
    )


async def test_a_unit_without_end_is_split_at_white_space() -> None:
    guard = guarded()
    text = "word " * 200
    release = await guard.push(0, "content", text)
    # The tail in which a number could still be going on stays.
    assert 400 < guard.released_to(0, "content") < 600
    assert text_of(release, await guard.finish(0, "content")) == text


async def test_an_empty_field_asks_nobody() -> None:
    judge = FakeJudge(SCRIPT)
    guard = guarded(judge=judge)
    assert await guard.finish(0, "content") == Release()
    assert await guard.scan(0, "content", "") == Release()
    assert judge.calls == []


async def test_counts_of_held_scanned_and_released() -> None:
    guard = guarded()
    await guard.scan(0, "content", "Hello there. You idiot! More")
    assert (guard.taken, guard.scanned, guard.released, guard.held) == (28, 28, 13, 15)


async def test_input_guards_flag_by_default() -> None:
    judge = FakeJudge(SCRIPT)
    verdict = await InputGuard(default_policy(), judge).check(["Be kind.", "You idiot! Help."])
    assert verdict.blocked is None
    assert verdict.flagged
    assert verdict.texts == ("Be kind.", "You idiot! Help.")
    assert len(judge.calls) == 1


async def test_input_guards_block_and_redact() -> None:
    rules = [
        {"guard": "toxicity", "stage": "input", "action": "block"},
        {"guard": "personal_data", "stage": "input", "action": "redact"},
    ]
    policy = Policy(guards=tuple(GuardRule.model_validate(rule) for rule in rules))
    guard = InputGuard(policy, FakeJudge(SCRIPT))
    verdict = await guard.check(["I am jane@example.com."])
    assert verdict.texts == ("I am [EMAIL_ADDRESS].",)
    refused = await guard.check(["Hello.", "You idiot!"])
    assert refused.blocked is not None
    assert refused.blocked.guard == "toxicity"


async def test_input_without_guards_is_let_through() -> None:
    judge = FakeJudge(SCRIPT, down=True)
    verdict = await InputGuard(Policy(), judge).check(["You idiot!"])
    assert verdict.texts == ("You idiot!",)
