"""The policies that hold, over the admin API: a tenant's own, and what is wrong with the file."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi import FastAPI

from gateway.registry.service import Registry
from guardrails.errors import PolicyError
from guardrails.policy import default_policy
from guardrails.policy_book import PolicyBook
from tests.unit.gateway.registry.adapter_files import write_adapter

from .conftest import Clients

FILE = """
aliases:
  support: {guards: [{guard: phrases, stage: output, action: block, phrases: [lawsuit]}]}
  secret: {guards: []}
keys:
  "1": {name: strict, guards: []}
  "2": {name: foreign, guards: []}
"""


@pytest.fixture
def book(app: FastAPI, registry: Registry, tmp_path: Path) -> PolicyBook:
    """Policies for an alias and a key of one tenant, and for those of another."""
    for tenant, alias in (("default", "support"), ("other", "secret")):
        registry.register(tenant, alias, write_adapter(tmp_path / alias))
        registry.create_key(tenant=tenant, owner="app", role="app")
    file = tmp_path / "policy.yaml"
    file.write_text(FILE)
    made: PolicyBook = PolicyBook(file)
    app.state.serving.policies = made
    return made


async def test_a_tenant_sees_the_default_and_its_own(clients: Clients, book: PolicyBook) -> None:
    told = (await (await clients()).get("/policies")).json()
    assert told["error"] is None
    assert [(p["scope"], p["of"], p["name"]) for p in told["data"]] == [
        ("default", None, "default"),
        ("alias", "support", "alias:support"),
        ("key", "1", "strict"),
    ]
    assert told["data"][0]["version"] == default_policy().version
    assert told["data"][1]["guards"][0]["phrases"] == ["lawsuit"]
    assert told["data"][1]["version"] == book.policy_for("support").version
    other = (await (await clients(tenant="other")).get("/policies")).json()["data"]
    assert [p["of"] for p in other] == [None, "secret", "2"]
    narrow = (await (await clients(aliases=["triage"])).get("/policies")).json()["data"]
    assert [p["of"] for p in narrow] == [None, "1"]


async def test_a_file_that_was_not_taken_says_why(clients: Clients, book: PolicyBook) -> None:
    file = book._path
    assert file is not None
    file.write_text(FILE + "  default: 1\n")
    with pytest.raises(PolicyError):
        book.refresh()
    told = (await (await clients()).get("/policies")).json()
    assert told["error"].startswith("policy.yaml, line 8: keys.default: ")
    assert str(file.parent) not in told["error"]
    assert len(told["data"]) == 3
