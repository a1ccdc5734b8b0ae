"""Composes what records answers: recorder, outbox, scrubbing and the feedback desk."""

from __future__ import annotations

from dataclasses import dataclass

from feedback.desk import Desk
from feedback.outbox import Outbox
from feedback.store import FeedbackStore
from gateway.scrubbing import make_scrubber, make_seal
from gateway.serving.recorder import Recorder
from gateway.settings import GatewaySettings
from guardrails.client import JudgeClient
from guardrails.policy_book import PolicyBook


@dataclass(frozen=True, slots=True)
class Recording:
    """The parts, both on one outbox; what ships it is a process of its own."""

    recorder: Recorder
    desk: Desk


def make_recording(
    settings: GatewaySettings,
    secret: bytes,
    store: FeedbackStore,
    outbox: Outbox,
    judge: JudgeClient,
    policies: PolicyBook,
) -> Recording:
    """Make the parts; `secret` is the installation's, from which their keys follow."""
    seal = make_seal(secret)
    left_out = [alias for alias, what in settings.feedback.capture.items() if what == "none"]
    return Recording(
        Recorder(outbox, seal, left_out),
        Desk(store, outbox, make_scrubber(secret, judge, policies), seal),
    )
