"""Who gets to see the pages, and for how long."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from gateway.ui.sessions import COOKIE

from .conftest import House, Visitor

Visit = Callable[[], Visitor]


async def test_a_session_holds_no_key_and_is_bound_to_the_site(house: House, visit: Visit) -> None:
    visitor, key = visit(), house.key()
    begun = await visitor.sign_in(key)
    cookie = begun.headers["set-cookie"]
    assert key not in cookie
    for part in ("HttpOnly", "SameSite=lax", "Secure", "Path=/ui", "Max-Age=43200"):
        assert part in cookie
    assert begun.headers["location"] == "/ui/review"


async def test_the_cookie_is_secure_where_the_page_is(house: House, visit: Visit) -> None:
    visitor, key = visit(), {"key": house.key()}
    plain = "http://gateway.test/ui/sign-in"
    begun = await visitor.http.post(plain, data=key)
    assert "Secure" not in begun.headers["set-cookie"]
    begun = await visitor.http.post(plain, data=key, headers={"x-forwarded-proto": "https"})
    assert "Secure" in begun.headers["set-cookie"]


@pytest.mark.parametrize("role", ["app", "trainer"])
async def test_other_roles_do_not_sign_in(house: House, visit: Visit, role: str) -> None:
    expired = house.key(expires_at=time.time() - 1)
    for key in (house.key(role), "sk-al-nobody", "", "é", expired):
        refused = await visit().sign_in(key)
        assert refused.status_code == 401
        assert "not the key of a reviewer or an admin" in refused.text
        assert "set-cookie" not in refused.headers


@pytest.mark.parametrize("role", ["reviewer", "admin"])
async def test_a_revoked_key_ends_its_sessions(house: House, visit: Visit, role: str) -> None:
    visitor = visit()
    await visitor.sign_in(house.key(role))
    await visitor.get("/ui/review")
    (mine,) = house.registry.list_keys("default")
    house.registry.revoke_key("default", mine.key.id)
    house.refresh()
    away = await visitor.http.get("/ui/review")
    assert (away.status_code, away.headers["location"]) == (303, "/ui/sign-in?next=%2Fui%2Freview")


async def test_time_ends_a_session(
    house: House, ann: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = time.time() + 12 * 3600 + 1
    monkeypatch.setattr("gateway.ui.sessions.time.time", lambda: later)
    assert (await ann.http.get("/ui/review")).status_code == 303


async def test_spoilt_cookies_are_none(house: House, ann: Visitor, visit: Visit) -> None:
    good = ann.http.cookies[COOKIE]
    key_id, until, mac = good.split(".")
    spoilt = (
        good[:-1],
        f"{key_id}.{int(until) + 9}.{mac}",
        f"{int(key_id) + 1}.{until}.{mac}",
        "..",
        "é.é.é",
        mac,
    )
    for cookie in spoilt:
        header = f"{COOKIE}={cookie}".encode()
        page = await visit().http.get("/ui/review", headers={b"cookie": header})
        assert page.status_code == 303, cookie


async def test_signing_out(house: House, ann: Visitor) -> None:
    assert (await ann.http.post("/ui/sign-out", data={})).status_code == 403
    out = await ann.post("/ui/sign-out")
    assert (out.status_code, out.headers["location"]) == (303, "/ui/sign-in")
    assert (await ann.http.get("/ui/review")).status_code == 303


async def test_another_site_signs_nobody_in(house: House, visit: Visit) -> None:
    visitor = visit()
    refused = await visitor.http.post(
        "/ui/sign-in", data={"key": house.key()}, headers={"sec-fetch-site": "cross-site"}
    )
    assert refused.status_code == 403
    assert "set-cookie" not in refused.headers


@pytest.mark.parametrize(
    ("wanted", "given"),
    [
        ("/ui/review/7?alias=support", "/ui/review/7?alias=support"),
        ("https://evil.test/ui/review", "/ui/review"),
        ("//evil.test", "/ui/review"),
        ("/ui/review//evil.test", "/ui/review"),
        ("/ui/review\\evil", "/ui/review"),
        ("/ui/review\r\nset-cookie: x", "/ui/review"),
    ],
)
async def test_after_signing_in_one_stays_here(
    house: House, visit: Visit, wanted: str, given: str
) -> None:
    begun = await visit().http.post("/ui/sign-in", data={"key": house.key(), "next": wanted})
    assert begun.headers["location"] == given
