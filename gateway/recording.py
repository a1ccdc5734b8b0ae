"""Composes what records answers: recorder, outbox, shipper, scrubbing and the feedback desk."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from feedback.desk import Desk
from feedback.outbox import Outbox
from feedback.scrub import Scrubber
from feedback.sealing import Seal
from feedback.shipper import Shipper
from feedback.store import FeedbackStore
from gateway.scrubbing import GuardFinder
from gateway.serving.recorder import Recorder
from gateway.settings import GatewaySettings
from guardrails.client import JudgeClient
from guardrails.policy_book import PolicyBook


@dataclass(frozen=True, slots=True)
class Recording:
    """The parts, all on one outbox and one store."""

    recorder: Recorder
    shipper: Shipper
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
    seal = Seal(_key(secret, b"outbox"))
    finder = GuardFinder(judge, judge.versions, policies)
    scrubber = Scrubber(finder, _key(secret, b"surrogates"))
    left_out = [alias for alias, what in settings.feedback.capture.items() if what == "none"]
    return Recording(
        Recorder(outbox, seal, left_out),
        Shipper(outbox, store, scrubber, seal),
        Desk(store, outbox, scrubber, seal),
    )


def _key(secret: bytes, purpose: bytes) -> bytes:
    return hashlib.blake2b(secret, person=purpose, digest_size=32).digest()
