"""Metrics of the serving path: counted in plain dictionaries, shaped when Prometheus asks.

Every label set is bounded. A counter of the client library costs a lock and a lookup per increment,
which is a tenth of a whole call; all counting happens on the event loop, so none is needed.
"""

from __future__ import annotations

from bisect import bisect_left
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

from gateway.serving.call import Draft

_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class _Seconds:
    """One histogram: counts per bucket, and the sum."""

    def __init__(self) -> None:
        self.counts = [0] * (len(_BUCKETS) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(_BUCKETS, seconds)] += 1
        self.total += seconds

    def cumulative(self) -> list[tuple[str, float]]:
        bounds = [*(str(bound) for bound in _BUCKETS), "+Inf"]
        so_far = 0
        pairs = []
        for bound, count in zip(bounds, self.counts, strict=True):
            so_far += count
            pairs.append((bound, float(so_far)))
        return pairs


class Metrics:
    """Counts what this process serves."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, int]] = Counter()
        self._tokens: Counter[tuple[str, str]] = Counter()
        self._guarded: Counter[tuple[str, str]] = Counter()
        self._fallbacks: Counter[tuple[str, str]] = Counter()
        self._seconds: dict[str, _Seconds] = {}

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
        for entry in draft.audit:
            self._guarded[entry.guard, entry.action] += 1

    def _observe(self, route: str, seconds: float) -> None:
        histogram = self._seconds.get(route)
        if histogram is None:
            histogram = self._seconds[route] = _Seconds()
        histogram.observe(seconds)

    def page(self, in_flight: int, outbox: Mapping[str, float], found: Mapping[str, int]) -> bytes:
        """Give the page that Prometheus scrapes.

        `outbox` tells records by their fate, `found` calls by where their adapter was.
        """
        registry = CollectorRegistry()
        registry.register(_Page(self._families(in_flight, outbox, found)))
        return generate_latest(registry)

    def _families(
        self, in_flight: int, outbox: Mapping[str, float], found: Mapping[str, int]
    ) -> list[Metric]:
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
        seconds = HistogramMetricFamily(
            "adapterloop_answer_seconds", "Seconds from request to end of answer", labels=["route"]
        )
        for route, histogram in self._seconds.items():
            seconds.add_metric([route], histogram.cumulative(), histogram.total)
        waiting = GaugeMetricFamily("adapterloop_outbox", "Records by fate", labels=["fate"])
        for fate, number in outbox.items():
            waiting.add_metric([fate], number)
        now = GaugeMetricFamily("adapterloop_in_flight", "Calls now", value=in_flight)
        adapters = CounterMetricFamily(
            "adapterloop_adapter_calls", "Calls by where their adapter was", labels=["found"]
        )
        for where, number in found.items():
            adapters.add_metric([where], number)
        return [requests, tokens, guarded, fallbacks, seconds, waiting, now, adapters]


_REQUEST = ["route", "status"]


class _Page(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families
