"""What the stream window promises, for any text and any way to cut it."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from guardrails.policy import GuardRule, Policy
from guardrails.stream import OutputGuard
from guardrails.testing import FakeJudge
from guardrails.types import Piece

EVIL = "evil"
NUMBER = "+1 555. 0100"
NAME = "Jo. Smith"
PHRASE = "go. Home now"
MAIL = "jane@example.com"

JUDGE_SCRIPT = {
    EVIL: ("toxicity", "toxicity", 1.0),
    NUMBER: ("personal_data", "PHONE_NUMBER", 1.0),
    MAIL: ("personal_data", "EMAIL_ADDRESS", 1.0),
    NAME: ("names", "PERSON", 1.0),
}

WORDS = st.sampled_from(
    [
        "the ", "cat ", "Sat. ", "on? ", "A ", "mat!\n", "\n\n", "\n", " ", "…", "e.g. ", "3.14 ",
        "ünï ", "日本。", "🙂 ", "x" * 90, "“So.” ", "go. ", "Home ", "now ", "Jo. ", "Smith ",
        "+1 ", "555. ", "0100 ", "jane", "@", "example", ".com ", "- ", "\r\n\r\n", " " * 30,
        NUMBER + " ", NAME + ", ", PHRASE + " ", MAIL + " ", "the end ",
    ]
)  # fmt: skip
TEXTS = st.lists(WORDS, max_size=60).map("".join)
FOUL_TEXTS = st.lists(WORDS | st.just(EVIL + " "), max_size=60).map("".join)
ANY_TEXT = st.text(max_size=300)
CUTS = st.lists(st.integers(1, 40), min_size=1, max_size=60)


def rule(guard: str, action: str, phrases: tuple[str, ...] = ()) -> GuardRule:
    return GuardRule.model_validate(
        {"guard": guard, "stage": "output", "action": action, "phrases": phrases}
    )


BLOCKING = Policy(
    guards=(
        rule("toxicity", "block"),
        rule("personal_data", "block"),
        rule("names", "block"),
        rule("phrases", "block", (PHRASE,)),
    )
)
REDACTING = Policy(
    guards=(
        rule("toxicity", "block"),
        rule("personal_data", "redact"),
        rule("names", "redact"),
        rule("phrases", "redact", (PHRASE,)),
    )
)
SPANS_ONLY = Policy(guards=(rule("personal_data", "redact"), rule("phrases", "block", (PHRASE,))))
NUMBERS_ONLY = Policy(guards=(rule("toxicity", "flag"), rule("personal_data", "redact")))
POLICIES = st.sampled_from([BLOCKING, REDACTING, SPANS_ONLY, NUMBERS_ONLY])


def pieces_of(text: str, sizes: list[int]) -> list[str]:
    out, at, turn = [], 0, 0
    while at < len(text):
        size = sizes[turn % len(sizes)]
        out.append(text[at : at + size])
        at, turn = at + size, turn + 1
    return out


async def streamed(policy: Policy, text: str, sizes: list[int]) -> tuple[list[Piece], bool]:
    guard, out, blocked = OutputGuard(policy, FakeJudge(JUDGE_SCRIPT)), [], False
    for piece in pieces_of(text, sizes):
        release = await guard.push(0, "content", piece)
        assert not (blocked and release.pieces)
        out += release.pieces
        blocked = release.blocked
    release = await guard.finish(0, "content")
    return joined([*out, *release.pieces]), release.blocked


async def scanned(policy: Policy, text: str) -> tuple[list[Piece], bool]:
    release = await OutputGuard(policy, FakeJudge(JUDGE_SCRIPT)).scan(0, "content", text)
    return joined(release.pieces), release.blocked


def joined(pieces: list[Piece] | tuple[Piece, ...]) -> list[Piece]:
    out: list[Piece] = []
    for piece in pieces:
        if out and not piece.redacted and not out[-1].redacted:
            before = out.pop()
            piece = Piece(before.text + piece.text, before.start, piece.end)
        out.append(piece)
    return out


def leaked(text: str, pieces: list[Piece], secret: str) -> bool:
    """Whether any character of any occurrence of the secret went out as it was."""
    at = text.find(secret)
    while at >= 0:
        end = at + len(secret)
        if any(p.start < end and at < p.end for p in pieces if not p.redacted):
            return True
        at = text.find(secret, at + 1)
    return False


@settings(max_examples=300)
@given(POLICIES, FOUL_TEXTS, CUTS)
def test_the_same_goes_out_however_the_text_is_cut(
    policy: Policy, text: str, sizes: list[int]
) -> None:
    assert asyncio.run(streamed(policy, text, sizes)) == asyncio.run(scanned(policy, text))


@settings(max_examples=150)
@given(POLICIES, ANY_TEXT, CUTS)
def test_any_unicode_is_the_same_however_it_is_cut(
    policy: Policy, text: str, sizes: list[int]
) -> None:
    assert asyncio.run(streamed(policy, text, sizes)) == asyncio.run(scanned(policy, text))


@settings(max_examples=300)
@given(st.sampled_from([BLOCKING, REDACTING]), FOUL_TEXTS, CUTS)
def test_no_character_of_a_withheld_span_goes_out(
    policy: Policy, text: str, sizes: list[int]
) -> None:
    pieces, blocked = asyncio.run(streamed(policy, text, sizes))
    for secret in (EVIL, NUMBER, NAME, MAIL):
        assert not leaked(text, pieces, secret)
    if EVIL in text:
        assert blocked


@settings(max_examples=300)
@given(POLICIES, FOUL_TEXTS, CUTS)
def test_pieces_stand_side_by_side_in_the_raw_text(
    policy: Policy, text: str, sizes: list[int]
) -> None:
    pieces, blocked = asyncio.run(streamed(policy, text, sizes))
    at = 0
    for piece in pieces:
        assert piece.start == at
        assert piece.redacted or piece.text == text[piece.start : piece.end]
        at = piece.end
    assert blocked or at == len(text)


@settings(max_examples=150)
@given(ANY_TEXT, CUTS)
def test_harmless_text_comes_through_byte_for_byte(text: str, sizes: list[int]) -> None:
    pieces, blocked = asyncio.run(streamed(REDACTING, text, sizes))
    assert "".join(piece.text for piece in pieces) == text
    assert not blocked
