"""Usage over the admin API: what a tenant's keys have used, as JSON or CSV."""

from __future__ import annotations

import time

import httpx
import pytest
from fastapi import FastAPI

from feedback import usage
from feedback.db import writing

from .conftest import Clients

DAY = 86_400
NOON = 20_780 * DAY + DAY / 2


@pytest.fixture(autouse=True)
def _used(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two aliases today, one forty days ago, and another tenant's; far from midnight."""
    monkeypatch.setattr(time, "time", lambda: NOON)
    made = [
        ("default", "support", 0.0),
        ("default", "triage", 0.0),
        ("default", "support", 40.0),
        ("other", "support", 0.0),
    ]
    captures = [
        {
            "tenant": tenant,
            "alias": alias,
            "version": 3,
            "key_id": 5,
            "started": time.time() - days * DAY,
            "usage": {"prompt_tokens": 10, "completion_tokens": 4},
        }
        for tenant, alias, days in made
    ]
    with writing(app.state.serving.database) as connection:
        usage.count(connection, captures)


async def test_the_last_thirty_days_by_default(admin: httpx.AsyncClient) -> None:
    answer = (await admin.get("/usage")).json()
    today = usage.day_of(time.time())
    assert (answer["object"], answer["until"]) == ("list", today)
    assert [line["alias"] for line in answer["data"]] == ["support", "triage"]
    assert answer["data"][0] == {
        "day": today,
        "tenant": "default",
        "alias": "support",
        "version": 3,
        "key_id": 5,
        "requests": 1,
        "prompt_tokens": 10,
        "completion_tokens": 4,
    }


async def test_of_some_days_and_one_alias(admin: httpx.AsyncClient) -> None:
    first = usage.day_of(time.time() - 50 * DAY)
    answer = await admin.get("/usage", params={"since": first, "alias": "support"})
    assert [line["requests"] for line in answer.json()["data"]] == [1, 1]
    answer = await admin.get("/usage", params={"since": first, "until": first})
    assert answer.json()["data"] == []


async def test_as_csv(admin: httpx.AsyncClient) -> None:
    answer = await admin.get("/usage", params={"format": "csv", "alias": "triage"})
    today = usage.day_of(time.time())
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"].endswith(f'-{today}.csv"')
    assert answer.text == (
        "day,tenant,alias,version,key_id,requests,prompt_tokens,completion_tokens\n"
        f"{today},default,triage,3,5,1,10,4\n"
    )


async def test_a_narrow_key_sees_its_aliases_only(clients: Clients) -> None:
    narrow = await clients(aliases=["triage"])
    assert [line["alias"] for line in (await narrow.get("/usage")).json()["data"]] == ["triage"]
    assert (await narrow.get("/usage", params={"alias": "support"})).status_code == 404


@pytest.mark.parametrize("role", ["app", "reviewer", "trainer"])
async def test_only_admins_see_usage(clients: Clients, role: str) -> None:
    assert (await (await clients(role)).get("/usage")).status_code == 403


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"since": "2026-11-24", "until": "2026-11-23"}, "since"),
        ({"since": "yesterday"}, "since"),
        ({"format": "xml"}, "format"),
    ],
)
async def test_questions_are_checked(
    admin: httpx.AsyncClient, query: dict[str, str], param: str
) -> None:
    answer = await admin.get("/usage", params=query)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
