"""Whether this gateway can answer: known by doing it."""

from __future__ import annotations

import asyncio
import logging

import msgspec

from gateway.errors import GatewayError
from gateway.registry.snapshot import BASE_TENANT, Key
from gateway.serving.call import Call
from gateway.serving.events import Event
from gateway.serving.pipeline import Deps, begin, complete
from gateway.serving.requests import ChatRequest, Message
from gateway.serving.state import Serving
from guardrails.errors import GuardUnavailable

logger = logging.getLogger(__name__)

_SELF = Key(
    id=0,
    tenant=BASE_TENANT,
    owner="readiness",
    role="app",
    aliases=None,
    expires_at=None,
    purpose="evaluation",
)
_BASE = "base"


class Readiness:
    """Looks each second; `reason` is None while the gateway is ready."""

    def __init__(self, serving: Serving) -> None:
        self.reason: str | None = "starting"
        self._serving = serving
        self._proven = False

    async def run(self) -> None:
        """Keep looking until cancelled."""
        while True:
            before = self.reason
            try:
                self.reason = await self._look()
            except Exception as error:
                logger.exception("the readiness check failed")
                self.reason = f"the check failed: {type(error).__name__}"
            if self.reason != before:
                logger.info("ready" if self.reason is None else f"not ready: {self.reason}")
            await asyncio.sleep(0.5 if self.reason else 1.0)

    async def _look(self) -> str | None:
        try:
            deps = self._serving.deps
        except GatewayError:
            return "the store has not answered yet"
        try:
            await deps.judge.ping()
        except GuardUnavailable:
            self._proven = False
            return "the guards are not up yet"
        if not any(seen.healthy for seen in deps.router.all_observed()):
            self._proven = False
            return "no worker answers yet"
        if not self._proven:
            return await self._prove(deps)
        return None

    async def _prove(self, deps: Deps) -> str | None:
        """Have the base model say one token, guards and all."""
        try:
            async with asyncio.timeout(30):
                await complete(begin(_question(), deps), deps, _ignore)
        except TimeoutError:
            return "the base model has not answered within 30 s"
        except GatewayError as error:
            return f"the base model does not answer yet: {error}"
        self._proven = True
        return None


async def _ignore(events: list[Event]) -> None:
    """What the model says is of no interest, only that it does."""


def _question() -> Call:
    request = ChatRequest(
        model=_BASE,
        messages=[Message(role="user", content="Hello")],
        max_completion_tokens=1,
        temperature=0,
        logprobs=True,
    )
    return Call(
        route="readiness",
        id_prefix="ready-",
        key=_SELF,
        model=_BASE,
        request=request,
        asked=msgspec.json.encode({}),
        request_id="readiness",
    )
