"""Scrubbing: every text of a record, consistently, and nothing else."""

import json
from typing import Any

import pytest

from feedback.conversation import conversation_of
from feedback.introductions import introduced, mentions
from feedback.opening import scrubbed_captures, scrubbed_feedback
from feedback.scrub import Record, Scrubber

from .conftest import EMAIL, EmailFinder, a_capture, some_feedback


async def scrub(scrubber: Scrubber, value: Any, response_id: str = "r") -> Any:
    (clean,) = await scrubber.scrub([Record("default", response_id, "support", value)])
    return clean


async def test_a_conversation_stays_one(scrubber: Scrubber) -> None:
    (row,) = await scrubbed_captures(scrubber, [a_capture()])
    question = row["messages"][0]["content"]
    answer = row["choices"][0]["content"]
    assert "Maria" not in question + answer
    assert "corp.test" not in question + answer
    (address,) = EMAIL.findall(question)
    assert address in answer
    name = question.removeprefix("I am ").split()[0]
    assert answer.endswith(f", {name}.")


async def test_a_correction_goes_with_its_answer(scrubber: Scrubber) -> None:
    (row,) = await scrubbed_captures(scrubber, [a_capture()])
    feedback = some_feedback(correction="It is m.k@corp.test", comment="ask m.k@corp.test")
    (clean,) = await scrubbed_feedback(scrubber, [feedback])
    (address,) = EMAIL.findall(row["messages"][0]["content"])
    assert clean.correction == f"It is {address}"
    assert clean.comment == f"ask {address}"


async def test_what_was_scrubbed_before_stays_as_a_whole(scrubber: Scrubber) -> None:
    """`al@b.test` was seen; within a longer address it is another value."""
    seen = {"content": "Write to al@b.test or x.cal@b.test"}
    text = "al@b.test, x.cal@b.test, cal@b.test"
    record = Record("default", "r", "support", text, seen)
    (clean,) = await scrubber.scrub([record])
    first, second, third = clean.split(", ")
    assert (first, second) == ("al@b.test", "x.cal@b.test")
    assert third != "cal@b.test"


async def test_answers_cannot_be_linked(scrubber: Scrubber) -> None:
    first, second = await scrubbed_captures(scrubber, [a_capture(1), a_capture(2)])
    assert first["messages"] != second["messages"]
    assert first["session"] == second["session"]
    assert first["session"] != "alice"


async def test_who_asked_is_not_kept(scrubber: Scrubber) -> None:
    (row,) = await scrubbed_captures(scrubber, [a_capture()])
    assert row["parameters"] == {"temperature": 0.5}
    assert "corp.test" not in json.dumps(row, default=str)


async def test_tool_arguments_stay_json(scrubber: Scrubber) -> None:
    call = {"id": "call_a@b.test", "name": "mail", "arguments": '{"to": "a@b.test"}'}
    clean = await scrub(scrubber, {"tool_calls": [call]})
    (after,) = clean["tool_calls"]
    assert after["id"] == call["id"]
    assert json.loads(after["arguments"])["to"] not in ("a@b.test", "")


async def test_order_ids_and_products_stay(scrubber: Scrubber) -> None:
    text = "The Kite server of order AC-6890 is slow. Regards,\nSupport"
    assert await scrub(scrubber, text) == text


async def test_no_character_that_postgresql_refuses(scrubber: Scrubber) -> None:
    assert await scrub(scrubber, "a\0b") == "a\ufffdb"


async def test_patterns_go_before_names(scrubber: Scrubber, finder: EmailFinder) -> None:
    clean = await scrub(scrubber, "My name is Maria Keller. Write to Maria@corp.test")
    assert "Maria" not in clean
    assert len(EMAIL.findall(clean)) == 1


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Hi, I am Maria Keller.", ["Maria Keller"]),
        ("my name is john smith and I wait", ["john smith"]),
        ("my name is wrong on the invoice", []),
        ("Dear Mr. van Houten,", ["van Houten"]),
        ("Dear Ms. Keller,", ["Keller"]),
        ("Hello Priya, all is well.", ["Priya"]),
        ("Hello everyone, all is well.", []),
        ("Best regards,\nTobias Wunderlich", ["Tobias Wunderlich"]),
        ("Thanks\nAnna-Lena O'Brien\nACME", ["Anna-Lena O'Brien"]),
        ("I am Writing about Silo", []),
        ("I am asking again. This is the third time.", []),
        ("This is production and we lose money.", []),
        ("Please ask about the Kite server", []),
    ],
)
def test_introductions(text: str, names: list[str]) -> None:
    found = {text[start:end] for start, end in introduced(text)}
    assert found == set(names)


def test_mentions_are_whole_words() -> None:
    text = "Maria, Mariachi and Keller; maria"
    assert [text[a:b] for a, b in mentions(text, ["Maria Keller"])] == ["Maria", "Keller"]


@pytest.mark.parametrize(
    ("request_", "messages", "parameters"),
    [
        ({"prompt": "a", "n": 2}, [{"role": "user", "content": "a"}], {"n": 2}),
        (
            {"prompt": ["a", "b"]},
            [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
            {},
        ),
        (
            {"input": "a", "instructions": "be kind", "model": "m"},
            [{"role": "system", "content": "be kind"}, {"role": "user", "content": "a"}],
            {},
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_text", "text": "a"}]}]},
            [{"role": "user", "content": "a"}],
            {},
        ),
        (None, [], {}),
    ],
)
def test_every_route_gives_messages(
    request_: Any, messages: list[Any], parameters: dict[str, Any]
) -> None:
    assert conversation_of(request_) == (messages, parameters)
