"""One answer on its way through the guards: from what the worker sent to what may go out."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

from feedback.types import Confidence
from gateway.serving.answers import BareToken, Parsed, Part, Token, ToolDelta, Usage
from gateway.serving.confidence import score
from gateway.serving.events import Event, Finished, TextReleased, ToolCalled, Used
from gateway.serving.tokens import TokenGate
from guardrails.stream import OutputGuard
from guardrails.types import Field, Release


@dataclass(slots=True)
class Tool:
    """A tool call as it is put together from its pieces."""

    id: str
    name: str = ""
    arguments: str = ""


@dataclass(slots=True)
class ChoiceState:
    """All that is known of one choice."""

    index: int
    gate: TokenGate | None
    fields: dict[Field, list[str]] = field(default_factory=dict)
    tools: dict[int, Tool] = field(default_factory=dict)
    tokens: list[Token | BareToken] = field(default_factory=list)
    messages: int = 0
    usage: Usage | None = None
    finish: str | None = None
    over: bool = False
    scored: Confidence | None = None

    @property
    def confidence(self) -> Confidence | None:
        """How sure the model was of this choice; worked out once, when it is over."""
        if self.scored is None:
            self.scored = score(self.tokens)
        return self.scored

    def text(self, name: Field) -> str | None:
        """What was released of a field, or None if there was nothing."""
        pieces = self.fields.get(name)
        return "".join(pieces) if pieces is not None else None


class Turn:
    """Judges what the worker sends and keeps the account of it.

    `wants_tokens`: the client asked for logprobs. `unary`: each message is the whole answer, so
    that one call to the guards judges all of it.
    """

    def __init__(self, guard: OutputGuard, *, wants_tokens: bool, unary: bool) -> None:
        self.choices: dict[int, ChoiceState] = {}
        self.usage: Usage | None = None
        self._guard = guard
        self._wants_tokens = wants_tokens
        self._unary = unary

    def cut_short(self, expected: int) -> bool:
        """Whether guards have ended the answer, so that the worker need not go on."""
        states = self.choices.values()
        return (
            len(states) >= expected
            and all(state.over for state in states)
            and any(state.finish == "content_filter" for state in states)
        )

    @property
    def total(self) -> Usage:
        """What the answer cost as far as is known, also of one that was broken off."""
        if self.usage is not None:
            return self.usage
        states = self.choices.values()
        prompts = (state.usage.prompt_tokens for state in states if state.usage)
        # Where usage comes at the end only, a broken off answer is known by its tokens, or where
        # these were not asked for by its messages, of which there is about one a token.
        said = (
            s.usage.completion_tokens if s.usage else len(s.tokens) or s.messages for s in states
        )
        return Usage(prompt_tokens=max(prompts, default=0), completion_tokens=sum(said))

    async def take(self, message: Parsed) -> list[Event]:
        """Judge one message of the worker; the events may go to the client."""
        for part in message.parts:
            self._observe(part, message.usage)
        if message.usage is not None and (self._unary or not message.parts):
            self.usage = message.usage
        if self._unary:
            return await self._whole(message.parts)
        events: list[Event] = []
        for part in message.parts:
            state = self.choices[part.choice]
            if not state.over:
                events += await self._piecewise(state, part)
        return events

    async def end(self) -> list[Event]:
        """Close what the worker left open, and tell the usage."""
        events: list[Event] = []
        for state in self.choices.values():
            if not state.over:
                events += await self._close(state, state.finish or "stop")
        events.append(Used(self.total))
        return events

    def withhold(self) -> list[Event]:
        """End every open choice by the content filter: nothing that was not judged goes out."""
        return [self._stop(state) for state in self.choices.values() if not state.over]

    def _observe(self, part: Part, usage: Usage | None) -> None:
        """Take note of tokens and usage before any guard changes what goes out."""
        state = self.choices.get(part.choice)
        if state is None:
            gate = TokenGate() if self._wants_tokens else None
            state = self.choices[part.choice] = ChoiceState(part.choice, gate)
        state.tokens += part.tokens
        state.messages += bool(part.texts or part.tools)
        if usage is not None and not self._unary:
            state.usage = usage
        if part.tools:
            _gather(state.tools, part.tools)

    async def _piecewise(self, state: ChoiceState, part: Part) -> list[Event]:
        events: list[Event] = []
        if state.gate is not None:
            content = "".join(text for name, text in part.texts if name == "content")
            state.gate.arrived(content, part.tokens)
        for name, text in part.texts:
            release = await self._guard.push(state.index, name, text)
            state.fields.setdefault(name, [])
            events += self._emit(state, name, release)
            if release.blocked:
                return events
        if part.finish is not None:
            events += await self._close(state, part.finish)
        return events

    async def _close(self, state: ChoiceState, reason: str) -> list[Event]:
        """Let out what the window still holds, then the tool calls, then the end."""
        events: list[Event] = []
        for name in list(state.fields):
            release = await self._guard.finish(state.index, name)
            events += self._emit(state, name, release, finished=True)
            if release.blocked:
                return events
        if state.tools:
            releases = await self._guard.scan_many(
                [(state.index, "arguments", tool.arguments) for tool in state.tools.values()],
                parts=list(state.tools),
            )
            events += self._emit_tools(state, releases)
        if not state.over:
            events.append(self._finish(state, reason))
        return events

    async def _whole(self, parts: Sequence[Part]) -> list[Event]:
        """Judge a whole answer with one call to the guards."""
        items: list[tuple[int, Field, str]] = []
        places: list[int] = []
        for part in parts:
            tools = self.choices[part.choice].tools
            items += [(part.choice, name, text) for name, text in part.texts]
            items += [(part.choice, "arguments", tool.arguments) for tool in tools.values()]
            places += [0] * len(part.texts) + list(tools)
        releases = iter(await self._guard.scan_many(items, parts=places) if items else ())
        events: list[Event] = []
        for part in parts:
            state = self.choices[part.choice]
            if state.gate is not None:
                content = "".join(text for name, text in part.texts if name == "content")
                state.gate.arrived(content, part.tokens)
            mine = [next(releases) for _ in part.texts]
            of_tools = [next(releases) for _ in state.tools]
            for (name, _), release in zip(part.texts, mine, strict=True):
                if not state.over:
                    state.fields.setdefault(name, [])
                    events += self._emit(state, name, release, finished=True)
            if not state.over:
                events += self._emit_tools(state, of_tools)
            if not state.over:
                events.append(self._finish(state, part.finish or "stop"))
        return events

    def _emit(
        self, state: ChoiceState, name: Field, release: Release, finished: bool = False
    ) -> list[Event]:
        text = "".join(piece.text for piece in release.pieces)
        tokens: Sequence[Token | BareToken] = ()
        if state.gate is not None and name == "content":
            tokens = state.gate.release(release.pieces, finished and not release.blocked)
        events: list[Event] = []
        if text or tokens:
            state.fields[name].append(text)
            events.append(TextReleased(state.index, name, text, tokens))
        if release.blocked:
            events.append(self._stop(state))
        return events

    def _emit_tools(self, state: ChoiceState, releases: Sequence[Release]) -> list[Event]:
        events: list[Event] = []
        for (index, tool), release in zip(state.tools.items(), releases, strict=True):
            if release.blocked:
                events.append(self._stop(state))
                return events
            tool.id = tool.id or f"call_{uuid.uuid4().hex[:24]}"
            events.append(ToolCalled(state.index, index, tool.id, tool.name, tool.arguments))
        return events

    def _stop(self, state: ChoiceState) -> Finished:
        state.tools.clear()
        return self._finish(state, "content_filter")

    def _finish(self, state: ChoiceState, reason: str) -> Finished:
        state.over, state.finish = True, reason
        return Finished(state.index, reason)


def _gather(tools: dict[int, Tool], deltas: Sequence[ToolDelta]) -> None:
    """Put pieces of tool calls together; a unary answer's calls all carry index 0."""
    for delta in deltas:
        index = delta.index
        present = tools.get(index)
        if present is not None and delta.id and present.id and present.id != delta.id:
            index = max(tools) + 1
            present = None
        if present is None:
            present = tools[index] = Tool(delta.id or "")
        present.name += delta.function.name or ""
        present.arguments += delta.function.arguments or ""
