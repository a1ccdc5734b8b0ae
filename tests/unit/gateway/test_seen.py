"""What a key does not cover is not there: other tenants, and aliases that it was not given."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from feedback.store import Answered
from gateway.registry.snapshot import VersionState
from gateway.serving.ids import mint
from tests.unit.gateway.registry.adapter_files import write_adapter
from tests.unit.gateway.whole import Whole

CALLS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
    ("/v1/completions", {"prompt": "x"}),
    ("/v1/responses", {"input": "x"}),
    ("/v1/embeddings", {"input": "x"}),
    ("/v1/score", {"queries": "x", "documents": "y"}),
    ("/rerank", {"query": "x", "documents": ["y"]}),
    ("/tokenize", {"prompt": "x"}),
    ("/detokenize", {"tokens": [1]}),
]


class Desk:
    """Knows which alias was called for an answer, once that has come to the store."""

    def __init__(self) -> None:
        self.alias: str | None = None
        self.erased = False
        self.taken: list[str] = []

    async def alias_of(self, tenant: str, response_id: str) -> str | None:
        return self.alias

    async def look_up(self, tenant: str, response_id: str) -> Answered:
        if self.alias is None:
            return Answered(None, (), self.erased)
        capture: dict[str, Any] = dict.fromkeys(
            ("outcome", "confidence_mean", "confidence_min", "reasons", "fallback"), None
        )
        told = {"alias": self.alias, "version": 0, "started": 1.0, "choices": [], "audit": []}
        return Answered(capture | told, ())  # type: ignore[arg-type]

    async def submit(self, feedback: Any) -> Any:
        self.taken.append(feedback.response_id)
        return SimpleNamespace(id="fb-1", response_id=feedback.response_id, replied="pending")


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def whole(tmp_path: Path, desk: Desk) -> Iterator[Whole]:
    """Aliases `support` and `triage` of the tenant `ours`, each with a version."""
    whole = Whole(tmp_path)
    whole.app.state.serving.record(desk)
    for number, alias in enumerate(("support", "triage")):
        source = write_adapter(tmp_path / alias, manifest={"training": {"run": number}})
        version = whole.registry.register("ours", alias, source, "test")
        whole.registry.set_state(version.id, VersionState.CANDIDATE, "verified", "test")
        whole.registry.promote("ours", alias, 1, "test")
    yield whole
    whole.close()


async def post(whole: Whole, secret: str, path: str, body: dict[str, Any]) -> httpx.Response:
    async with whole.client(secret) as client:
        return await client.post(path, json=body)


def answer_of(whole: Whole, alias: str) -> str:
    """The id of an answer of `ours`."""
    versions = whole.registry.snapshot().versions.values()
    (version_id,) = [version.id for version in versions if version.alias == alias]
    return mint("chatcmpl-", whole.secret, "ours", version_id)


@pytest.mark.parametrize(("path", "body"), CALLS, ids=[path for path, _ in CALLS])
async def test_models_of_others_do_not_exist(whole: Whole, path: str, body: dict[str, Any]) -> None:
    stranger = await whole.key(tenant="theirs")
    narrow = await whole.key(tenant="ours", aliases=["triage"])
    for secret in (stranger, narrow):
        for model in ("support", "support@1"):
            answer = await post(whole, secret, path, body | {"model": model})
            assert answer.status_code == 404
            error = answer.json()["error"]
            assert (error["code"], error["param"]) == ("model_not_found", "model")
            unknown = await post(whole, secret, path, body | {"model": "nobodys"})
            told = unknown.json()["error"]["message"]
            assert told.replace("nobodys", model) == error["message"]


async def test_only_its_own_models_are_listed(whole: Whole) -> None:
    shared = ["base"]
    for secret, names in (
        (await whole.key(tenant="ours"), [*shared, "support", "triage"]),
        (await whole.key(tenant="ours", aliases=["triage"]), ["triage"]),
        (await whole.key(tenant="ours", aliases=[]), []),
        (await whole.key(tenant="theirs"), shared),
    ):
        async with whole.client(secret) as client:
            listed = (await client.get("/v1/models")).json()["data"]
            assert [card["id"] for card in listed] == names
            got = await client.get("/v1/models/support@1")
            assert got.status_code == (200 if "support" in names else 404)


async def test_answers_of_others_do_not_exist(whole: Whole, desk: Desk) -> None:
    """Whether they are looked at or spoken of, and whether they are in the store yet or not."""
    ours = answer_of(whole, "support")
    mine = await whole.key(tenant="ours", aliases=["support"])
    strangers = [
        await whole.key(tenant="theirs"),
        await whole.key(tenant="ours", aliases=["triage"]),
    ]
    said = {"response_id": ours, "rating": "down"}
    for desk.alias in (None, "support"):
        for secret in strangers:
            async with whole.client(secret) as client:
                for answer in (
                    await client.get(f"/v1/feedback/{ours}"),
                    await client.post("/v1/feedback", json=said),
                ):
                    assert answer.status_code == 404
                    assert answer.json()["error"]["code"] == "response_not_found"
        async with whole.client(mine) as client:
            assert (await client.get(f"/v1/feedback/{ours}")).status_code == 200
            assert (await client.post("/v1/feedback", json=said)).status_code == 200
    assert desk.taken == [ours, ours]


async def test_answers_of_the_base_belong_to_the_alias_that_was_called(
    whole: Whole, desk: Desk
) -> None:
    """Right after the answer that is not known yet: who has its id may speak of it then."""
    ours = answer_of(whole, "base")
    desk.alias = "support"
    for aliases, status in ((["support"], 200), (["triage"], 404)):
        async with whole.client(await whole.key(tenant="ours", aliases=aliases)) as client:
            assert (await client.get(f"/v1/feedback/{ours}")).status_code == status
            said = {"response_id": ours, "rating": "down"}
            assert (await client.post("/v1/feedback", json=said)).status_code == status
    desk.alias = None
    async with whole.client(await whole.key(tenant="ours", aliases=["triage"])) as client:
        assert (await client.post("/v1/feedback", json=said)).status_code == 200


async def test_of_an_erased_answer_that_alone_is_told(whole: Whole, desk: Desk) -> None:
    ours, desk.erased = answer_of(whole, "support"), True
    async with whole.client(await whole.key(tenant="ours")) as client:
        told = (await client.get(f"/v1/feedback/{ours}")).json()
    assert (told["status"], told["feedback"], "model" in told) == ("erased", [], False)
