"""Which texts of a request the input guards judge, and how a redaction gets back into it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from gateway.errors import ContentPolicyViolation, InvalidRequest
from gateway.serving.call import Draft
from gateway.serving.requests import ChatRequest, CompletionRequest, TextPart
from guardrails.client import JudgeClient
from guardrails.errors import GuardUnavailable
from guardrails.policy import Policy
from guardrails.stream import InputGuard, InputVerdict

_JUDGED_ROLES = frozenset({"user", "tool"})


@dataclass(slots=True)
class Slot:
    """One judged text, and how to put another in its place."""

    text: str
    replace: Callable[[str], None]


def slots_of(request: ChatRequest | CompletionRequest) -> list[Slot]:
    """Give what came from outside: messages of users and tools, or prompts.

    Raises `InvalidRequest` for prompts of token ids, which no guard can read.
    """
    if isinstance(request, ChatRequest):
        return _of_messages(request)
    if isinstance(request.prompt, str):
        return [Slot(request.prompt, partial(setattr, request, "prompt"))]
    prompts = request.prompt
    if not all(isinstance(prompt, str) for prompt in prompts):
        raise InvalidRequest(
            "Prompts must be text here: token ids cannot be judged by the input guards.",
            param="prompt",
        )
    return [_item_slot(prompts, index) for index in range(len(prompts))]


def _item_slot(items: Sequence[object], index: int) -> Slot:
    def replace(text: str) -> None:
        items[index] = text  # type: ignore[index]

    return Slot(str(items[index]), replace)


def _of_messages(request: ChatRequest) -> list[Slot]:
    slots = []
    for message in request.messages:
        if message.role not in _JUDGED_ROLES or message.content is None:
            continue
        if isinstance(message.content, str):
            slots.append(Slot(message.content, partial(setattr, message, "content")))
            continue
        slots += [
            Slot(part.text, partial(setattr, part, "text"))
            for part in message.content
            if isinstance(part, TextPart)
        ]
    return slots


class InputQuestion:
    """The input guards' question about one call.

    Where a verdict could refuse or change the prompt, `ask` waits for it. Where all rules only
    flag or annotate, the guards judge while the worker answers, and the verdict is awaited before
    anything is sent.
    """

    def __init__(self, draft: Draft, policy: Policy, judge: JudgeClient) -> None:
        self._draft = draft
        self._policy = policy
        self._judge = judge
        self._pending: Awaitable[InputVerdict] | None = None

    async def ask(self) -> None:
        """Put the question. Raises `ContentPolicyViolation` and `GuardUnavailable`."""
        guard = InputGuard(self._policy, self._judge, versions=self._judge.versions)
        if not guard.active:
            return
        slots = slots_of(self._draft.call.request)
        self._pending = guard.ask([slot.text for slot in slots])
        if guard.only_notes:
            return
        verdict = await self.answered()
        if verdict is None:
            return
        for slot, text in zip(slots, verdict.texts, strict=True):
            if text is not slot.text:
                slot.replace(text)

    async def answered(self) -> InputVerdict | None:
        """Wait for the verdict, once. Raises like `ask`."""
        if self._pending is None:
            return None
        pending, self._pending = self._pending, None
        verdict = await pending
        self._draft.audit += verdict.audit
        self._draft.flagged |= verdict.flagged
        if verdict.blocked is not None:
            raise ContentPolicyViolation
        return verdict

    async def close(self) -> None:
        """Take a verdict that nobody has waited for into the record."""
        with suppress(GuardUnavailable, ContentPolicyViolation):
            await self.answered()
