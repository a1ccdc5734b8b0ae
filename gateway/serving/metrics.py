"""Prometheus metrics of the serving path; every label set is bounded."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from gateway.serving.call import Draft

_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """Counts what this process serves, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "adapterloop_requests", "Requests", ["route", "status"], registry=self._registry
        )
        self._tokens = Counter(
            "adapterloop_tokens", "Tokens", ["model", "kind"], registry=self._registry
        )
        self._seconds = Histogram(
            "adapterloop_answer_seconds",
            "Seconds from request to end of answer",
            ["route"],
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._guarded = Counter(
            "adapterloop_guard_actions", "Decisions", ["guard", "action"], registry=self._registry
        )
        self._in_flight = Gauge("adapterloop_in_flight", "Calls now", registry=self._registry)
        self._outbox = Gauge(
            "adapterloop_outbox", "Records by fate", ["fate"], registry=self._registry
        )
        # Looking a child up by its labels costs more than counting.
        self._children: dict[tuple[str, int], Counter] = {}
        self._token_children: dict[str, tuple[Counter, Counter]] = {}
        self._second_children: dict[str, Histogram] = {}

    def request(self, route: str, status: int) -> None:
        """Count a request; `status` 499 stands for a client that went away."""
        child = self._children.get((route, status))
        if child is None:
            child = self._children[(route, status)] = self._requests.labels(route, str(status))
        child.inc()

    def answered(self, draft: Draft) -> None:
        """Count an answer's tokens, time and guard decisions."""
        if draft.turn is not None:
            usage = draft.turn.total
            prompt, completion = self._tokens_of(draft.model)
            prompt.inc(usage.prompt_tokens)
            completion.inc(usage.completion_tokens)
        route = draft.call.route
        seconds = self._second_children.get(route)
        if seconds is None:
            seconds = self._second_children[route] = self._seconds.labels(route)
        seconds.observe(draft.elapsed)
        for entry in draft.audit:
            self._guarded.labels(entry.guard, entry.action).inc()

    def _tokens_of(self, model: str) -> tuple[Counter, Counter]:
        children = self._token_children.get(model)
        if children is None:
            labels = self._tokens.labels
            children = labels(model, "prompt"), labels(model, "completion")
            self._token_children[model] = children
        return children

    def page(self, in_flight: int, records: Mapping[str, int]) -> bytes:
        """Give the page that Prometheus scrapes; `records` counts the outbox's by their fate."""
        self._in_flight.set(in_flight)
        for fate, count in records.items():
            self._outbox.labels(fate).set(count)
        return generate_latest(self._registry)
