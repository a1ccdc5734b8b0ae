"""By what a call finds a worker again: its session, or what its prompt begins with."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.registry.snapshot import Key, Version
from gateway.serving.affinity import PREFIX, affinity
from gateway.serving.call import Call
from gateway.serving.forms.base import Form
from gateway.serving.forms.chat import ChatForm
from gateway.serving.forms.completions import CompletionForm
from gateway.settings import Limits
from tests.unit.gateway.workers.fake import version

KEY = Key(1, "acme", "acme", "app", None, None)
LONG = "You answer for Acme. " * (PREFIX // 20)
ONE, TWO = version(1), version(2)


def found_by(
    form: Form, asked_of: Version = ONE, session: str | None = None, **body: Any
) -> tuple[str, str]:
    """What two calls of the same body are found again by."""
    keys = []
    for request_id in ("req_1", "req_2"):
        read = form.read(msgspec.json.encode({"model": "support", **body}), Limits())
        made = Call("", "", KEY, "support", read.request, b"", request_id, session)
        keys.append(affinity(made, asked_of))
    return keys[0], keys[1]


def chat(system: Any, question: str) -> dict[str, Any]:
    return {
        "messages": [{"role": "system", "content": system}, {"role": "user", "content": question}]
    }


def test_prompts_that_begin_alike_are_found_by_that() -> None:
    first, again = found_by(ChatForm(), **chat(LONG, "Where is it?"))
    assert first == again == found_by(ChatForm(), **chat(LONG, "When?"))[0]
    assert first != found_by(ChatForm(), **chat(f"No. {LONG}", "When?"))[0]
    parts = [{"type": "text", "text": LONG[:9]}, {"type": "text", "text": LONG[9:]}]
    assert first == found_by(ChatForm(), **chat(parts, "When?"))[0]
    assert len(set(found_by(CompletionForm(), prompt=LONG))) == 1
    assert len(set(found_by(CompletionForm(), prompt=[LONG, "x"]))) == 1


def test_another_version_has_a_state_of_its_own() -> None:
    asked = chat(LONG, "When?")
    assert found_by(ChatForm(), ONE, **asked)[0] != found_by(ChatForm(), TWO, **asked)[0]


def test_short_prompts_go_anywhere() -> None:
    assert found_by(ChatForm(), **chat("You answer for Acme.", "When?")) == ("req_1", "req_2")
    assert found_by(CompletionForm(), prompt="x") == ("req_1", "req_2")


def test_a_session_goes_before_its_prompt() -> None:
    assert found_by(ChatForm(), session="ann", **chat(LONG, "When?")) == ("ann", "ann")
