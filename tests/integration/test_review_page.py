"""The review pages in a real Chromium: an answer is corrected by hand and stands in a data set."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.live import wait_for
from tests.stub.script import Script
from tests.stub.server import StubWorker

from .stack import Stack

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's package chromium"),
]
SYSTEM = "Answer this question about Acme Cloud in one short sentence."
HOSTILE = "<script>document.title = 'owned'</script><b>What does Kite Small cost?</b>"
ANSWER = "Kite Small costs 12 euros a month."
CORRECTION = "Kite Small costs 9 euros a month."
WAIT_MS = 60_000
PICTURES = os.environ.get("ADAPTERLOOP_TEST_PICTURES")
"""A folder for screenshots, where someone wants to see them."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"], timeout=WAIT_MS
        )
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any, stack: Stack) -> Iterator[Any]:
    context = browser.new_context(
        base_url=stack.live.root, viewport={"width": 1280, "height": 900}, color_scheme="light"
    )
    page = context.new_page()
    # Whatever a page asks for comes from the gateway itself.
    page.on("request", lambda request: outside(request.url, stack))
    page.set_default_timeout(WAIT_MS)
    yield page
    context.close()


def outside(url: str, stack: Stack) -> None:
    assert url.startswith(stack.live.root), url


def picture(page: Any, name: str) -> None:
    if PICTURES:
        page.screenshot(path=str(Path(PICTURES) / f"{name}.png"))


def sign_in(page: Any, key: str) -> None:
    page.goto("/ui")
    page.get_by_label("Key").fill(key)
    page.get_by_role("button", name="Sign in").click()


def flagged(stack: Stack, question: str, answer: str, **feedback: Any) -> str:
    """Let the worker answer a question, and flag the answer; gives its id once it is queued."""
    stack.workers[0].script = Script(text=answer)
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
    with stack.live.http() as http:
        said = http.post("/v1/chat/completions", json={"model": "support", "messages": messages})
        response_id = str(said.json()["id"])
        http.post(
            "/v1/feedback", json={"response_id": response_id, "rating": "down", **feedback}
        ).raise_for_status()
    assert wait_for(lambda: response_id in queued(stack), 60)
    return response_id


def queued(stack: Stack, status: str = "open") -> dict[str, Any]:
    """All items, by answer: other tests on this stack leave theirs too."""
    found, wanted = {}, {"status": status, "limit": 200}
    while True:
        page = api(stack, "GET", "/review", params=wanted).json()
        found |= {item["response_id"]: item for item in page["data"]}
        if not page["has_more"]:
            return found
        wanted["after"] = page["data"][-1]["id"]


def api(stack: Stack, method: str, path: str, **options: Any) -> httpx.Response:
    with stack.live.admin() as admin:
        return admin.request(method, f"/admin/v1{path}", **options)


def test_an_answer_is_corrected_by_hand_and_stands_in_the_next_data_set(
    stack: Stack, stub: StubWorker, page: Any
) -> None:
    response_id = flagged(
        stack, HOSTILE, ANSWER, comment="That is the old price.", correction=CORRECTION
    )
    page.goto("/ui/review")
    picture(page, "sign-in")
    sign_in(page, "sk-al-nobody")
    assert "not the key of a reviewer" in page.get_by_role("alert").inner_text()
    sign_in(page, stack.live.api_key)  # an app's key does not open the pages
    page.get_by_role("alert").wait_for()
    sign_in(page, stack.live.reviewer_key)
    page.get_by_role("heading", name="Answers to review").wait_for()
    picture(page, "queue")
    item = queued(stack)[response_id]
    page.locator(f"a[href='/ui/review/{item['id']}']").first.click()

    assert HOSTILE in page.locator(".message.user").inner_text()
    assert "owned" not in page.title()
    assert ANSWER in page.locator("#answer").inner_text()
    assert "That is the old price." in page.locator(".user-said").inner_text()
    editor = page.get_by_label("What should it have been?")
    assert editor.input_value() == CORRECTION  # the user's own, to begin with
    assert page.locator("#diff del").inner_text() == "12"
    assert page.locator("#diff ins").inner_text() == "9"
    picture(page, "item")

    page.wait_for_load_state()
    page.keyboard.press("e")
    editor.fill(ANSWER)
    page.keyboard.press("Control+Enter")  # nothing was changed: refused, and nothing is lost
    assert "same as the rejected answer" in page.get_by_role("alert").inner_text()
    page.wait_for_load_state()
    editor.fill(CORRECTION)
    page.keyboard.press("Control+Enter")
    page.get_by_text(f"Item {item['id']} is decided.").wait_for()
    picture(page, "decided")
    page.wait_for_load_state()  # keys come with the script
    page.keyboard.press("z")
    page.get_by_label("What should it have been?").fill(CORRECTION)
    page.get_by_role("button", name="Wrong, save correction").click()
    page.get_by_text(f"Item {item['id']} is decided.").wait_for()

    done = queued(stack, "done")[response_id]
    assert [review["undone_at"] is None for review in done["reviews"]] == [False, True]
    made = api(stack, "POST", "/datasets", json={"alias": "support"}).json()
    text = api(stack, "GET", f"/datasets/{made['digest']}/rows").text
    rows = [json.loads(line) for line in text.splitlines()]
    (row,) = [row for row in rows if row["lineage"].get("response_id") == response_id]
    assert (row["instruction"], row["output"], row["origin"]) == (SYSTEM, CORRECTION, "correction")
    told = api(stack, "GET", f"/lineage/{response_id}").json()
    assert made["digest"] in [one["dataset"] for one in told["rows"]]


def test_it_works_on_a_telephone_and_without_a_script(
    stack: Stack, stub: StubWorker, browser: Any
) -> None:
    response_id = flagged(stack, "What does Silo Team cost?", "Silo Team costs 1 euro a month.")
    item = queued(stack)[response_id]
    context = browser.new_context(
        base_url=stack.live.root,
        viewport={"width": 390, "height": 844},
        java_script_enabled=False,
        color_scheme="dark",
    )
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    sign_in(page, stack.live.reviewer_key)
    page.get_by_role("heading", name="Answers to review").wait_for()
    picture(page, "queue-telephone")
    page.goto(f"/ui/review/{item['id']}")
    picture(page, "item-telephone")
    page.get_by_role("button", name="Correct", exact=False).first.click()
    page.get_by_text(f"Item {item['id']} is decided.").wait_for()
    assert queued(stack, "done")[response_id]["reviews"][0]["verdict"] == "correct"
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/ui/sign-in")
    page.goto(f"/ui/review/{item['id']}")
    assert page.url.endswith(f"/ui/sign-in?next=%2Fui%2Freview%2F{item['id']}")
    context.close()


def test_forms_of_others_are_refused(stack: Stack, stub: StubWorker) -> None:
    response_id = flagged(stack, "What does Weave Basic cost?", "It is free.")
    item = queued(stack)[response_id]["id"]
    with httpx.Client(base_url=stack.live.root, timeout=60) as visitor:
        bare = visitor.post(f"/ui/review/{item}", data={"verdict": "correct"})
        assert (bare.status_code, bare.headers["location"]) == (303, "/ui/sign-in")
        visitor.post("/ui/sign-in", data={"key": stack.live.reviewer_key})
        for token in ("", "wrong"):
            forged = visitor.post(f"/ui/review/{item}", data={"verdict": "correct", "token": token})
            assert (forged.status_code, "not from this session" in forged.text) == (403, True)
        cookie = visitor.cookies["adapterloop_session"]
        shown = visitor.get(f"/ui/review/{item}")
        assert shown.status_code == 200
        assert "script-src" not in shown.headers["content-security-policy"]
        assert shown.headers["content-security-policy"].startswith("default-src 'self'")
        for spoilt in (cookie[:-1], "1.99999999999.", cookie.replace(".", ".9", 1), "x"):
            again = httpx.get(
                f"{stack.live.root}/ui/review/{item}",
                headers={"cookie": f"adapterloop_session={spoilt}"},
                timeout=60,
            )
            assert again.status_code == 303
        away = visitor.post(
            "/ui/sign-in", data={"key": stack.live.reviewer_key, "next": "https://evil.test"}
        )
        assert away.headers["location"] == "/ui/review"
    assert response_id in queued(stack, "claimed")
