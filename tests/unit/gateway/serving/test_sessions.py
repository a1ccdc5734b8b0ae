"""By what a caller is known again: a rollout sticks to it, and so does its worker."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.serving.forms.base import Form, session_of
from gateway.serving.forms.chat import ChatForm
from gateway.serving.forms.completions import CompletionForm
from gateway.serving.forms.responses import ResponsesForm
from gateway.settings import Limits

FORMS: list[tuple[Form, dict[str, Any]]] = [
    (ChatForm(), {"messages": [{"role": "user", "content": "x"}]}),
    (CompletionForm(), {"prompt": "x"}),
    (ResponsesForm(), {"input": "x"}),
]
STRONGEST_FIRST = ("safety_identifier", "user", "prompt_cache_key")


@pytest.mark.parametrize(("form", "body"), FORMS, ids=[form.route for form, _ in FORMS])
def test_the_strongest_identifier_counts(form: Form, body: dict[str, Any]) -> None:
    def session(header: str | None, **given: str) -> str | None:
        read = form.read(msgspec.json.encode({"model": "support", **body, **given}), Limits())
        sent = msgspec.to_builtins(read.request)
        assert not set(STRONGEST_FIRST) & set(sent), "who calls is not the worker's business"
        return session_of(read, header)

    given = {name: f"by {name}" for name in STRONGEST_FIRST}
    for name in STRONGEST_FIRST:
        assert session("by header", **given) == f"by {name}"
        given.pop(name)
    assert session("by header") == "by header"
    assert session("by header", user="") == "by header"
    assert session(None) is None
