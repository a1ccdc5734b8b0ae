"""What lists and events tell of the workers of a Kubernetes service."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.workers.errors import LookupFailed
from gateway.workers.kubernetes import Slices, Told
from tests.stub.cluster import Cluster, endpoint, event, gone

ADDRESSES = [f"10.0.0.{n}" for n in range(6)]
NAMES = ["a", "b", "c"]


def listed(cluster: Cluster) -> bytes:
    meta = {"resourceVersion": str(cluster.version)}
    return msgspec.json.encode({"metadata": meta, "items": list(cluster.slices.values())})


def told(cluster: Cluster, port: int | None = None) -> Told:
    slices = Slices(port)
    slices.replace(listed(cluster))
    return slices.told()


def test_a_list_tells_of_all_that_do_not_end() -> None:
    cluster = Cluster()
    cluster.put(
        "a",
        endpoint("10.0.0.1", ready=True),
        endpoint("10.0.0.2", ready=False),
        endpoint("10.0.0.3", ready=False, terminating=True, serving=True),
    )
    cluster.put("b", {"addresses": ["10.0.0.4", "10.1.0.4"]}, port=None)
    cluster.put("c", port=8002)
    found = {("10.0.0.1", 8001), ("10.0.0.2", 8001)}
    assert told(cluster) == (found, {"10.0.0.3"})
    assert ("10.0.0.4", 9) in told(cluster, port=9).found
    assert ("10.1.0.4", 9) not in told(cluster, port=9).found


def test_an_address_that_is_given_to_another_pod_does_not_end() -> None:
    cluster = Cluster()
    cluster.put("a", endpoint("10.0.0.1", terminating=True))
    cluster.put("b", endpoint("10.0.0.1"))
    assert told(cluster) == ({("10.0.0.1", 8001)}, frozenset())


@pytest.mark.parametrize("first", ["IPv4", "IPv6"])
def test_a_pod_of_a_service_with_both_families_is_one_worker(first: str) -> None:
    cluster = Cluster()
    for family in (first, "IPv6" if first == "IPv4" else "IPv4"):
        net = "10.0.0." if family == "IPv4" else "fd00::"
        pods = [endpoint(f"{net}{n}", pod=f"vllm-{n}", ready=True) for n in (1, 2)]
        cluster.put(f"vllm-{family}", *pods, family=family)
    assert told(cluster) == ({("10.0.0.1", 8001), ("10.0.0.2", 8001)}, frozenset())


def test_a_pod_without_an_address_of_the_one_family_counts_by_the_other() -> None:
    cluster = Cluster()
    cluster.put("four", endpoint("10.0.0.1", pod="vllm-1"))
    six = [endpoint("fd00::1", pod="vllm-1"), endpoint("fd00::2", pod="vllm-2")]
    cluster.put("six", *six, family="IPv6")
    assert told(cluster).found == {("10.0.0.1", 8001), ("fd00::2", 8001)}
    cluster.delete("four")
    assert told(cluster).found == {("fd00::1", 8001), ("fd00::2", 8001)}


def test_endpoints_that_tell_of_no_pod_are_a_worker_each() -> None:
    cluster = Cluster()
    cluster.put("four", endpoint("10.0.0.1"), endpoint("10.0.0.2"))
    cluster.put("six", endpoint("fd00::1"), family="IPv6")
    assert {address for address, _ in told(cluster).found} == {"10.0.0.1", "10.0.0.2", "fd00::1"}


def test_a_pod_that_ends_is_no_worker_by_its_other_address() -> None:
    cluster = Cluster()
    cluster.put("four", endpoint("10.0.0.1", pod="vllm-1", terminating=True))
    cluster.put("six", endpoint("fd00::1", pod="vllm-1"), family="IPv6")
    assert told(cluster) == (frozenset(), {"10.0.0.1", "fd00::1"})


@pytest.mark.parametrize(
    "line",
    [event("ERROR", gone()), event("RENAMED", {"metadata": {"name": "a"}})],
    ids=["error", "unknown"],
)
def test_what_is_no_change_ends_the_watch(line: bytes) -> None:
    with pytest.raises(LookupFailed, match="ends"):
        Slices(None).apply(line)


def test_a_list_that_cannot_be_read_changes_nothing() -> None:
    cluster = Cluster()
    cluster.put("a", endpoint("10.0.0.1"))
    slices = Slices(None)
    slices.replace(listed(cluster))
    for body in (b"", b'{"items": 1}', b'{"metadata": {}, "items": [{}]}'):
        with pytest.raises(msgspec.DecodeError):
            slices.replace(body)
    assert slices.told().found == {("10.0.0.1", 8001)}


PODS = ["", "vllm-0", "vllm-1", "vllm-2"]
endpoints = st.lists(
    st.builds(
        endpoint, st.sampled_from(ADDRESSES), pod=st.sampled_from(PODS), terminating=st.booleans()
    ),
    max_size=3,
)
changes = st.lists(st.tuples(st.sampled_from(NAMES), st.none() | endpoints), max_size=20)


class Recorded(Cluster):
    """Keeps the lines that it says."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[bytes] = []

    def say(self, line: bytes) -> None:
        self.said.append(line)

    def change(self, name: str, to: list[dict[str, Any]] | None) -> None:
        if to is not None:
            self.put(name, *to)
        elif name in self.slices:
            self.delete(name)
        else:
            self.bookmark()


@given(before=changes, after=changes)
def test_a_list_and_what_happened_since_are_the_list_of_now(before: Any, after: Any) -> None:
    cluster, slices = Recorded(), Slices(None)
    for change in before:
        cluster.change(*change)
    slices.replace(listed(cluster))
    cluster.said.clear()
    for change in after:
        cluster.change(*change)
    for line in cluster.said:
        slices.apply(line)
    assert slices.told() == told(cluster)
    assert slices.version == str(cluster.version)
