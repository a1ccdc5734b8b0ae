"""What the keeper is told by the registry, and what it finds in a home."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import gguf
import pytest

from deploy import ports
from deploy.compose import EXAMPLES, gateway_settings
from deploy.config import Config, LocalWorker
from deploy.home import Home
from deploy.llamacpp.convert import Base
from deploy.llamacpp.run import _Here
from deploy.migrations import upgrade
from gateway.registry.service import Registry
from gateway.registry.snapshot import Effect, Placement, Version, VersionState, WorkerSpec
from gateway.workers.file_source import read_list, write_list

LOCAL = "local@127.0.0.1:8001"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "base.gguf").touch()
    own = LocalWorker(kind="llamacpp", gguf=tmp_path / "base.gguf")
    return Config(home=tmp_path / "home", local_worker=own)


@pytest.fixture
def home(config: Config) -> Home:
    home = Home(config.home)
    home.create()
    home.gguf.mkdir()
    return home


@pytest.fixture
def registry(config: Config, home: Home) -> Iterator[Registry]:
    settings = gateway_settings(config)
    upgrade(settings.database_url)
    registry = Registry.from_settings(settings)
    registry.prepare()
    yield registry
    registry.close()


@pytest.fixture
def claims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ports.Claims]:
    monkeypatch.setattr(ports, "is_free", lambda host, port: True)
    with ports.Claims(str(tmp_path)) as claims:
        yield claims


def register(registry: Registry) -> Version:
    return registry.register("default", "support", EXAMPLES / "support-1", "test")


def test_it_is_told_what_is_wanted_proven_and_called(
    config: Config, registry: Registry, claims: ports.Claims
) -> None:
    here = _Here(config, registry, claims)
    version = register(registry)
    registry.upsert_worker(WorkerSpec(LOCAL, "http://127.0.0.1:8001", "llamacpp"))
    registry.record_worker(LOCAL, boot="1", healthy=True)
    registry.record_placement(Placement(LOCAL, version.id, "1", Effect.EFFECTIVE))
    revision = registry.revision()
    registry.heartbeat("g", revision, [f"{version.worker_name} local@127.0.0.1:9"])
    facts = here.look()
    assert facts is not None
    assert [one.id for one in facts.wanted] == [version.id]
    assert facts.healthy == {LOCAL: True}
    assert facts.proven == {LOCAL: {version.worker_name}}
    assert set(facts.called) == {LOCAL, "local@127.0.0.1:9"}
    assert not facts.behind
    registry.remove_worker(LOCAL)
    facts = here.look()
    assert facts is not None
    assert (LOCAL in facts.called, facts.behind) == (False, True)
    registry.set_state(version.id, VersionState.REJECTED, "no", "test")
    facts = here.look()
    assert facts is not None
    assert facts.wanted == []


def test_without_a_store_nothing_is_known(config: Config, home: Home, claims: ports.Claims) -> None:
    registry = Registry.from_settings(gateway_settings(config))
    assert _Here(config, registry, claims).look() is None
    registry.close()


def test_the_ports_of_the_run_before_are_taken_first(
    config: Config, home: Home, registry: Registry, claims: ports.Claims
) -> None:
    write_list(home.llamacpp_workers, {("127.0.0.1", port): {} for port in (8123, 8100)})
    here = _Here(config, registry, claims)
    assert here._ports == [8100, 8123]
    home.llamacpp_workers.unlink()
    with ports.Claims(str(home.root)) as others:
        assert _Here(config, registry, others)._ports == [8001]


def test_a_port_is_used_again_when_its_server_has_ended(
    config: Config, home: Home, registry: Registry, claims: ports.Claims, tmp_path: Path
) -> None:
    program = tmp_path / "llama-server"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    own = config.local_worker.model_copy(update={"llama_server": program})
    write_list(home.llamacpp_workers, {("127.0.0.1", 8123): {}})
    here = _Here(config.model_copy(update={"local_worker": own}), registry, claims)
    used = []
    for _ in range(3):
        server = here.start(())
        used.append(server.port)
        server.stop()
        here.clean(server, ())
    assert used == [8123, 8001, 8123]


def test_an_adapter_is_converted_once_and_deleted_when_nobody_needs_it(
    config: Config, home: Home, registry: Registry, claims: ports.Claims
) -> None:
    here = _Here(config, registry, claims)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 30)
    tensors = {f"{name}.weight" for _, name in names.mapping.values()}
    here._base = Base(30, 9, 3, frozenset(tensors))
    version = register(registry)
    assert here.prepare(version) is None
    made = home.gguf / f"{version.worker_name}.gguf"
    before = made.stat().st_mtime_ns
    assert here.prepare(version) is None
    assert made.stat().st_mtime_ns == before
    assert [path.name for path in home.gguf.iterdir()] == [made.name]
    here._base = Base(30, 9, 3, frozenset())
    made.unlink()
    assert "no such weights" in (here.prepare(version) or "")

    made.touch()
    server = type("Ended", (), {"port": 8123})()
    here.clean(server, [version.worker_name])
    assert made.exists()
    here.clean(server, [])
    assert not made.exists()
    assert 8123 in here._ports


@pytest.mark.parametrize("pattern", [{"(": 8}, ["q_proj"], {"q_proj": 10**400}])
def test_an_adapter_that_nobody_has_thought_of_is_left_out(
    config: Config, home: Home, registry: Registry, claims: ports.Claims, pattern: object
) -> None:
    here = _Here(config, registry, claims)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 30)
    here._base = Base(30, 9, 3, frozenset(f"{n}.weight" for _, n in names.mapping.values()))
    version = register(registry)
    stored = Path(version.path) / "adapter_config.json"
    # Registration refuses such patterns; what it will let through one day is not known.
    stored.write_text(json.dumps({**json.loads(stored.read_text()), "alpha_pattern": pattern}))
    assert here.prepare(version)
    assert list(home.gguf.iterdir()) == []


def test_the_list_holds_the_servers_and_what_each_runs_without(
    config: Config, home: Home, registry: Registry, claims: ports.Claims
) -> None:
    old, new = (
        type("Running", (), {"port": port, "adapters": adapters})()
        for port, adapters in ((8123, ("a",)), (8124, ("a", "b")))
    )
    _Here(config, registry, claims).announce([old, new], {"b": "no such weights", "c": "odd"})
    assert read_list(home.llamacpp_workers) == {
        ("127.0.0.1", 8123): {"b": "no such weights", "c": "odd"},
        ("127.0.0.1", 8124): {"c": "odd"},
    }
