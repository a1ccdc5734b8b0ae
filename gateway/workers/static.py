"""Servers with OpenAI's routes whose adapters are declared: nothing is loaded, nothing measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from http import HTTPStatus

import msgspec

from gateway.registry.snapshot import BASE_ALIAS
from gateway.workers.admin import Ask, Capabilities, ServedModel, WorkerMetrics
from gateway.workers.errors import MeasureFailed
from gateway.workers.exchange import Card, Exchange, Fixed

Choosing = Callable[[str, str], Ask]
"""From the base and what is declared of an adapter to the fields that choose it."""


def held(
    cards: Sequence[Card], declared: Mapping[str, str], choosing: Choosing
) -> tuple[ServedModel, ...]:
    """Give what a worker holds: what it declares, and what it lists under a version's own name.

    Its base is declared as `base`, or the only model on the list that nothing else explains; a
    hosted service lists many, and then has none.
    """
    adapters = {card.id: card.id for card in cards if "@" in card.id}
    adapters |= {name: named for name, named in declared.items() if name != BASE_ALIAS}
    listed = {card.id for card in cards if card.parent is None} - set(adapters.values())
    base = declared.get(BASE_ALIAS) or (listed.pop() if len(listed) == 1 else "")
    served = [ServedModel(base, base, None, Ask(base))] if base else []
    served += [ServedModel(n, named, base, choosing(base, named)) for n, named in adapters.items()]
    return tuple(served)


def by_name(base: str, named: str) -> Ask:
    """Choose an adapter as a model of its own."""
    return Ask(named)


def by_request(base: str, path: str) -> Ask:
    """Choose an adapter as TensorRT-LLM does: by its folder, and a number that must be its own."""
    number = int.from_bytes(blake2b(path.encode(), digest_size=4).digest(), "big") >> 1
    request = {"lora_name": path, "lora_int_id": number, "lora_path": path}
    return Ask(base, msgspec.json.encode({"lora_request": request}))


class StaticAdmin(Fixed):
    """A server with OpenAI's routes. Its model list is the sign of life: not all have another."""

    capabilities = Capabilities(runtime_load=False, forced_tokens=False)
    choosing: Choosing = staticmethod(by_name)

    def __init__(self, exchange: Exchange) -> None:
        self.spec = exchange.spec
        self._exchange = exchange

    async def health(self) -> bool:
        """Yes: `models` fails where it cannot serve."""
        return True

    async def models(self) -> tuple[ServedModel, ...]:
        """What is declared, and what `/v1/models` lists."""
        declared = dict(self.spec.options.models)
        return held(await self._exchange.cards(), declared, self.choosing)

    async def metrics(self) -> WorkerMetrics:
        """None: there is no common form."""
        return WorkerMetrics()

    async def answer_logprobs(
        self, model: str, token_ids: Sequence[int], answer_start: int
    ) -> list[float]:
        """Never: raises `MeasureFailed`."""
        raise MeasureFailed(f"A worker of kind {self.spec.kind} cannot be measured.")


class TensorRtAdmin(StaticAdmin):
    """TensorRT-LLM's `trtllm-serve`, which takes an adapter's folder with each request."""

    choosing: Choosing = staticmethod(by_request)

    async def health(self) -> bool:
        """Whether `/health` answers 200."""
        return (await self._exchange.call("GET", "/health")).status == HTTPStatus.OK
