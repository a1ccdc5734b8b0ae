"""What aliases bring along, fall back on and move to, with real vLLM behind them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from .live import Live, wait_for

ASK = [{"role": "user", "content": "My parcel has not arrived. What can I do?"}]
CHAT = "/v1/chat/completions"


def files_of(live: Live, number: int) -> dict[str, bytes]:
    """The files of a version that was shipped, under a manifest of their own."""
    shipped = live.adapter(live.alias)["versions"]
    [digest] = [one["sha256"] for one in shipped if one["version"] == number]
    folder = live.home / "storage" / "adapters" / digest
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    files["manifest.json"] += b"\n\n"
    return files


def register(live: Live, alias: str, number: int) -> None:
    """Make the next version of an alias of the shipped weights with that number."""
    with live.admin() as admin:
        sent = [("files", one) for one in files_of(live, number).items()]
        answer = admin.post(f"/admin/v1/adapters/{alias}/versions", files=sent)
    assert answer.status_code == 201, answer.text


def change(live: Live, alias: str, what: str, **body: Any) -> httpx.Response:
    with live.admin() as admin:
        return admin.post(f"/admin/v1/adapters/{alias}/{what}", json=body)


def bring_along(live: Live, alias: str, **options: Any) -> None:
    with live.admin() as admin:
        answer = admin.put(f"/admin/v1/adapters/{alias}/options", json=options)
    assert answer.status_code == 200, answer.text


def ask(live: Live, **body: Any) -> httpx.Response:
    with live.http() as http:
        return http.post(CHAT, json={"messages": ASK, **body})


def told_of(answer: httpx.Response) -> tuple[str, str, dict[str, int]]:
    """Who answered, what, and for how much."""
    assert answer.status_code == 200, answer.text
    told = answer.json()
    return told["model"], told["choices"][0]["message"]["content"], told["usage"]


@pytest.fixture(scope="module")
def trial(live: Live) -> Iterator[str]:
    """An alias whose first version is stable and whose second is proven."""
    for number in (1, 2):
        register(live, "trial", number)
    first = wait_for(lambda: change(live, "trial", "promote", version=1).is_success, 180, 0.5)
    assert first, live.adapter("trial")
    second = wait_for(lambda: ask(live, model="trial@2", max_tokens=1).is_success, 180, 0.5)
    assert second, live.adapter("trial")
    yield "trial"
    bring_along(live, "trial")
    assert change(live, "trial", "promote", version=0).is_success
    kept = live.adapter("trial")["previous"]
    assert change(live, "trial", f"versions/{3 - kept}/retire").is_success


def test_what_an_alias_brings_along_arrives_at_the_worker(live: Live, trial: str) -> None:
    """A call that leaves it out is answered as one that sends all of it."""
    sampling = {"temperature": 1.5, "seed": 11, "max_tokens": 12, "min_tokens": 12}
    prompt = "Answer as a pirate would, and name the ship."
    full = [{"role": "system", "content": prompt}, *ASK]
    sent = told_of(ask(live, model=trial, messages=full, **sampling))
    plain = told_of(ask(live, model=trial, max_tokens=1))
    bring_along(live, trial, system_prompt=prompt, **sampling)
    brought = told_of(ask(live, model=trial))
    assert brought == sent
    assert brought[2]["completion_tokens"] == 12
    assert brought[2]["prompt_tokens"] != plain[2]["prompt_tokens"]
    assert told_of(ask(live, model=trial, seed=12))[1] != sent[1]
    own = told_of(ask(live, model=f"{trial}@1", max_tokens=2, messages=full))
    assert own[2]["completion_tokens"] == 2
    assert own[2]["prompt_tokens"] == sent[2]["prompt_tokens"]
    bring_along(live, trial)
    assert told_of(ask(live, model=trial, max_tokens=1))[2] == plain[2]


def test_a_canary_goes_on_by_real_answers_and_callers_stay(narrow: Live, trial: str) -> None:
    """Two steps; who has met the candidate meets it again, and all do in the end."""
    begun = change(narrow, trial, "rollout", version=2, steps=[0.3, 0.7, 1])
    assert (begun.status_code, begun.json()["candidate"]) == (200, 2), begun.text
    users = [f"user-{n}" for n in range(10)]
    seen: dict[str, list[str]] = {user: [] for user in users}

    def promoted() -> bool:
        for user in users:
            answer = ask(narrow, model=trial, user=user, max_tokens=1)
            seen[user].append(told_of(answer)[0])
        return bool(narrow.adapter(trial)["stable"] == 2)

    def all_meet_it() -> bool:
        """The gateway learns of the controller's move within its next look at the registry."""
        answers = [ask(narrow, model=trial, user=user, max_tokens=1) for user in users]
        return {told_of(answer)[0] for answer in answers} == {f"{trial}@2"}

    assert wait_for(promoted, 180), narrow.adapter(trial)
    assert wait_for(all_meet_it, 60)
    for models in seen.values():  # only ever from the stable version to the candidate
        assert models == sorted(models), seen
    moves = narrow.adapter(trial)["events"]
    [*_, first, second, last] = [one for one in moves if one["kind"] in ("rollout", "promote")]
    assert [one["actor"] for one in (second, last)] == ["controller"] * 2
    assert (second["kind"], last["kind"]) == ("rollout", "promote"), moves
    assert first["detail"]["steps"] == [0.3, 0.7, 1]
    assert last["detail"]["answers"] >= 3
    assert last["detail"]["hard_faults"] == 0


def test_another_answers_for_a_version_that_cannot_be_called(live: Live, trial: str) -> None:
    """Its files are lost and the worker has dropped it; until they are back."""
    bring_along(live, trial, fallback=[live.alias])
    told = live.adapter(trial)
    wanted = f"{trial}@{told['stable']}"
    [digest] = [one["sha256"] for one in told["versions"] if one["version"] == told["stable"]]
    folder = live.home / "storage" / "adapters" / digest
    with live.admin() as admin:
        url = admin.get("/admin/v1/workers").json()["data"][0]["url"]
    lost = folder.rename(live.home / "lost")
    try:
        name = {"lora_name": f"{wanted}-{digest[:8]}"}
        dropped = httpx.post(f"{url}/v1/unload_lora_adapter", json=name, timeout=60)
        assert dropped.is_success, dropped.text
        for stream in (False, True):
            answer = ask(live, model=trial, max_tokens=2, temperature=0, stream=stream)
            assert answer.status_code == 200, answer.text
            model = answer.headers["x-adapter-version"]
            assert model.startswith(f"{live.alias}@")
            assert answer.headers["x-fallback-from"] == wanted
            assert f'"model":"{model}"' in answer.text
        with live.client() as client:
            said = client.chat.completions.create(model=trial, messages=ASK, max_tokens=2)
        assert said.model == model
        page = httpx.get(f"{live.root}/metrics", timeout=30).text
        labels = f'{{answered="{model}",tenant="default",wanted="{wanted}"}}'
        assert f"adapterloop_fallbacks_total{labels} 3.0" in page
    finally:
        lost.rename(folder)

    def itself() -> bool:
        answer = ask(live, model=trial, max_tokens=1)
        return told_of(answer)[0] == wanted and "x-fallback-from" not in answer.headers

    assert wait_for(itself, 60, 0.5)
