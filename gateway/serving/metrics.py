"""Metrics of the serving path: counted in plain dictionaries, shaped when Prometheus asks.

Every label set is bounded. A counter of the client library costs a lock and a lookup per increment,
which is a tenth of a whole call; all counting happens on the event loop, so none is needed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from gateway.serving.breaker import State
from gateway.serving.call import Draft
from gateway.serving.histogram import Seconds
from gateway.serving.router import Router


class Metrics:
    """Counts what this process serves."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, int]] = Counter()
        self._tokens: Counter[tuple[str, str]] = Counter()
        self._guarded: Counter[tuple[str, str]] = Counter()
        self._fallbacks: Counter[tuple[str, str]] = Counter()
        self._dropped: Counter[str] = Counter()
        self._seconds: dict[str, Seconds] = {}

    def request(self, route: str, status: int) -> None:
        """Count a request; `status` 499 stands for a client that went away."""
        self._requests[route, status] += 1

    def passed(self, route: str, model: str, tokens: int, seconds: float) -> None:
        """Count the tokens and the time of a call that passed through."""
        self._tokens[model, "prompt"] += tokens
        self._observe(route, seconds)

    def answered(self, draft: Draft) -> None:
        """Count an answer's tokens, time and guard decisions, and in whose place it was given."""
        if draft.wanted is not None:
            self._fallbacks[draft.wanted.model, draft.model] += 1
        if draft.turn is not None:
            usage = draft.turn.total
            self._tokens[draft.model, "prompt"] += usage.prompt_tokens
            self._tokens[draft.model, "completion"] += usage.completion_tokens
        self._observe(draft.call.route, draft.elapsed)
        for field in draft.dropped:
            name = field[:_LONGEST_FIELD]
            known = name in self._dropped or len(self._dropped) < _MOST_FIELDS
            self._dropped[name if known else "others"] += 1
        for entry in draft.audit:
            self._guarded[entry.guard, entry.action] += 1

    def _observe(self, route: str, seconds: float) -> None:
        histogram = self._seconds.get(route)
        if histogram is None:
            histogram = self._seconds[route] = Seconds()
        histogram.observe(seconds)

    def page(
        self,
        in_flight: int,
        outbox: Mapping[str, float],
        shadows: Mapping[str, int],
        router: Router | None,
    ) -> bytes:
        """Give the page that Prometheus scrapes.

        `outbox` tells records, and `shadows` copies of calls, by their fate.
        """
        copies = CounterMetricFamily(
            "adapterloop_shadows", "Copies of calls by what became of them", labels=["fate"]
        )
        for fate, number in shadows.items():
            copies.add_metric([fate], number)
        families = [*self._families(in_flight, outbox), copies]
        if router is not None:
            families += router_families(router)
        registry = CollectorRegistry()
        registry.register(_Page(families))
        return generate_latest(registry)

    def _families(self, in_flight: int, outbox: Mapping[str, float]) -> list[Metric]:
        requests = CounterMetricFamily("adapterloop_requests", "Requests", labels=_REQUEST)
        for (route, status), count in self._requests.items():
            requests.add_metric([route, str(status)], count)
        tokens = CounterMetricFamily("adapterloop_tokens", "Tokens", labels=["model", "kind"])
        for labels, count in self._tokens.items():
            tokens.add_metric(labels, count)
        guarded = CounterMetricFamily(
            "adapterloop_guard_actions", "Decisions", labels=["guard", "action"]
        )
        for labels, count in self._guarded.items():
            guarded.add_metric(labels, count)
        fallbacks = CounterMetricFamily(
            "adapterloop_fallbacks",
            "Answers that another version gave",
            labels=["wanted", "answered"],
        )
        for models, count in self._fallbacks.items():
            fallbacks.add_metric(models, count)
        dropped = CounterMetricFamily(
            "adapterloop_dropped_fields",
            "Answers of workers with a field that nothing here knows, of one in sixteen",
            labels=["field"],
        )
        for name, count in self._dropped.items():
            dropped.add_metric([name], count)
        seconds = HistogramMetricFamily(
            "adapterloop_answer_seconds", "Seconds from request to end of answer", labels=["route"]
        )
        for route, histogram in self._seconds.items():
            seconds.add_metric([route], histogram.cumulative(), histogram.total)
        waiting = GaugeMetricFamily("adapterloop_outbox", "Records by fate", labels=["fate"])
        for fate, number in outbox.items():
            waiting.add_metric([fate], number)
        now = GaugeMetricFamily("adapterloop_in_flight", "Calls now", value=in_flight)
        return [requests, tokens, guarded, fallbacks, dropped, seconds, waiting, now]


def router_families(router: Router) -> list[Metric]:
    """Tell of calls that wait, of workers that are full or failing, of retries, of adapters."""
    queued = HistogramMetricFamily(
        "adapterloop_queue_seconds", "Seconds in the queue, by how it ended", labels=["end"]
    )
    for end, seconds in router.queue.seconds.items():
        queued.add_metric([end], seconds.cumulative(), seconds.total)
    waiting = GaugeMetricFamily("adapterloop_queue", "Calls that wait now", labels=["priority"])
    for priority, number in router.queue.waiting().items():
        waiting.add_metric([priority], number)
    full = GaugeMetricFamily("adapterloop_worker_full", "Takes no further call", labels=["worker"])
    circuits = GaugeMetricFamily(
        "adapterloop_worker_circuit", "1 for the state it is in", labels=["worker", "state"]
    )
    for worker, circuit in router.circuits().items():
        full.add_metric([worker], worker in router.full)
        for state in State:
            circuits.add_metric([worker, state.value], circuit is state)
    retries = CounterMetricFamily("adapterloop_retries", "By outcome", labels=["outcome"])
    retries.add_metric(["made"], router.retries.made)
    retries.add_metric(["refused"], router.retries.refused)
    adapters = CounterMetricFamily(
        "adapterloop_adapter_calls", "Calls by where their adapter was", labels=["found"]
    )
    for where, calls in router.found.items():
        adapters.add_metric([where], calls)
    return [queued, waiting, full, circuits, retries, adapters]


_REQUEST = ["route", "status"]
_MOST_FIELDS, _LONGEST_FIELD = 100, 80


class _Page(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families
