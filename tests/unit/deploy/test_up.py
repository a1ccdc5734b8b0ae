from __future__ import annotations

import io
import json
import stat
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from deploy import ports
from deploy import up as module
from deploy.compose import gateway_settings
from deploy.config import Config, LocalWorker
from deploy.home import Home, read_env
from deploy.keyring import ensure_keys
from deploy.migrations import upgrade
from deploy.progress import Progress
from deploy.up import CannotStart, programs
from deploy.welcome import welcome
from gateway.registry.db import make_engine
from gateway.registry.keys import digest
from gateway.registry.service import Registry
from gateway.registry.snapshot import WorkerSpec

URL = "http://127.0.0.1:8000"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "model").mkdir()
    return Config(home=tmp_path / "home", model=str(tmp_path / "model"))


@pytest.fixture
def home(config: Config) -> Home:
    home = Home(config.home)
    home.create()
    return home


@pytest.fixture
def registry(config: Config, home: Home) -> Iterator[Registry]:
    settings = gateway_settings(config)
    upgrade(settings.database_url)
    engine = make_engine(settings.database_url)
    registry = Registry(engine, settings.storage, base_model="model")
    registry.prepare()
    yield registry
    registry.close()


def test_a_held_home_is_one_clear_line(config: Config, home: Home) -> None:
    again = module._alone(home, config)
    with module._alone(home, config):
        with pytest.raises(CannotStart, match=r"already up at http://127\.0\.0\.1:8000"):
            again.__enter__()
        assert json.loads(home.lock.read_text(encoding="utf-8"))["url"] == URL


def test_a_home_whose_holder_is_gone_is_free(config: Config, home: Home) -> None:
    home.lock.write_text('{"pid": 1, "url": "http://gone"}', encoding="utf-8")
    with module._alone(home, config):
        assert json.loads(home.lock.read_text(encoding="utf-8"))["url"] == URL


def test_a_port_in_use_is_one_clear_line(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "is_free", lambda host, port: False)
    with pytest.raises(CannotStart) as caught, ports.Claims() as claims:
        module._claim_port(config, claims)
    assert "8000" in str(caught.value)
    assert "ADAPTERLOOP_PORT" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_workers_port_is_remembered(
    config: Config, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.worker_port.write_text("8123", encoding="utf-8")
    monkeypatch.setattr(ports, "is_free", lambda host, port: True)
    with ports.Claims(str(home.root)) as claims:
        module._choose_worker_port(home, config, claims)
    assert gateway_settings(config).workers[0].url == "http://127.0.0.1:8123"


def test_a_port_that_another_up_chose_is_not_free_though_nothing_listens_yet(
    config: Config, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ports, "is_free", lambda host, port: True)
    monkeypatch.setattr(ports.Claims, "any", lambda self, host: 8999)
    home.worker_port.write_text("8124", encoding="utf-8")
    mine = str(home.root)
    with ports.Claims(mine) as first, ports.Claims(mine) as second:
        assert first.take("127.0.0.1", 8001)
        assert first.take("127.0.0.1", 8124)
        module._choose_worker_port(home, config, second)
        assert home.worker_port.read_text(encoding="utf-8") == "8999"
    with ports.Claims(mine) as third:
        assert third.take("127.0.0.1", 8124)


def test_named_workers_are_not_started(config: Config) -> None:
    assert "worker" in [program.name for program in programs(config)]
    named = Config(home=config.home, workers="http://gpu-1:8001")
    assert "worker" not in [program.name for program in programs(named)]
    assert gateway_settings(named).workers[0].url == "http://gpu-1:8001"


def test_llama_servers_are_found_in_a_file(tmp_path: Path) -> None:
    config = Config(home=tmp_path, local_worker=LocalWorker(kind="llamacpp"))
    [worker] = gateway_settings(config).workers
    assert (worker.name, worker.kind) == ("local", "llamacpp")
    assert worker.file == tmp_path / "llamacpp-workers.json"


def test_a_local_worker_of_another_kind_is_forgotten(config: Config, registry: Registry) -> None:
    remote = WorkerSpec("gpu@10.0.0.1", "http://10.0.0.1:8001")
    llama = WorkerSpec("local@127.0.0.1:8001", "http://127.0.0.1:8001", "llamacpp")
    for spec in (remote, llama, WorkerSpec("local", "http://127.0.0.1:8001")):
        registry.upsert_worker(spec)
    module._forget_workers(registry, config)
    assert set(registry.snapshot().workers) == {remote.name, "local"}
    own = LocalWorker(kind="llamacpp")
    registry.upsert_worker(llama)
    module._forget_workers(registry, Config(home=config.home, local_worker=own))
    assert set(registry.snapshot().workers) == {remote.name, llama.name}


def test_a_model_that_llama_server_cannot_read_is_one_clear_line(config: Config) -> None:
    own = LocalWorker(kind="llamacpp")
    with pytest.raises(CannotStart, match="ADAPTERLOOP_LOCAL_WORKER__GGUF"):
        module._check_llamacpp(Config(home=config.home, model=config.model, local_worker=own))


def test_the_trainer_gives_its_job_back_while_there_is_a_gateway() -> None:
    order = sorted(programs(Config()), key=lambda program: -program.priority)
    names = ["trainer", "gateway", "controller", "guard", "worker"]
    assert [program.name for program in order] == names


def test_without_the_models_files_there_is_no_trainer(tmp_path: Path) -> None:
    config = Config(home=tmp_path, model="some/name", workers=("http://127.0.0.1:9",))
    assert [program.name for program in programs(config)] == ["guard", "controller", "gateway"]


def test_keys_are_made_once_and_work(home: Home, registry: Registry) -> None:
    first = ensure_keys(home, registry, URL)
    assert stat.S_IMODE(home.keys.stat().st_mode) == 0o600
    assert first["OPENAI_BASE_URL"] == f"{URL}/v1"
    known = registry.snapshot().keys
    roles = {
        known[digest(first[name])].role
        for name in ("OPENAI_API_KEY", "ADAPTERLOOP_ADMIN_KEY", "ADAPTERLOOP_REVIEWER_KEY")
    }
    assert roles == {"app", "admin", "reviewer"}
    assert ensure_keys(home, registry, URL) == first == read_env(home.keys)
    assert known[digest(first["ADAPTERLOOP_TRAINER_KEY"])].role == "trainer"
    evaluation = known[digest(first["ADAPTERLOOP_EVALUATION_KEY"])]
    assert (evaluation.role, evaluation.purpose) == ("app", "evaluation")
    assert len(registry.list_keys("default")) == 5


def test_another_port_keeps_the_keys(home: Home, registry: Registry) -> None:
    first = ensure_keys(home, registry, URL)
    second = ensure_keys(home, registry, "http://127.0.0.1:9000")
    assert second == first | {"OPENAI_BASE_URL": "http://127.0.0.1:9000/v1"}


def test_keys_of_a_lost_database_are_made_anew(home: Home, registry: Registry) -> None:
    home.keys.write_text("OPENAI_API_KEY=sk-al-of-before-it-was-lost\nMINE=1\n", encoding="utf-8")
    values = ensure_keys(home, registry, URL)
    assert digest(values["OPENAI_API_KEY"]) in registry.snapshot().keys
    assert values["MINE"] == "1"


def test_a_revoked_key_stays_revoked(home: Home, registry: Registry) -> None:
    first = ensure_keys(home, registry, URL)
    key = registry.snapshot().keys[digest(first["OPENAI_API_KEY"])]
    registry.revoke_key("default", key.id)
    assert ensure_keys(home, registry, URL)["OPENAI_API_KEY"] == first["OPENAI_API_KEY"]


def test_the_welcome_names_what_a_person_needs(home: Home) -> None:
    text = welcome(home, URL, "support", has_ui=False)
    assert "keys.env" in text
    assert '"max_tokens": 32' in text
    assert "/ui" not in text
    assert f"{URL}/ui" in welcome(home, URL, "support", has_ui=True)


def test_a_program_that_keeps_ending_is_named_once(
    config: Config, home: Home, registry: Registry
) -> None:
    said = io.StringIO()
    run = module._Run(home, config, Progress(said), registry, [])
    (home.logs / "guard.log").write_text("the last word\n", encoding="utf-8")
    state = module.State("guard", "BACKOFF", "Exited too quickly", 0)
    alive = SimpleNamespace(process=SimpleNamespace(poll=lambda: None), states=lambda: [state])
    run._watch(alive)  # type: ignore[arg-type]
    run._watch(alive)  # type: ignore[arg-type]
    assert said.getvalue().count("the last word") == 1
