"""The trainer asks golden queries of a whole gateway."""

from __future__ import annotations

import math

from trainer.calibration import calibrate
from trainer.measure import measure
from trainer.rows import Row
from trainer.settings import EvaluationSettings

from .conftest import MakeStack


def test_an_evaluation_holds_how_sure_the_version_was(make_stack: MakeStack) -> None:
    """What a calibration is fitted to is what live answers are told by."""
    stack = make_stack()
    number = stack.publish("support", stack.source("a", seed=1))
    model = f"support@{number}"
    with stack.live.admin() as admin:
        body = {"owner": "night", "role": "trainer", "purpose": "evaluation"}
        key = admin.post("/admin/v1/keys", json=body).json()["key"]
    golden = [Row(str(at), "", f"Question {at}", "yes") for at in range(3)]
    settings = EvaluationSettings(max_tokens=8, patience=20)
    found = measure(stack.live.root, key, model, golden, "g" * 64, settings)
    body = {"model": model, "messages": [{"role": "user", "content": "x"}], "max_tokens": 8}
    with stack.live.http() as http:
        live = http.post("/v1/chat/completions", json=body).headers["x-confidence"]
    assert [answer.confidence for answer in found.answers] == [float(live)] * 3
    assert all(math.isfinite(answer.confidence or math.nan) for answer in found.answers)
    calibration = calibrate(found)
    assert calibration is not None
    assert calibration.items == 3
