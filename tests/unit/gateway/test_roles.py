"""Who may call what: one table for every route of the running application."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import pytest
from starlette.routing import BaseRoute, Mount, Route

from tests.unit.gateway.whole import ROLES, Whole

ANYONE = "anyone"
ANY_KEY = frozenset(ROLES)
CALLERS = frozenset({"app", "trainer", "admin"})
READERS = frozenset({"reviewer", "trainer", "admin"})
REVIEWERS = frozenset({"reviewer", "admin"})
TRAINERS = frozenset({"trainer", "admin"})
ADMINS = frozenset({"admin"})

TABLE = {
    "GET /health/live": ANYONE,
    "GET /health/ready": ANYONE,
    "GET /metrics": ANYONE,
    "GET /admin/v1/openapi.json": ANYONE,
    "POST /v1/chat/completions": CALLERS,
    "POST /v1/completions": CALLERS,
    "POST /v1/responses": CALLERS,
    "POST /v1/embeddings": CALLERS,
    "POST /v1/score": CALLERS,
    "POST /score": CALLERS,
    "POST /v1/rerank": CALLERS,
    "POST /rerank": CALLERS,
    "POST /v1/tokenize": CALLERS,
    "POST /tokenize": CALLERS,
    "POST /v1/detokenize": CALLERS,
    "POST /detokenize": CALLERS,
    "GET /v1/models": ANY_KEY,
    "GET /v1/models/{model:path}": ANY_KEY,
    "POST /v1/moderations": ANY_KEY,
    "POST /v1/feedback": ANY_KEY,
    "GET /v1/feedback/{response_id}": ANY_KEY,
    "GET /admin/v1/adapters": READERS,
    "GET /admin/v1/adapters/{alias}": READERS,
    "POST /admin/v1/adapters/{alias}/versions": TRAINERS,
    "POST /admin/v1/adapters/{alias}/publish": TRAINERS,
    "POST /admin/v1/adapters/{alias}/promote": ADMINS,
    "POST /admin/v1/adapters/{alias}/rollback": ADMINS,
    "POST /admin/v1/adapters/{alias}/rollout": ADMINS,
    "POST /admin/v1/adapters/{alias}/versions/{number}/retire": ADMINS,
    "GET /admin/v1/adapters/{alias}/versions/{number}/files/{name}": TRAINERS,
    "GET /admin/v1/adapters/{alias}/options": READERS,
    "PUT /admin/v1/adapters/{alias}/options": ADMINS,
    "PUT /admin/v1/adapters/{alias}/versions/{number}/pin": ADMINS,
    "DELETE /admin/v1/adapters/{alias}/versions/{number}/pin": ADMINS,
    "GET /admin/v1/workers": TRAINERS,
    "GET /admin/v1/policies": ADMINS,
    "GET /admin/v1/keys": ADMINS,
    "POST /admin/v1/keys": ADMINS,
    "GET /admin/v1/keys/{key_id}": ADMINS,
    "PATCH /admin/v1/keys/{key_id}": ADMINS,
    "DELETE /admin/v1/keys/{key_id}": ADMINS,
    "POST /admin/v1/keys/{key_id}/rotate": ADMINS,
    "GET /admin/v1/usage": ADMINS,
    "GET /admin/v1/erasures": ADMINS,
    "POST /admin/v1/erasures": ADMINS,
    "GET /admin/v1/review": REVIEWERS,
    "GET /admin/v1/review/{item_id}": REVIEWERS,
    "POST /admin/v1/review/{item_id}": REVIEWERS,
    "POST /admin/v1/review/{item_id}/claim": REVIEWERS,
    "POST /admin/v1/review/{item_id}/undo": REVIEWERS,
    "GET /admin/v1/lineage/{response_id}": READERS,
    "GET /admin/v1/confidence/{alias}": READERS,
    "GET /admin/v1/datasets": READERS,
    "POST /admin/v1/datasets": TRAINERS,
    "GET /admin/v1/datasets/{digest}": READERS,
    "GET /admin/v1/datasets/{digest}/rows": READERS,
    "POST /admin/v1/imports/{alias}": TRAINERS,
    "GET /admin/v1/golden/{alias}": READERS,
    "PUT /admin/v1/golden/{alias}": TRAINERS,
    "POST /admin/v1/refreshes": TRAINERS,
    "GET /admin/v1/jobs": TRAINERS,
    "POST /admin/v1/jobs/claim": TRAINERS,
    "GET /admin/v1/jobs/{job_id}": TRAINERS,
    "POST /admin/v1/jobs/{job_id}/heartbeat": TRAINERS,
    "POST /admin/v1/jobs/{job_id}/stages": TRAINERS,
    "POST /admin/v1/jobs/{job_id}/finish": TRAINERS,
    "POST /admin/v1/jobs/{job_id}/release": TRAINERS,
    "POST /admin/v1/jobs/{job_id}/cancel": TRAINERS,
    "GET /admin/v1/evaluations/{digest}": TRAINERS,
    "PUT /admin/v1/evaluations/{digest}": TRAINERS,
    "GET /admin/v1/gates": TRAINERS,
    "POST /admin/v1/gates": TRAINERS,
    "GET /admin/v1/gates/{gate_id}": TRAINERS,
}
PAGES = {
    "GET /ui/sign-in": ANYONE,
    "POST /ui/sign-in": ANYONE,
    "GET /ui/static/*": ANYONE,
    "GET /ui": REVIEWERS,
    "GET /ui/": REVIEWERS,
    "POST /ui/sign-out": REVIEWERS,
    "GET /ui/review": REVIEWERS,
    "GET /ui/review/{item_id:int}": REVIEWERS,
    "POST /ui/review/{item_id:int}": REVIEWERS,
    "POST /ui/review/{item_id:int}/undo": REVIEWERS,
    "GET /ui/rollouts": REVIEWERS,
}
FILLED = {"alias": "nobodys", "digest": "0" * 64, "model": "nobodys"}
SIGN_IN = "/ui/sign-in"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    whole = Whole(tmp_path_factory.mktemp("whole"))
    yield whole
    whole.close()


def served(routes: Iterable[BaseRoute], below: str = "") -> Iterator[str]:
    """Every method and path of some routes and the pages below them; included routers apart."""
    for route in routes:
        if isinstance(route, Route):
            yield from (f"{method} {below}{route.path}" for method in route.methods or ())
        elif isinstance(route, Mount):
            inner = getattr(route.app._app, "routes", None)
            yield from (
                served(inner, below + route.path) if inner else [f"GET {below}{route.path}/*"]
            )


def leaves(routes: Iterable[BaseRoute]) -> int:
    """How many methods the routers have that an application includes."""
    included = [route for route in routes if hasattr(route, "original_router")]
    own = sum(len(getattr(route, "methods", None) or ()) for route in routes)
    return own + sum(leaves(router.original_router.routes) for router in included)


def test_no_route_is_missing_in_the_table(whole: Whole) -> None:
    """A new route needs a line here, and a line needs its route."""
    told = {
        f"{method.upper()} {path}"
        for path, operations in whole.app.openapi()["paths"].items()
        for method in operations
    }
    routes = whole.app.router.routes
    seen = {line for line in served(routes) if not line.startswith("HEAD ")}
    assert seen | told == TABLE.keys() | PAGES.keys()
    included = [route for route in routes if hasattr(route, "original_router")]
    assert leaves(included) == len(told), "a route of the admin API is not in its document"


def address(line: str) -> tuple[str, str]:
    method, path = line.split(" ")
    return method, re.sub(r"{(\w+)(:\w+)?}", lambda name: FILLED.get(name[1], "999"), path)


@pytest.mark.parametrize("line", TABLE)
async def test_who_may_call_it(whole: Whole, line: str) -> None:
    method, path = address(line)

    async def status(secret: str | None) -> int:
        async with whole.client(secret) as client:
            return (await client.request(method, path, json={})).status_code

    allowed = TABLE[line]
    for stranger in (None, "sk-al-wrong"):
        assert (await status(stranger) == 401) is (allowed != ANYONE)
    for role in ROLES:
        got = await status(await whole.key(role))
        assert got not in (401, 405, 500)
        assert (got != 403) is (allowed == ANYONE or role in allowed), (role, got)


@pytest.mark.parametrize("line", [line for line in TABLE if TABLE[line] != ANYONE])
async def test_a_stranger_is_told_nothing_else(whole: Whole, line: str) -> None:
    """Not even that their body is no JSON: it is not read."""
    method, path = address(line)
    expired = await whole.key("admin", expires_at=1.0)
    revoked = await whole.key("admin")
    whole.registry.revoke_key("default", whole.registry.list_keys("default")[-1].key.id)
    await whole.refresh()
    for secret in (None, "sk-al-wrong", expired, revoked):
        async with whole.client(secret) as client:
            answer = await client.request(method, path, content=unread())
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"
        assert answer.headers["www-authenticate"] == "Bearer"


async def unread() -> object:
    raise AssertionError("a stranger's body is not read")
    yield b""


@pytest.mark.parametrize("line", PAGES)
async def test_pages_are_for_those_who_signed_in(whole: Whole, line: str) -> None:
    method, path = address(line)

    async def signed_out(role: str | None) -> bool:
        """Whether someone is sent to sign in, having tried so with a key of this role."""
        async with whole.client(await whole.key(role) if role else None) as client:
            if role is not None:
                key = client.headers["authorization"].removeprefix("Bearer ")
                answer = await client.post(SIGN_IN, data={"key": key})
                assert (answer.status_code == 303) is (role in REVIEWERS)
            answer = await client.request(method, path)
            return answer.headers.get("location", "").startswith(SIGN_IN)

    public = PAGES[line] == ANYONE
    for role in (None, "app", "trainer"):
        assert await signed_out(role) is not public
    for role in REVIEWERS:
        assert not await signed_out(role)


LEFT_OUT = [
    ("POST", "/v1/audio/speech"),
    ("POST", "/v1/audio/transcriptions"),
    ("POST", "/v1/audio/translations"),
    ("POST", "/v1/images/generations"),
    ("POST", "/v1/images/edits"),
    ("POST", "/v1/videos"),
    ("POST", "/v1/batches"),
    ("GET", "/v1/batches/batch_1"),
    ("POST", "/v1/assistants"),
    ("POST", "/v1/threads/thread_1/runs"),
    ("POST", "/v1/vector_stores"),
    ("POST", "/v1/realtime/sessions"),
    ("GET", "/v1/realtime"),
    ("POST", "/v1/conversations"),
    ("POST", "/v1/evals"),
    ("POST", "/v1/containers"),
    ("POST", "/v1/uploads"),
    ("GET", "/v1/organization/usage/completions"),
    ("GET", "/v1/responses/resp_1"),
    ("POST", "/v1/responses/resp_1/cancel"),
    ("GET", "/v1/chat/completions/chatcmpl-1"),
]
WORKERS_OWN = [
    *(
        ("POST", path)
        for path in (
            "/pause",
            "/resume",
            "/sleep",
            "/wake_up",
            "/abort_requests",
            "/init_weight_transfer_engine",
            "/start_weight_update",
            "/update_weights",
            "/finish_weight_update",
            "/update_weight_version",
            "/weight_checker",
            "/release_kv_cache_memory",
            "/invocations",
            "/ping",
            "/collective_rpc",
            "/reset_prefix_cache",
            "/reset_mm_cache",
            "/reset_encoder_cache",
            "/start_profile",
            "/stop_profile",
            "/scale_elastic_ep",
            "/fault_tolerance/apply",
            "/load_lora_adapter",
            "/v1/load_lora_adapter",
            "/v1/unload_lora_adapter",
            "/pooling",
            "/classify",
            "/generative_scoring",
            "/v2/embed",
            "/v2/rerank",
            "/v1/messages",
            "/v1/messages/count_tokens",
            "/v1/chat/completions/batch",
            "/v1/chat/completions/render",
            "/v1/completions/render",
            "/v1/completions/derender",
            "/inference/v1/generate",
            "/v1/systemone",
            "/cohere/v2/chat",
        )
    ),
    *(
        ("GET", path)
        for path in (
            "/server_info",
            "/tokenizer_info",
            "/load",
            "/version",
            "/is_sleeping",
            "/is_paused",
            "/weight_info",
            "/get_world_size",
            "/kv_event_sources",
            "/health",
            "/docs",
            "/openapi.json",
        )
    ),
]


@pytest.mark.parametrize(("method", "path"), [*LEFT_OUT, *WORKERS_OWN])
async def test_what_is_not_offered_is_refused_by_name(whole: Whole, method: str, path: str) -> None:
    async with whole.client(await whole.key("admin")) as client:
        answer = await client.request(method, path, json={})
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert f"{method} {path}" in error["message"]
    left_out = (method, path) in LEFT_OUT or path.startswith("/v1/chat/completions/")
    assert error["code"] == ("not_offered" if left_out else "unknown_url")
    assert ("not offered here" in error["message"]) is left_out
