"""Guards at work on answers and prompts: window, judge and policy put together.

An `OutputGuard` serves one response: every choice and every field of it. Streams call `push` and
`finish`; whole answers call `scan` or `scan_many`, which let out exactly what a stream of the same
text would, however it was cut. Nothing here imports a model.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import NamedTuple

from guardrails.arguments import ArgumentsBuffer
from guardrails.asking import Asking
from guardrails.errors import GuardUnavailable
from guardrails.plan import Decision
from guardrails.policy import Policy
from guardrails.types import AuditEntry, Field, Judge, Piece, Release
from guardrails.window import Hit, PassThrough, Unit, Window

_NOTHING = Release()
_BLOCKED = Release(blocked=True)

_Place = tuple[int, Field, int]
_Holder = Window | ArgumentsBuffer | PassThrough


class OutputGuard:
    """Holds back what the policy's output guards would block, for one response.

    Calls for the same (choice, field, part) must not overlap; others may. `part` tells apart
    several texts of one field, such as the arguments of several tool calls of a choice.

    `push`, `finish`, `scan` and `scan_many` raise `GuardUnavailable` when a guard with
    `on_failure: closed` has no verdict; the choices asked about then count as blocked. Before the
    stream that is a 503, within it a `content_filter`.
    """

    def __init__(
        self, policy: Policy, judge: Judge, *, versions: Mapping[str, str] | None = None
    ) -> None:
        """`versions` names the version of each guard for the audit (`JudgeClient.versions`)."""
        self.policy = policy
        self._plan = policy.output
        self._asking = Asking("output", self._plan, judge, versions)
        self._holders: dict[_Place, _Holder] = {}
        self._blocked: set[int] = set()
        self.taken = 0
        self.released = 0

    @property
    def active(self) -> bool:
        """Whether the policy has any output guard; without one, text passes through at once."""
        return bool(self._plan.rules)

    @property
    def audit(self) -> list[AuditEntry]:
        """Every decision so far, in the order in which they were taken."""
        return self._asking.audit

    @property
    def flagged(self) -> bool:
        """Whether a reviewer should see this answer: a guard flagged or blocked."""
        return self._asking.flagged

    @property
    def scanned(self) -> int:
        """Characters judged so far."""
        return self._asking.scanned

    @property
    def held(self) -> int:
        """Characters taken and not let out: still waiting, or withheld for good."""
        return self.taken - self.released

    def blocked(self, choice: int) -> bool:
        """Whether a guard has ended this choice."""
        return choice in self._blocked

    def released_to(self, choice: int, field: Field, part: int = 0) -> int:
        """Offset in the field's raw text up to which all has been let out or redacted."""
        holder = self._holders.get((choice, field, part))
        return 0 if holder is None else holder.released

    async def push(self, choice: int, field: Field, text: str, part: int = 0) -> Release:
        """Take the next text of a field and give what may go out now."""
        if choice in self._blocked:
            return _BLOCKED
        place = (choice, field, part)
        units = self._take(place, text)
        if isinstance(units, Piece):
            return Release((units,)) if text else _NOTHING
        if not units:
            return _NOTHING
        return (await self._judged([(place, units)]))[0]

    async def finish(self, choice: int, field: Field, part: int = 0) -> Release:
        """Tell that a field has ended and give the rest of it. A second call gives nothing."""
        if choice in self._blocked:
            return _BLOCKED
        holder = self._holders.get((choice, field, part))
        units = [] if holder is None else holder.finish()
        if not units:
            return _NOTHING
        return (await self._judged([((choice, field, part), units)]))[0]

    async def scan(self, choice: int, field: Field, text: str, part: int = 0) -> Release:
        """Judge a whole field at once."""
        return (await self.scan_many([(choice, field, text)], parts=[part]))[0]

    async def scan_many(
        self, items: Sequence[tuple[int, Field, str]], *, parts: Sequence[int] | None = None
    ) -> list[Release]:
        """Judge whole fields with one call to the judge; one release for each, in their order.

        A field that blocks ends its choice: the later items of that choice are blocked too. Items
        of one (choice, field) need different `parts` (0 where left out).
        """
        jobs: list[tuple[_Place, list[Unit]]] = []
        passed: dict[_Place, Release] = {}
        for (choice, field, text), part in zip(items, parts or [0] * len(items), strict=True):
            place = (choice, field, part)
            units = self._take(place, text)
            if isinstance(units, Piece):
                passed[place] = Release((units,)) if text else _NOTHING
                units = []
            jobs.append((place, [*units, *self._holders[place].finish()]))
        releases = await self._judged(jobs, whole=True)
        return [
            passed.get(place, release) for (place, _), release in zip(jobs, releases, strict=True)
        ]

    def _take(self, place: _Place, text: str) -> list[Unit] | Piece:
        self.taken += len(text)
        holder = self._holders.get(place)
        if holder is None:
            holder = self._holders[place] = self._new_holder(place[1])
        if isinstance(holder, PassThrough):
            self.released += len(text)
            return holder.take(text)
        return holder.push(text)

    def _new_holder(self, field: Field) -> _Holder:
        if not self._plan.rules:
            return PassThrough()
        return ArgumentsBuffer(self._plan) if field == "arguments" else Window(self._plan)

    async def _judged(
        self, jobs: Sequence[tuple[_Place, list[Unit]]], *, whole: bool = False
    ) -> list[Release]:
        passages = [unit.passage for _, units in jobs for unit in units]
        try:
            decisions = iter(await self._asking.ask(passages))
        except GuardUnavailable:
            self._blocked.update(place[0] for place, _ in jobs)
            raise
        releases = []
        for place, units in jobs:
            verdicts = [(unit, next(decisions)) for unit in units]
            if whole and (release := self._clean(place, verdicts)) is not None:
                releases.append(release)
            else:
                releases.append(self._settled(place, verdicts))
        return releases

    def _clean(
        self, place: _Place, verdicts: Sequence[tuple[Unit, list[Decision]]]
    ) -> Release | None:
        """Let a whole field out in one piece if no guard has found anything in it."""
        if not verdicts or verdicts[0][0].start or place[0] in self._blocked:
            return None
        if not isinstance(self._holders[place], Window) or any(found for _, found in verdicts):
            return None
        text = "".join(unit.passage.text for unit, _ in verdicts)
        self.released += len(text)
        return Release((Piece(text, 0, len(text)),))

    def _settled(self, place: _Place, verdicts: Sequence[tuple[Unit, list[Decision]]]) -> Release:
        choice = place[0]
        holder = self._holders[place]
        out: list[Piece] = []
        for unit, decisions in verdicts:
            if choice in self._blocked:
                break
            hits = [hit for each in decisions if (hit := self._act(place, unit, each))]
            pieces, blocked = holder.settle(unit, hits)
            _extend(out, pieces)
            if blocked:
                self._blocked.add(choice)
        self.released += sum(piece.end - piece.start for piece in out)
        return Release(tuple(out), blocked=choice in self._blocked)

    def _act(self, place: _Place, unit: Unit, decision: Decision) -> Hit | None:
        """Record a decision and give what the window must withhold for it, if anything."""
        choice, field, _ = place
        action = decision.rule.action
        if field == "arguments" and action == "redact":
            action = "flag"
        span = _span(unit, decision)
        self._asking.note(decision, action, choice=choice, field=field, span=span)
        if action in ("block", "redact"):
            return Hit(*span, decision.finding.label, block=action == "block")
        return None


def _span(unit: Unit, decision: Decision) -> tuple[int, int]:
    """Where a finding stands in the raw text; a sentence-level one stands for its whole unit."""
    if decision.rule.guard.unit == "sentence":
        return unit.start, unit.end
    finding = decision.finding
    return max(0, unit.start + finding.start), unit.start + finding.end


def _extend(out: list[Piece], pieces: Sequence[Piece]) -> None:
    """Add pieces, joining text that belongs together, so that a client gets few events."""
    for piece in pieces:
        if out and not piece.redacted and not out[-1].redacted:
            before = out.pop()
            piece = Piece(before.text + piece.text, before.start, piece.end)
        out.append(piece)


class InputVerdict(NamedTuple):
    """What the input guards make of a prompt.

    `texts` are the texts to send on, redacted where the policy says so; `blocked` is the decision
    that refuses the prompt, if one does.
    """

    texts: tuple[str, ...]
    blocked: AuditEntry | None = None
    audit: tuple[AuditEntry, ...] = ()
    flagged: bool = False
    scanned: int = 0


class InputGuard:
    """Judges prompts before they go to a worker."""

    def __init__(
        self, policy: Policy, judge: Judge, *, versions: Mapping[str, str] | None = None
    ) -> None:
        """`versions` names the version of each guard for the audit (`JudgeClient.versions`)."""
        self._plan = policy.input
        self._judge = judge
        self._versions = versions

    @property
    def active(self) -> bool:
        """Whether the policy has any input guard."""
        return bool(self._plan.rules)

    @property
    def only_notes(self) -> bool:
        """Whether no verdict can change the prompt or refuse it: all rules flag or annotate."""
        return all(rule.action in ("flag", "annotate") for rule in self._plan.rules)

    async def check(self, texts: Sequence[str]) -> InputVerdict:
        """Judge the texts of one prompt with one call to the judge.

        Raises `GuardUnavailable` when a guard with `on_failure: closed` has no verdict.
        """
        return await self.ask(texts)

    def ask(self, texts: Sequence[str]) -> Awaitable[InputVerdict]:
        """Like `check`, but the question goes out now; await the verdict, in any case, later."""
        asking = Asking("input", self._plan, self._judge, self._versions)
        windows = [Window(self._plan) for _ in texts] if self._plan.rules else []
        units = [
            [*window.push(text), *window.finish()]
            for window, text in zip(windows, texts, strict=bool(windows))
        ]
        asked = asking.ask([unit.passage for each in units for unit in each])
        return self._verdict(asking, texts, windows, units, asked)

    async def _verdict(
        self,
        asking: Asking,
        texts: Sequence[str],
        windows: Sequence[Window],
        units: Sequence[Sequence[Unit]],
        asked: Awaitable[list[list[Decision]]],
    ) -> InputVerdict:
        found = await asked
        if not any(found):
            return InputVerdict(
                tuple(texts), None, tuple(asking.audit), asking.flagged, asking.scanned
            )
        decisions = iter(found)
        cleaned = []
        for index, (window, each) in enumerate(zip(windows, units, strict=True)):
            pieces: list[Piece] = []
            for unit in each:
                hits = _input_hits(asking, index, unit, next(decisions))
                pieces += window.settle(unit, hits)[0]
            cleaned.append("".join(piece.text for piece in pieces))
        blocked = next((entry for entry in asking.audit if entry.action == "block"), None)
        return InputVerdict(
            tuple(cleaned), blocked, tuple(asking.audit), asking.flagged, asking.scanned
        )


def _input_hits(asking: Asking, index: int, unit: Unit, decisions: Sequence[Decision]) -> list[Hit]:
    """Record the decisions on a prompt's unit (`choice` is the text's index there)."""
    hits = []
    for decision in decisions:
        action, span = decision.rule.action, _span(unit, decision)
        asking.note(decision, action, choice=index, span=span)
        if action == "redact":
            hits.append(Hit(*span, decision.finding.label, block=False))
    return hits
