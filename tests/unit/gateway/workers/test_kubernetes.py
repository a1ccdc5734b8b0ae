"""Following a Kubernetes service: lists, watches, and what comes where these fail."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from gateway.workers.errors import LookupFailed
from gateway.workers.kubernetes import STALE_S, WATCH_S, Kubernetes, _lines, pause
from tests.stub.cluster import PATH, Cluster, endpoint
from tests.unit.gateway.workers.conftest import Answers


@given(
    lines=st.lists(st.binary(min_size=1, max_size=9).filter(lambda line: b"\n" not in line)),
    cuts=st.lists(st.integers(0, 60)),
)
async def test_lines_are_cut_anywhere(lines: list[bytes], cuts: list[int]) -> None:
    async def parts() -> AsyncIterator[bytes]:
        at = 0
        for cut in sorted(cuts):
            yield whole[at:cut]
            at = max(at, cut)
        yield whole[at:]

    whole = b"".join(line + b"\n" for line in lines) + b'{"type": "ADD'
    assert [line async for line in _lines(parts())] == lines


def test_pauses_grow_to_a_bound_and_differ() -> None:
    for failures in (0, 1, 5, 10**6):
        many = [pause(failures) for _ in range(50)]
        longest = min(15, 0.5 * 2**failures) if failures < 10 else 15
        assert all(longest / 2 <= one <= longest for one in many)
        assert len(set(many)) > 1


class Pauses:
    """Notes how many failures came before each pause, and makes none."""

    def __init__(self) -> None:
        self.after: list[int] = []

    def __call__(self, failures: int) -> float:
        self.after.append(failures)
        return 0.01


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "token").write_text("the-token\n")
    context = ssl.create_default_context()
    monkeypatch.setattr(ssl, "create_default_context", lambda cafile: context)
    return tmp_path


@pytest.fixture
def cluster(answers: Answers) -> Cluster:
    made = Cluster()
    answers[PATH] = made.handle
    return made


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pauses() -> Pauses:
    return Pauses()


@pytest.fixture
def source(
    session: aiohttp.ClientSession, account: Path, clock: Clock, pauses: Pauses
) -> Kubernetes:
    options: Any = {"api": "http://api", "account": account, "clock": clock, "pause": pauses}
    return Kubernetes(session, "vllm", "models", None, **options)


@asynccontextmanager
async def following(source: Kubernetes) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(source.follow())
        yield
        task.cancel()


async def until(what: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not what():  # noqa: ASYNC110 (tasks of the code under test change it)
            await asyncio.sleep(0.005)


async def tells(source: Kubernetes, *addresses: str) -> None:
    """Wait until the source has told of a change, and knows these addresses."""
    async with asyncio.timeout(10):
        while {address for address, _ in await source.find()} != {*addresses}:
            await source.changed()


async def test_it_lists_and_then_watches_from_there(source: Kubernetes, cluster: Cluster) -> None:
    cluster.put("a", endpoint("10.0.0.1"))
    async with following(source):
        await tells(source, "10.0.0.1")
        await until(lambda: cluster.watched)
        cluster.put("b", endpoint("10.0.0.2", ready=False))
        await tells(source, "10.0.0.1", "10.0.0.2")
        cluster.put("a", endpoint("10.0.0.1", terminating=True))
        await tells(source, "10.0.0.2")
        assert source.ending == {"10.0.0.1"}
        cluster.delete("a")
        await source.changed()
        assert source.ending == frozenset()
    [watch] = cluster.watches
    assert len(cluster.lists) == 1
    assert watch.query["resourceVersion"] == "11"
    assert watch.query["allowWatchBookmarks"] == "true"
    assert watch.query["timeoutSeconds"] == str(WATCH_S)


async def test_the_same_workers_are_no_news(source: Kubernetes, cluster: Cluster) -> None:
    cluster.put("a", endpoint("10.0.0.1", ready=False))
    async with following(source):
        await source.changed()
        await until(lambda: cluster.watched)
        cluster.put("a", endpoint("10.0.0.1", ready=True))
        cluster.bookmark()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await source.changed()
        cluster.put("a", endpoint("10.0.0.2"))
        await source.changed()
        assert await source.find() == {("10.0.0.2", 8001)}


async def test_a_watch_whose_time_is_over_goes_on_where_it_was(
    source: Kubernetes, cluster: Cluster, clock: Clock, pauses: Pauses
) -> None:
    async with following(source):
        await until(lambda: cluster.watched)
        cluster.bookmark()
        clock.now += WATCH_S
        cluster.end()
        await until(lambda: len(cluster.watches) == 2 and cluster.watched)
        cluster.put("a", endpoint("10.0.0.1"))
        await tells(source, "10.0.0.1")
    assert cluster.watches[1].query["resourceVersion"] == "15"
    assert len(cluster.lists) == 1
    assert pauses.after == []


@pytest.mark.parametrize("how", [Cluster.cut, Cluster.expire, Cluster.end])
async def test_after_a_broken_watch_it_lists_again(
    source: Kubernetes, cluster: Cluster, pauses: Pauses, how: Callable[[Cluster], None]
) -> None:
    """Also after one that ends at once, which a proxy in between may do forever."""
    async with following(source):
        await until(lambda: cluster.watched)
        how(cluster)
        cluster.put("a", endpoint("10.0.0.1"))
        await tells(source, "10.0.0.1")
        await until(lambda: cluster.watched)
    assert len(cluster.lists) == 2
    assert pauses.after == [1]


async def test_a_broken_line_changes_nothing_and_lists_again(
    source: Kubernetes, cluster: Cluster
) -> None:
    cluster.put("a", endpoint("10.0.0.1"))
    async with following(source):
        await until(lambda: cluster.watched)
        cluster.say(b'{"type": "DELETED", "object": {"metadata"\n')
        await until(lambda: len(cluster.watches) == 2)
        assert await source.find() == {("10.0.0.1", 8001)}


async def test_what_was_forgotten_in_between_is_listed(
    source: Kubernetes, cluster: Cluster, clock: Clock
) -> None:
    async with following(source):
        await until(lambda: cluster.watched)
        cluster.put("a", endpoint("10.0.0.1"))
        await tells(source, "10.0.0.1")
        cluster.forget()
        clock.now += WATCH_S
        cluster.end()
        await until(lambda: len(cluster.lists) == 2 and cluster.watched)
        assert await source.find() == {("10.0.0.1", 8001)}
    assert len(cluster.watches) == 3


async def test_failures_in_a_row_are_counted_until_a_watch_lasts(
    source: Kubernetes, cluster: Cluster, clock: Clock, pauses: Pauses
) -> None:
    cluster.status = 500
    async with following(source):
        await until(lambda: len(pauses.after) == 3)
        cluster.status = 200
        await until(lambda: cluster.watched)
        clock.now += 60
        cluster.cut()
        await until(lambda: len(pauses.after) >= 4 and pauses.after[-1] == 0)
    assert pauses.after[:3] == [1, 2, 3]


async def test_a_server_that_is_silent_is_left(
    source: Kubernetes, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.workers.kubernetes.SILENT_S", 0.05)
    async with following(source):
        await until(lambda: len(cluster.lists) >= 2)


async def test_the_token_is_read_anew(source: Kubernetes, cluster: Cluster, account: Path) -> None:
    async with following(source):
        await until(lambda: cluster.watched)
        cluster.token = "renewed"
        cluster.cut()
        await until(lambda: cluster.refused)
        (account / "token").write_text("renewed")
        cluster.put("a", endpoint("10.0.0.1"))
        await tells(source, "10.0.0.1")


async def test_it_goes_on_by_lists_where_it_may_not_watch(
    source: Kubernetes, cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.status = 403
    async with following(source):
        await source.find()
        cluster.put("a", endpoint("10.0.0.1"))
        await tells(source, "10.0.0.1")
        await until(lambda: len(cluster.lists) > 3)
    assert caplog.text.count("403: ") == caplog.text.count("cannot watch resource") == 1


async def test_what_is_known_is_told_for_a_while_after_the_server_is_gone(
    source: Kubernetes, cluster: Cluster, answers: Answers, clock: Clock, pauses: Pauses
) -> None:
    async def away(request: web.Request) -> web.StreamResponse:
        return web.Response(status=503, text="away")

    cluster.put("a", endpoint("10.0.0.1"))
    async with following(source):
        await until(lambda: cluster.watched)
        answers[PATH] = away
        cluster.cut()
        await until(lambda: len(pauses.after) > 1)
        clock.now = STALE_S
        assert await source.find() == {("10.0.0.1", 8001)}
        clock.now = STALE_S + 1
        with pytest.raises(LookupFailed, match="503: away"):
            await source.find()


async def test_outside_a_cluster_there_is_no_account(
    session: aiohttp.ClientSession, tmp_path: Path, pauses: Pauses
) -> None:
    source = Kubernetes(session, "vllm", "models", None, account=tmp_path / "x", pause=pauses)
    async with following(source):
        with pytest.raises(LookupFailed, match="token"):
            await source.find()
