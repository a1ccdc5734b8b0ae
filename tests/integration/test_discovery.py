"""Workers that are found: a name that really resolves, and a controller that takes them up."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from deploy.migrations import upgrade
from feedback.db import make_engine
from gateway.registry.service import Registry
from gateway.settings import WorkerSettings
from gateway.workers.discovery import Discovery, Dns
from gateway.workers.errors import LookupFailed
from gateway.workers.file_source import write_list
from gateway.workers.kubernetes import Kubernetes
from tests.acceptance.live import wait_for
from tests.stub.cluster import PATH, Cluster, endpoint
from tests.stub.script import Script
from tests.stub.server import StubWorker

from .conftest import MakeStack
from .stack import Stack
from .wire import CHAT, body_for


async def test_a_name_gives_its_addresses() -> None:
    assert ("127.0.0.1", 8001) in await Dns("localhost", 8001).find()


async def test_a_name_that_leads_nowhere_fails() -> None:
    with pytest.raises(LookupFailed, match="name"):
        await Dns("no name", 8001).find()


def test_a_worker_behind_a_name_is_loaded_and_answers(make_stack: MakeStack) -> None:
    with StubWorker() as stub:
        entry = WorkerSettings(name="gpu", url=f"dns+http://localhost:{stub.port}")
        stack = make_stack((entry,))
        stack.publish("support", stack.source("support-1", seed=1))
        assert stack.routable("support")
        with stack.live.admin() as admin:
            workers = admin.get("/admin/v1/workers").json()["data"]
        assert "gpu@127.0.0.1" in {worker["name"] for worker in workers if worker["healthy"]}
        assert stub.seen.loads
        goes_on_without_its_worker(stack, stub)


def goes_on_without_its_worker(stack: Stack, stub: StubWorker) -> None:
    """A stream ends as it should though its worker is removed in the middle."""
    full = 'adapterloop_worker_full{worker="gpu@127.0.0.1"}'
    registry = Registry.from_settings(stack.settings)
    stack.controller.stop()  # which would find it again within five seconds
    stub.script = Script(text="The train leaves at noon. " * 30, delay=0.5)
    body = body_for(CHAT, "support", "Hello", stream=True, max_tokens=400)
    with stack.live.http() as http, http.stream("POST", CHAT, json=body) as answer:
        assert full in http.get("/metrics").text
        assert registry.remove_worker("gpu@127.0.0.1")
        assert wait_for(lambda: full not in http.get("/metrics").text, 20)
        assert stub.seen.running
        stub.script.delay = 0.0  # the rest at once
        text = answer.read().decode()
    registry.close()
    assert '"finish_reason":"stop"' in text
    assert text.endswith("data: [DONE]\n\n")


def certify(folder: Path) -> ssl.SSLContext:
    """Make a certificate for 127.0.0.1, and `ca.crt` by which clients trust it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kubernetes")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    plain = serialization.NoEncryption()
    (folder / "ca.crt").write_bytes(made.public_bytes(pem))
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    (folder / "server.pem").write_bytes(private + made.public_bytes(pem))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "server.pem")
    return context


@asynccontextmanager
async def serving(cluster: Cluster, account: Path) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get(PATH, cluster.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=certify(account))
    await site.start()
    yield f"https://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    url = f"sqlite:///{tmp_path / 'adapterloop.db'}"
    upgrade(url)
    made = Registry(make_engine(url), tmp_path / "storage", base_model="tiny")
    made.prepare()
    yield made
    made.close()


class Service:
    """The workers of a service as the registry knows them, kept up to date from a cluster."""

    def __init__(self, cluster: Cluster, registry: Registry, account: Path) -> None:
        self.cluster = cluster
        self.account = account
        self._registry = registry

    async def watched(self) -> None:
        async with asyncio.timeout(20):
            while not self.cluster.watched:  # noqa: ASYNC110 (the source changes it)
                await asyncio.sleep(0.01)

    async def becomes(self, *addresses: str) -> float:
        """Wait until the registry's workers are these; the seconds that it took."""
        wanted, began = {f"gpu@{address}" for address in addresses}, time.monotonic()
        while (known := await asyncio.to_thread(self._known)) != wanted:
            assert time.monotonic() - began < 20, known
            await asyncio.sleep(0.02)
        return time.monotonic() - began

    def _known(self) -> set[str]:
        return set(self._registry.snapshot().workers)


@pytest.fixture
async def service(tmp_path: Path, registry: Registry) -> AsyncIterator[Service]:
    cluster, entry = Cluster(), WorkerSettings(name="gpu", url="k8s+http://vllm.models")
    (tmp_path / "token").write_text(cluster.token)
    cluster.put("a", endpoint("10.0.0.1"), endpoint("10.0.0.2"))
    async with (
        serving(cluster, tmp_path) as api,
        aiohttp.ClientSession() as session,
        asyncio.TaskGroup() as group,
    ):
        source = Kubernetes(session, "vllm", "models", None, api=api, account=tmp_path)
        discovery = Discovery(registry, [(entry, source)])
        running = group.create_task(discovery.run(lambda: True, 1.0))
        made = Service(cluster, registry, tmp_path)
        await made.becomes("10.0.0.1", "10.0.0.2")
        await made.watched()
        yield made
        running.cancel()


async def test_pods_that_come_and_end_are_seen_within_a_second(service: Service) -> None:
    """The quickest of three tells what the code waits for: a machine that stalls only adds."""
    cluster, came, ended = service.cluster, [], []
    for pod in ("10.0.0.3", "10.0.0.4", "10.0.0.5"):
        cluster.put("b", endpoint(pod, ready=False))
        came.append(await service.becomes("10.0.0.1", "10.0.0.2", pod))
        cluster.put("b", endpoint(pod, terminating=True))
        ended.append(await service.becomes("10.0.0.1", "10.0.0.2"))
    assert max(min(came), min(ended)) < 1, (came, ended)
    assert len(cluster.lists) == len(cluster.watches) == 1


async def test_a_pod_with_an_address_of_each_family_is_one_worker(
    service: Service, registry: Registry
) -> None:
    cluster, before = service.cluster, ("10.0.0.1", "10.0.0.2")
    only_six = endpoint("fd00::3", pod="vllm-3")
    cluster.put("six", only_six, family="IPv6")
    await service.becomes(*before, "fd00::3")
    assert registry.snapshot().workers["gpu@fd00::3"].url == "http://[fd00::3]:8001"
    cluster.put("four", endpoint("10.0.0.4", pod="vllm-4"))
    cluster.put("six", only_six, endpoint("fd00::4", pod="vllm-4"), family="IPv6")
    await service.becomes(*before, "fd00::3", "10.0.0.4")
    cluster.put("four", endpoint("10.0.0.4", pod="vllm-4", terminating=True))
    await service.becomes(*before, "fd00::3")


async def test_an_endpoint_that_moves_between_slices_stays(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = service.cluster
    cluster.delete("a")
    cluster.put("b", endpoint("10.0.0.3"))
    await service.becomes("10.0.0.1", "10.0.0.2", "10.0.0.3")
    cluster.put("c", endpoint("10.0.0.1"), endpoint("10.0.0.2"))
    cluster.put("d", endpoint("10.0.0.4"))
    await service.becomes(*(f"10.0.0.{n}" for n in range(1, 5)))
    assert "is gone" not in caplog.text
    cluster.delete("b")
    await service.becomes("10.0.0.1", "10.0.0.2", "10.0.0.4")


async def test_what_happens_while_the_line_is_down_is_made_up_for(service: Service) -> None:
    """The stream is cut, its history is gone, and the token is not the old one any more."""
    cluster = service.cluster
    cluster.cut()
    cluster.put("b", endpoint("10.0.0.3"))
    await service.becomes("10.0.0.1", "10.0.0.2", "10.0.0.3")
    await service.watched()
    cluster.expire()
    cluster.put("b", endpoint("10.0.0.3"), endpoint("10.0.0.4"))
    await service.becomes(*(f"10.0.0.{n}" for n in range(1, 5)))
    await service.watched()
    cluster.token = "another"
    cluster.cut()
    async with asyncio.timeout(10):
        while not cluster.refused:  # noqa: ASYNC110 (the source changes it)
            await asyncio.sleep(0.01)
    cluster.put("b", endpoint("10.0.0.3", terminating=True), endpoint("10.0.0.4"))
    (service.account / "token").write_text("another")
    await service.becomes("10.0.0.1", "10.0.0.2", "10.0.0.4")
    assert cluster.refused < 5
    assert len(cluster.lists) < 6


def test_a_worker_that_its_file_no_longer_lists_ends_the_calls_it_has(
    make_stack: MakeStack, tmp_path: Path
) -> None:
    path = tmp_path / "workers.json"
    with StubWorker() as old, StubWorker() as new:
        old.script = Script(delay=0.3, text="One word after another. " * 30)
        write_list(path, {("127.0.0.1", old.port): {}})
        stack = make_stack((WorkerSettings(name="local", url=f"file+{path}"),))

        def names() -> set[str]:
            with stack.live.admin() as admin:
                told = admin.get("/admin/v1/workers").json()["data"]
            return {worker["name"] for worker in told if worker["healthy"]}

        with stack.live.client() as client:
            ask = [{"role": "user", "content": "x"}]
            stream = client.chat.completions.create(model="base", messages=ask, stream=True)  # type: ignore[arg-type]
            first = next(iter(stream))
            write_list(path, {("127.0.0.1", new.port): {}})
            assert wait_for(lambda: names() == {f"local@127.0.0.1:{new.port}"}, 30), names()
            assert old.seen.running
            old.script.delay = 0.0  # the rest at once
            chunks = [first, *stream]
            assert chunks[-1].choices[0].finish_reason == "stop"

            def has_moved() -> bool:
                """The gateway learns of it within its next look at the registry."""
                client.chat.completions.create(model="base", messages=ask)  # type: ignore[arg-type]
                return bool(new.seen.requests)

            assert wait_for(has_moved, 10)
