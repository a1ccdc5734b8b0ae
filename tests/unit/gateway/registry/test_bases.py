"""Several base models side by side."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from gateway.errors import Conflict
from gateway.registry.bases import stranded, told
from gateway.registry.errors import InvalidAdapter, InvalidName, VersionNotReady
from gateway.registry.service import Registry
from gateway.registry.snapshot import BASE_TENANT, VersionState, WorkerSpec
from gateway.settings import BaseModelSettings

from .adapter_files import BASE, config, write_adapter

QWEN = BaseModelSettings(name="qwen", model="org/Qwen2.5-7B")


@pytest.fixture
def several(registry: Registry) -> Registry:
    """The registry as a process opens it whose configuration has a further base."""
    made = Registry(registry._engine, registry.storage, base_model=BASE, bases=[QWEN])
    made.prepare()
    return made


def write_for_qwen(folder: Path) -> Path:
    return write_adapter(folder, said=config(base_model_name_or_path="/models/Qwen2.5-7B"))


def test_each_base_is_called_under_its_own_name(several: Registry) -> None:
    several.prepare()
    snapshot = several.snapshot()
    qwen = snapshot.versions[BASE_TENANT, "qwen", 0]
    assert (qwen.is_base, qwen.base_model, qwen.model) == (True, "org/Qwen2.5-7B", "qwen@0")
    assert snapshot.aliases[BASE_TENANT, "qwen"].stable == qwen
    assert snapshot.versions[BASE_TENANT, "base", 0].base_model == BASE
    assert several.alias("anyone", "qwen").stable == qwen


def test_an_adapter_picks_the_base_that_it_was_made_for(several: Registry, tmp_path: Path) -> None:
    version = several.register("default", "tickets", write_for_qwen(tmp_path / "a"))
    assert version.base_model == "org/Qwen2.5-7B"
    other = several.register("default", "support", write_adapter(tmp_path / "b"))
    assert other.base_model == BASE


def test_an_adapter_for_none_of_them_is_told_what_there_is(
    several: Registry, tmp_path: Path
) -> None:
    lost = write_adapter(tmp_path / "a", said=config(base_model_name_or_path="org/llama"))
    with pytest.raises(InvalidAdapter, match=f"{BASE}' or 'org/Qwen2.5-7B' is served"):
        several.register("default", "tickets", lost)


def test_version_0_is_the_base_of_the_aliass_versions(several: Registry, tmp_path: Path) -> None:
    several.register("default", "tickets", write_for_qwen(tmp_path / "a"))
    assert several.promote("default", "tickets", 0).stable == several.version("x", "qwen", 0)
    several.register("default", "support", write_adapter(tmp_path / "b"))
    assert several.promote("default", "support", 0).stable == several.version("x", "base", 0)
    assert several.promote("default", "fresh", 0).stable == several.version("x", "base", 0)


def test_an_alias_tells_which_base_its_version_0_is(several: Registry, tmp_path: Path) -> None:
    def base(alias: str) -> str:
        return several.describe("default", alias).base

    several.register("default", "tickets", write_for_qwen(tmp_path / "a"))
    several.register("default", "support", write_adapter(tmp_path / "b"))
    assert [base(name) for name in ("tickets", "support", "qwen", "base")] == [
        "qwen",
        "base",
        "qwen",
        "base",
    ]
    several.promote("default", "tickets", 0)
    # It leads to the base that it was promoted to, whatever the newest version was made for.
    several.register("default", "tickets", write_adapter(tmp_path / "c", fill=3))
    assert base("tickets") == "qwen"


def test_the_names_of_bases_are_taken(several: Registry, tmp_path: Path) -> None:
    with pytest.raises(InvalidName, match="qwen"):
        several.register("default", "qwen", write_adapter(tmp_path / "a"))
    with pytest.raises(Conflict, match="one version only"):
        several.promote("default", "qwen", 0)
    with pytest.raises(ValidationError, match="default base model"):
        BaseModelSettings(name="base", model="x")


def test_an_alias_that_was_there_before_stays_its_tenants(
    registry: Registry, tmp_path: Path
) -> None:
    mine = registry.register("default", "qwen", write_adapter(tmp_path / "a"))
    several = Registry(registry._engine, registry.storage, base_model=BASE, bases=[QWEN])
    several.prepare()
    assert several.version("default", "qwen", 1) == mine
    assert several.alias("default", "qwen").tenant == "default"
    assert several.alias("acme", "qwen").tenant == BASE_TENANT


def test_a_version_whose_base_no_worker_has_says_so(several: Registry, tmp_path: Path) -> None:
    several.register("default", "tickets", write_for_qwen(tmp_path / "a"))

    def waiting() -> str:
        return several.describe("default", "tickets").versions[0].waiting

    assert waiting() == ""  # no worker is up at all, which is another matter
    for name, model in (("w1", BASE), ("w2", "org/Qwen2.5-7B")):
        several.upsert_worker(WorkerSpec(name, f"http://{name}"))
        several.record_worker(name, boot="1", healthy=True, metrics={"base_model": model})
        if name == "w1":
            assert waiting() == "No worker that is up has its base model, org/Qwen2.5-7B."
    assert waiting() == ""
    assert several.version("default", "tickets", 1).state is VersionState.REGISTERED


def test_a_changed_base_says_which_versions_fall_away(several: Registry, tmp_path: Path) -> None:
    several.register("default", "tickets", write_for_qwen(tmp_path / "a"))
    several.register("default", "support", write_adapter(tmp_path / "b"))
    assert stranded(several.snapshot(), [f"/models/{BASE}", "Qwen2.5-7B"]) == []
    lost = stranded(several.snapshot(), ["org/Llama-4"])
    assert [version.model for version in lost] == ["support@1", "tickets@1"]
    (line,) = told(stranded(several.snapshot(), ["org/Llama-4", QWEN.model]))
    assert line.startswith(f"{BASE} is no base model of this configuration")
    assert "no calls: support@1;" in line
    several.retire("default", "support", 1)
    assert [v.model for v in stranded(several.snapshot(), ["org/Llama-4"])] == ["tickets@1"]


def test_a_version_that_every_worker_was_started_without_says_so(
    registry: Registry, tmp_path: Path
) -> None:
    version = registry.register("default", "support", write_adapter(tmp_path / "a"))
    name = version.worker_name

    def worker(at: str, reason: str, **metrics: object) -> None:
        left_out = ((name, reason),) if reason else ()
        registry.upsert_worker(WorkerSpec(at, f"http://{at}", "llamacpp", left_out=left_out))
        registry.record_worker(at, boot="1", healthy=True, metrics={"static": True, **metrics})

    def waiting() -> str:
        return registry.describe("default", "support").versions[0].waiting

    worker("one", "of another family")
    assert registry.snapshot().workers["one"].left_out == ((name, "of another family"),)
    assert waiting() == "A worker of kind llamacpp runs without it: of another family"
    with pytest.raises(VersionNotReady, match=r"cannot be promoted: .* of another family$"):
        registry.promote("default", "support", 1)
    worker("two", "", adapters=[name])
    assert waiting() == ""
    worker("two", "")
    assert waiting() != ""  # it runs without the version too
    worker("two", "", static=False)
    assert waiting() == ""  # and loads the version soon
    with pytest.raises(VersionNotReady, match="wait until a worker has loaded"):
        registry.promote("default", "support", 1)
