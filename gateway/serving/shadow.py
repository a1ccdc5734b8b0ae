"""Copies of calls to a candidate: nobody is shown what it answers, and no call waits for it.

A copy goes out once the call has ended, and only to a worker that has nothing else to do. What it
said is compared here and forgotten: figures are kept, no text.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from feedback.types import Answer, ShadowPair
from gateway.errors import GatewayError
from gateway.registry.snapshot import Version
from gateway.rollout.rule import HARD_FAULTS
from gateway.serving.attempts import ModelLost, WorkerFull, WorkerRefused
from gateway.serving.call import Draft
from gateway.serving.events import Event
from gateway.serving.recorder import Recorder
from gateway.serving.relay import relay
from gateway.serving.router import Router, Target
from gateway.serving.turn import Turn
from gateway.serving.upstream import Upstream, UpstreamError, UpstreamTimeout
from guardrails.client import JudgeClient
from guardrails.errors import GuardUnavailable
from guardrails.policy import Policy
from guardrails.stream import OutputGuard
from guardrails.types import AuditEntry

logger = logging.getLogger(__name__)

_TRIES = 2
"""As many workers as may refuse a call of a user."""

Fate = Literal["paired", "limit", "busy", "gave_way", "away", "guards"]
FATES: tuple[Fate, ...] = ("paired", "limit", "busy", "gave_way", "away", "guards")


class _Dropped(Exception):
    """Nothing can be said of the candidate."""

    def __init__(self, fate: Fate) -> None:
        super().__init__(fate)
        self.fate = fate


class Shadows:
    """Sends copies, `most` at once, while `run` does; `fates` counts what became of each.

    `paired`: a pair was recorded; `limit`: there were as many already; `busy`: no worker had
    nothing to do; `gave_way`: ended because a call had to wait; `away`: no worker or connection;
    `guards`: these gave no verdict.
    """

    def __init__(
        self, router: Router, upstream: Upstream, judge: JudgeClient, recorder: Recorder, most: int
    ) -> None:
        self.fates: Counter[str] = Counter(dict.fromkeys(FATES, 0))
        self._router = router
        self._upstream = upstream
        self._judge = judge
        self._recorder = recorder
        self._most = most
        self._group: asyncio.TaskGroup | None = None
        self._running: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Let copies go out until cancelled, which ends those under way."""
        self._router.when_full = self.give_way
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                await asyncio.Event().wait()
            finally:
                self._group = None

    def follow(self, draft: Draft, candidate: Version, policy: Policy) -> None:
        """Have a call copied that is over; one that says nothing of its version is not.

        Never waits and never raises.
        """
        if draft.outcome != "ok" and draft.outcome not in HARD_FAULTS:
            return
        if self._group is None or len(self._running) >= self._most:
            self.fates["limit"] += 1
            return
        seconds = time.monotonic() - draft.asked
        task = self._group.create_task(self._copy(draft, seconds, candidate, policy), name="shadow")
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def give_way(self) -> None:
        """End all copies: a call has to wait for room."""
        for task in self._running:
            if not task.cancelling():
                task.cancel()
                self.fates["gave_way"] += 1

    async def _copy(self, draft: Draft, seconds: float, candidate: Version, policy: Policy) -> None:
        """Ask the candidate and record the pair."""
        copy = draft.copy_for(candidate)
        try:
            failed = await self._fails(copy, policy)
        except _Dropped as dropped:
            self.fates[dropped.fate] += 1
            return
        except Exception:
            logger.exception("a call could not be copied")
            self.fates["away"] += 1
            return
        theirs = _answer(draft, draft.outcome != "ok", seconds)
        mine = _answer(copy, failed, time.monotonic() - copy.asked)
        judged = not (theirs.failed or mine.failed or theirs.blocked or mine.blocked)
        pair = ShadowPair(
            id=draft.id,
            tenant=draft.call.key.tenant,
            alias=draft.alias,
            stable_id=draft.version.id,
            candidate_id=candidate.id,
            started=draft.started,
            stable=theirs,
            candidate=mine,
            same_text=_texts(draft) == _texts(copy) if judged else None,
            session=draft.call.session,
        )
        self._recorder.put_pair(pair)
        self.fates["paired"] += 1

    async def _fails(self, copy: Draft, policy: Policy) -> bool:
        """Have the candidate answer; whether it failed as a call of a user would have.

        Raises `_Dropped` where the reason is not its own.
        """
        avoid: set[str] = set()
        refused = False
        for _ in range(_TRIES):
            # Another worker is better, the same is better than none.
            target = self._router.spare(copy.version, avoid) or self._router.spare(copy.version)
            if target is None:
                raise _Dropped("busy")
            avoid.add(target.worker.name)
            try:
                await self._ask(copy, target, policy)
                return False
            except GuardUnavailable:
                raise _Dropped("guards") from None
            except WorkerFull:
                raise _Dropped("busy") from None
            except UpstreamError as error:
                refused = isinstance(error, WorkerRefused | UpstreamTimeout)
                if copy.sent and not isinstance(error, ModelLost):
                    return True
            except GatewayError:
                return True  # the stable version has taken the same request
        if not refused:
            raise _Dropped("away")
        return True

    async def _ask(self, copy: Draft, target: Target, policy: Policy) -> None:
        guard = OutputGuard(policy, self._judge, versions=self._judge.versions)
        turn = Turn(guard, wants_tokens=False, unary=not copy.call.stream)
        copy.tries(target, turn)

        async def forget(events: Sequence[Event]) -> None:
            copy.sent = True

        try:
            await relay(copy, target, turn, self._upstream, forget)
            await turn.end()
        finally:
            self._router.spared(target)
            copy.audit = guard.audit


def _answer(draft: Draft, failed: bool, seconds: float) -> Answer:
    first = draft.turn.choices.get(0) if draft.turn is not None else None
    confidence = first.confidence if first is not None else None
    return Answer(
        failed=failed,
        blocked=any(_is_block(entry) for entry in draft.audit),
        seconds=seconds,
        mean=confidence.mean if confidence is not None else None,
    )


def _is_block(entry: AuditEntry) -> bool:
    return entry.stage == "output" and entry.action == "block"


def _texts(draft: Draft) -> list[object]:
    """Give all that an answer says, to be compared with another's."""
    choices = draft.turn.choices if draft.turn is not None else {}
    return [
        (
            index,
            {name: "".join(pieces) for name, pieces in state.fields.items()},
            [(tool.name, tool.arguments) for tool in state.tools.values()],
        )
        for index, state in sorted(choices.items())
    ]
