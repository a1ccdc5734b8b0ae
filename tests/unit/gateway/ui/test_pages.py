"""The pages: what they show, what they keep, and what they refuse."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
from sqlalchemy import update

from feedback.db import writing
from feedback.review import ReviewDesk
from feedback.tables import REVIEW_ITEMS

from .conftest import House, Visitor

Visit = Callable[[], Visitor]
HOSTILE = "<script>alert('owned')</script>"


async def test_the_queue_shows_what_waits_by_reason_and_alias(house: House, ann: Visitor) -> None:
    house.item(1, priority=3.0)
    house.item(2, "doubtful", alias="triage")
    page = await ann.get("/ui/review")
    assert page.index("Question 1?") < page.index("Question 2?")
    assert 'all <span class="count">2</span>' in page
    assert 'doubtful <span class="count">1</span>' in page
    for query in ("alias=triage", "reason=doubtful", "alias=triage&reason=doubtful"):
        page = await ann.get(f"/ui/review?{query}")
        assert "Question 2?" in page
        assert "Question 1?" not in page
    assert "Nothing waits here" in await ann.get("/ui/review?reason=audit")
    assert "Nothing here" in await ann.get("/ui/review?status=done")
    assert "Question 1?" in await ann.get("/ui/review?status=x&alias=%00&reason=y&after=z&done=q")


async def test_a_long_queue_has_pages(house: House, ann: Visitor) -> None:
    items = [house.item(number) for number in range(1, 53)]
    first = await ann.get("/ui/review")
    assert first.count("<li>") == 50 + 5
    assert f"/ui/review?after={items[49]}" in first
    second = await ann.get(f"/ui/review?after={items[49]}")
    assert "Question 51?" in second
    assert "Question 50?" not in second
    assert ">More<" not in second


async def test_a_key_for_some_aliases_sees_those(house: House, visit: Visit) -> None:
    for number in range(1, 52):
        hidden = house.item(number, priority=9.0)
    mine = house.item(60, alias="triage")
    visitor = visit()
    await visitor.sign_in(house.key(aliases=["triage"]))
    page = await visitor.get("/ui/review")
    assert "Question 60?" in page
    assert page.count("<li>") == 1 + 5
    await visitor.get(f"/ui/review/{hidden}", 404)
    done = await visitor.post(f"/ui/review/{mine}", verdict="correct")
    assert done.headers["location"] == f"/ui/review?done={mine}"


async def test_other_tenants_items_are_not_there(house: House, visit: Visit) -> None:
    item = house.item()
    visitor = visit()
    await visitor.sign_in(house.key("admin", tenant="other"))
    assert "Question 1?" not in await visitor.get("/ui/review")
    await visitor.get(f"/ui/review/{item}", 404)
    for path in (f"/ui/review/{item}", f"/ui/review/{item}/undo"):
        assert (await visitor.post(path, verdict="correct")).status_code == 404


async def test_whatever_was_said_is_text(house: House, ann: Visitor) -> None:
    item = house.item(
        messages=[{"role": HOSTILE, "content": HOSTILE}],
        choices=[{"index": 0, "content": HOSTILE, "reasoning": HOSTILE}],
    )
    house.said(1, comment=HOSTILE, labels=[HOSTILE], correction="</textarea>" + HOSTILE)
    for path in ("/ui/review", f"/ui/review/{item}"):
        page = await ann.get(path)
        assert "&lt;script&gt;alert" in page
        assert "<script>" not in page
        assert "</textarea>&lt;" not in page


async def test_messages_of_every_shape(house: House, ann: Visitor) -> None:
    call = {"id": "c", "function": {"name": "price_of", "arguments": '{"plan": "small"}'}}
    item = house.item(
        messages=[
            {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:x"}}]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"type": "function_call_output", "call_id": "c", "output": "9 euros"},
            {"role": "user"},
        ],
        choices=[
            {"index": 1, "content": "Other."},
            {"index": 0, "content": None, "tool_calls": [{"name": "look", "arguments": "{}"}]},
        ],
        confidence_mean=None,
        outcome="client_gone",
    )
    assert "look({})" in await ann.get("/ui/review")
    page = await ann.get(f"/ui/review/{item}")
    for text in ("Be brief.", "image_url", "price_of(", "function_call_output", "9 euros"):
        assert text in page
    for text in ("look({})", "the first of 2 choices", "outcome: client_gone"):
        assert text in page


async def test_it_says_why_an_answer_is_here(house: House, ann: Visitor) -> None:
    entry = {"guard": "toxicity", "label": "insult", "score": 0.934, "stage": "output"}
    audit = [entry | {"action": "block"}, entry | {"action": "annotate", "label": "calm"}]
    page = await ann.get(f"/ui/review/{house.item(1, 'guarded', audit=audit)}")
    assert "Guard toxicity blocked the answer (insult, score 0.93)." in page
    assert "calm" not in page
    assert "confidence 61%, least sure token 14%" in page
    page = await ann.get(f"/ui/review/{house.item(2, 'audit')}")
    assert "Drawn at random" in page


async def test_a_decision_leads_to_the_next_item_of_the_same_kind(
    house: House, ann: Visitor
) -> None:
    first, _, third = house.item(1), house.item(2, "doubtful"), house.item(3)
    done = await ann.post(
        f"/ui/review/{first}?reason=flagged",
        verdict="wrong",
        correction="Better.\r\nStill.",
        correctness="0.5",
        safety="7",
    )
    assert done.headers["location"] == f"/ui/review/{third}?reason=flagged&done={first}"
    page = await ann.get(done.headers["location"])
    assert f"Item {first} is decided." in page
    desk = ReviewDesk(house.engine)
    review = desk.get("default", first).verdict
    assert review is not None
    assert (review["correction"], review["scores"]) == ("Better.\nStill.", {"correctness": 0.5})
    back = await ann.post(f"/ui/review/{first}/undo?reason=flagged")
    assert back.headers["location"] == f"/ui/review/{first}?reason=flagged"
    assert desk.get("default", first).verdict is None


async def test_wrong_without_knowing_better(house: House, ann: Visitor) -> None:
    item = house.item()
    await ann.post(f"/ui/review/{item}", verdict="wrong", correction=" \r\n")
    review = ReviewDesk(house.engine).get("default", item).verdict
    assert review is not None
    assert (review["verdict"], review["correction"]) == ("wrong", None)


async def test_a_correction_is_scrubbed(house: House, ann: Visitor) -> None:
    item = house.item()
    await ann.post(f"/ui/review/{item}", verdict="wrong", correction="Ask bob@here.com.")
    review = ReviewDesk(house.engine).get("default", item).verdict
    assert review is not None
    assert review["correction"].startswith("Ask ")
    assert "bob@here.com" not in review["correction"]


async def test_what_is_refused_is_not_lost(house: House, ann: Visitor) -> None:
    item = house.item()
    same = await ann.post(
        f"/ui/review/{item}", verdict="wrong", correction="Answer 1. ", relevance="1"
    )
    assert same.status_code == 400
    assert "same as the rejected answer" in same.text
    assert "Answer 1. </textarea>" in same.text
    assert 'name="relevance" value="1" checked' in same.text
    for fields in ({"verdict": "maybe"}, {"verdict": "wrong", "correction": "a\0b"}):
        assert (await ann.post(f"/ui/review/{item}", **fields)).status_code == 400
    large = await ann.post(f"/ui/review/{item}", verdict="wrong", correction="x" * 600_000)
    assert large.status_code == 413


async def test_what_another_has_is_theirs(house: House, ann: Visitor, visit: Visit) -> None:
    item = house.item()
    ben = visit()
    await ben.sign_in(house.key("admin"))
    await ann.get(f"/ui/review/{item}")
    mine = await ann.get("/ui/review")  # one's own claim stays in sight
    assert "Question 1?" in mine
    assert "yours now" in mine
    assert "Question 1?" not in await ben.get("/ui/review")
    assert "has this item for another" in await ben.get(f"/ui/review/{item}")
    assert (await ben.post(f"/ui/review/{item}", verdict="correct")).status_code == 409
    await ann.post(f"/ui/review/{item}", verdict="correct")
    assert "Undo" not in await ben.get(f"/ui/review/{item}")
    assert (await ben.post(f"/ui/review/{item}/undo")).status_code == 409


async def test_an_item_that_was_opened_again_can_be_decided_again(
    house: House, ann: Visitor
) -> None:
    item = house.item()
    await ann.post(f"/ui/review/{item}", verdict="correct")
    with writing(house.engine) as connection:  # as a later flag does
        connection.execute(update(REVIEW_ITEMS).values(status="open"))
    page = await ann.get(f"/ui/review/{item}")
    assert "an earlier verdict" in page
    assert 'id="decision"' in page


@pytest.mark.parametrize("path", ["/ui/nowhere", "/ui/review/x", "/ui/static/none.js"])
async def test_what_is_not_there_is_a_page(house: House, ann: Visitor, path: str) -> None:
    page = await ann.http.get(path)
    assert page.status_code == 404
    assert page.headers["content-type"].startswith("text/html")
    assert "There is no such page." in page.text


async def test_other_mistakes_are_pages(house: House, ann: Visitor) -> None:
    assert "no such review item" in await ann.get(f"/ui/review/{2**40}", 404)
    wrong = await ann.http.delete("/ui/review")
    assert wrong.status_code == 405
    assert set(wrong.headers["allow"].split(", ")) == {"GET", "HEAD"}
    chunked = await ann.http.post("/ui/review/1", content=_chunks())
    assert chunked.status_code == 413


async def _chunks() -> AsyncIterator[bytes]:
    yield b"verdict=correct"


async def test_every_answer_is_secured(house: House, ann: Visitor, visit: Visit) -> None:
    for visitor, path in (
        (visit(), "/ui"),
        (visit(), "/ui/sign-in"),
        (ann, "/ui/review"),
        (ann, "/ui/static/none.js"),
        (ann, "/ui/nowhere"),
    ):
        headers = (await visitor.http.get(path)).headers
        assert headers["content-security-policy"].startswith("default-src 'self'; frame-anc")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["cache-control"] == "no-store"
        assert headers["referrer-policy"] == "same-origin"


async def test_files_are_kept_by_browsers_until_they_change(house: House, ann: Visitor) -> None:
    page = await ann.get("/ui/review")
    for name in ("review.js", "style.css", "icon.svg"):
        (address,) = {part for part in page.split('"') if part.startswith(f"/ui/static/{name}?v=")}
        file = await ann.http.get(address)
        assert file.status_code == 200
        assert "immutable" in file.headers["cache-control"]
        assert file.headers["x-content-type-options"] == "nosniff"


async def test_the_address_leads_to_the_queue(house: House, ann: Visitor) -> None:
    for path in ("/ui", "/ui/"):
        page = await ann.http.get(path)
        assert (page.status_code, page.headers["location"]) == (303, "/ui/review")


async def test_a_page_that_fails_says_so(
    house: House, ann: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ReviewDesk, "queue", lambda *_, **__: 1 / 0)
    page = await ann.http.get("/ui/review")
    assert page.status_code == 500
    assert "Something went wrong" in page.text
    assert page.headers["x-frame-options"] == "DENY"
