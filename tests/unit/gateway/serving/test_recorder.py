"""What is kept of a call: its answer, or only what it used."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from feedback.opening import open_call
from feedback.sealing import Seal
from feedback.types import Capture, Use, model_of
from gateway.registry.snapshot import Key
from gateway.serving.answers import Usage
from gateway.serving.call import Call, Draft
from gateway.serving.recorder import Recorder, capture_of, use_of
from gateway.serving.requests import ChatRequest, Message
from gateway.serving.waiting import Standing
from tests.unit.gateway.workers.fake import base_version, version

KEY = Key(7, "default", "shop", "app", None, None)


class Box(dict[str, bytes]):
    """An outbox in memory."""

    def put(self, record_id: str, payload: bytes) -> bool:
        self[record_id] = payload
        return True


def draft(key: Key = KEY, **changes: Any) -> Draft:
    """A call for `support` that waited for half a second and cost 10 and 4 tokens."""
    request = ChatRequest(model="support", messages=[Message(role="user", content="secret words")])
    asked = b'{"model": "support", "messages": [{"role": "user", "content": "secret words"}]}'
    call = Call("/v1/chat/completions", "chatcmpl-", key, "support", request, asked, "req_1")
    made = Draft(call, version(3), "chatcmpl-1", Standing(7, "normal", waited=0.5), **changes)
    total = Usage(prompt_tokens=10, completion_tokens=4)
    made.turn = cast("Any", SimpleNamespace(choices={}, total=total))
    made.outcome = "ok"
    return made


def test_a_prompt_is_estimated_where_its_client_left_before_the_worker_told() -> None:
    made = draft()
    made.outcome = "client_gone"
    assert made.tokens == 14
    made.turn = cast("Any", SimpleNamespace(choices={}, total=Usage(completion_tokens=4)))
    prompt = len(made.call.asked) // 4
    assert made.tokens == prompt + 4
    assert use_of(made).usage == capture_of(made).usage
    assert use_of(made).usage["prompt_tokens"] == prompt
    made.outcome = "worker_failed"
    assert made.tokens == 4, "a worker that failed bills what it told"
    made.turn, made.outcome = None, "client_gone"
    assert (made.tokens, use_of(made).usage) == (0, {}), "none was asked yet"


@pytest.fixture
def seal() -> Seal:
    return Seal(bytes(32))


@pytest.fixture
def box() -> Box:
    return Box()


def test_where_no_answer_is_kept_what_it_used_is(box: Box, seal: Seal) -> None:
    one, other = draft(), replace(draft(), id="chatcmpl-2")
    Recorder(cast("Any", box), seal).put(one)
    Recorder(cast("Any", box), seal, ["support"]).put(other)
    capture, use = (open_call(seal, payload) for payload in box.values())
    assert isinstance(capture, Capture)
    assert isinstance(use, Use)
    assert use.id == "chatcmpl-2"
    assert use.usage == capture.usage
    assert b"secret" in seal.unseal(box["chatcmpl-1"])
    assert b"secret" not in seal.unseal(box["chatcmpl-2"])


def test_calls_without_text_are_counted(box: Box, seal: Seal) -> None:
    recorder = Recorder(cast("Any", box), seal)
    recorder.count(KEY, "support", version(3), "req_1", 12)
    use = open_call(seal, box["req_1"])
    assert isinstance(use, Use)
    assert (use.tenant, use.key_id, use.alias, use.version) == ("default", 7, "support", 3)
    assert use.usage == {"prompt_tokens": 12}


def test_nothing_is_kept_of_an_evaluation(box: Box, seal: Seal) -> None:
    recorder, key = Recorder(cast("Any", box), seal, ["triage"]), replace(KEY, purpose="evaluation")
    recorder.put(draft(key))
    recorder.count(key, "triage", version(3), "req_1", 12)
    assert box == {}


@pytest.mark.parametrize("answers", ["itself", "base", "fallback"])
def test_a_call_counts_under_the_same_version_either_way(answers: str) -> None:
    call = draft()
    if answers == "base":
        call.version = base_version()
    elif answers == "fallback":
        call.falls_back(base_version(), "chatcmpl-2")
    capture, use = capture_of(call), use_of(call)
    columns = {name: getattr(capture, name) for name in ("alias", "version")}
    fallback = {"answered": capture.fallback.answered} if capture.fallback else None
    assert model_of({**columns, "fallback": fallback}) == f"{use.alias}@{use.version}"


def test_a_capture_tells_how_long_its_call_waited() -> None:
    assert capture_of(draft()).queued == 0.5
