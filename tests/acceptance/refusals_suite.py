"""What must be refused, and how: OpenAI's error object, and the client's own exception for it."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest

from .live import Live

ASK = [{"role": "user", "content": "Hello"}]
ROUTES = ("/v1/chat/completions", "/v1/completions", "/v1/responses")
DEEP = 5000


def assert_openai_error(answer: httpx.Response, *statuses: int) -> dict[str, Any]:
    """Whether an answer is OpenAI's error object and nothing else."""
    assert answer.status_code in statuses, answer.text
    assert answer.headers["content-type"].startswith("application/json")
    body = answer.json()
    assert set(body) == {"error"}
    error: dict[str, Any] = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]
    assert isinstance(error["type"], str)
    assert "Traceback" not in error["message"]
    return error


def body_for(route: str, model: str) -> dict[str, Any]:
    """A small, valid body for a serving route."""
    match route:
        case "/v1/chat/completions":
            return {"model": model, "messages": ASK, "max_tokens": 2}
        case "/v1/completions":
            return {"model": model, "prompt": "Hello", "max_tokens": 2}
        case _:
            return {"model": model, "input": "Hello", "max_output_tokens": 16}


HOSTILE = {
    "empty": b"",
    "truncated": b'{"model": "support", "messages": [{"role": "user", "cont',
    "array": b"[]",
    "string": b'"hello"',
    "null": b"null",
    "number": b"1",
    "not_json": b"model=support&messages=hello",
    "invalid_utf8": b'{"model": "support", "messages": [{"role": "user", "content": "\xff\xfe"}]}',
    "nan": b'{"model": "support", "messages": [], "temperature": NaN}',
    "infinity": b'{"model": "support", "messages": [], "temperature": Infinity}',
    "deep_arrays": b"[" * DEEP + b"]" * DEEP,
    "deep_objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "deep_inside": b'{"model": "support", "tools": [' + b"[" * DEEP + b"]" * DEEP + b"]}",
    "deep_unclosed": b'{"model": ' + b"[" * DEEP,
    "lone_surrogate": b'{"model": "\\ud800", "messages": []}',
    "nul": b'{"model": "\x00", "messages": []}',
    "two_values": b'{"model": "support"} {"model": "support"}',
    "bom": b'\xef\xbb\xbf{"model": "support"}',
    "huge_number": b'{"model": "support", "messages": [], "seed": 1' + b"0" * 400 + b"}",
}


class HostileBodiesSuite:
    """Bodies that no client sends by mistake."""

    @pytest.mark.parametrize("route", ROUTES)
    @pytest.mark.parametrize("name", HOSTILE)
    def test_hostile_body(self, live: Live, route: str, name: str) -> None:
        with live.http() as http:
            answer = http.post(
                route, content=HOSTILE[name], headers={"content-type": "application/json"}
            )
            assert_openai_error(answer, 400, 404)
            # The connection, the process and the key are as good as before.
            assert http.get("/v1/models").status_code == 200

    @pytest.mark.parametrize("route", ROUTES)
    def test_too_large_a_body(self, live: Live, route: str) -> None:
        padding = "a" * (5 * 1024 * 1024)
        with live.http() as http:
            answer = http.post(route, json=body_for(route, live.alias) | {"user": padding})
        assert_openai_error(answer, 413)

    @pytest.mark.parametrize("route", ROUTES)
    def test_too_large_a_body_of_unknown_length(self, live: Live, route: str) -> None:
        def pieces() -> Any:
            yield b'{"model": "'
            for _ in range(5 * 16):
                yield b"a" * 65536

        with live.http() as http:
            try:
                answer = http.post(route, content=pieces())
            except httpx.WriteError:  # the answer came, and the connection closed, before the end
                return
        assert_openai_error(answer, 413)


class FieldsSuite:
    """Fields that are missing, unknown, of another type, or out of bounds."""

    @pytest.mark.parametrize("route", ROUTES)
    @pytest.mark.parametrize(
        "field",
        ["frobnicate", "lora_path", "api_base", "base_url", "lora_request", "prompt_logprobs",
         "cache_salt", "chat_template", "kv_transfer_params", "allowed_token_ids", "priority"],
    )  # fmt: skip
    def test_unknown_field(self, live: Live, route: str, field: str) -> None:
        with live.http() as http:
            answer = http.post(route, json=body_for(route, live.alias) | {field: 1})
        error = assert_openai_error(answer, 400)
        assert field in error["message"]
        assert error["param"] == field

    @pytest.mark.parametrize("route", ROUTES)
    @pytest.mark.parametrize(
        ("field", "value"),
        [("model", None), ("model", 7), ("temperature", 9), ("temperature", "hot"),
         ("temperature", -1), ("top_p", 2), ("stream", "yes")],
    )  # fmt: skip
    def test_bad_value(self, live: Live, route: str, field: str, value: Any) -> None:
        with live.http() as http:
            answer = http.post(route, json=body_for(route, live.alias) | {field: value})
        assert field in str(assert_openai_error(answer, 400)["param"])

    @pytest.mark.parametrize(
        ("field", "value"),
        [("n", 0), ("n", 17), ("n", 16384), ("max_tokens", -1), ("max_tokens", 0),
         ("messages", "hello"), ("messages", []), ("messages", [{"role": "user"}]),
         ("messages", [{"role": "wizard", "content": "x"}]), ("top_logprobs", 21),
         ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}])],
    )  # fmt: skip
    def test_bad_value_in_chat(self, live: Live, field: str, value: Any) -> None:
        body = body_for("/v1/chat/completions", live.alias) | {"logprobs": True, field: value}
        with live.http() as http:
            error = assert_openai_error(http.post("/v1/chat/completions", json=body), 400)
        assert str(error["param"]).startswith(field)

    @pytest.mark.parametrize("route", ROUTES)
    @pytest.mark.parametrize("field", ["model", "messages/prompt/input"])
    def test_missing_field(self, live: Live, route: str, field: str) -> None:
        body = body_for(route, live.alias)
        name = field if field in body else next(name for name in body if name in field.split("/"))
        del body[name]
        with live.http() as http:
            error = assert_openai_error(http.post(route, json=body), 400)
        assert name in error["message"]


class RefusalsSuite(HostileBodiesSuite, FieldsSuite):
    """All of it, with keys, names and addresses that lead nowhere."""

    def test_wrong_key(self, live: Live) -> None:
        with live.client(api_key="sk-al-wrong") as client:
            with pytest.raises(openai.AuthenticationError) as refused:
                client.chat.completions.create(model=live.alias, messages=ASK)
            assert refused.value.code == "invalid_api_key"
            with pytest.raises(openai.AuthenticationError):
                client.models.list()
            with pytest.raises(openai.AuthenticationError):
                client.responses.create(model=live.alias, input="x", stream=True)
            with pytest.raises(openai.AuthenticationError):
                client.moderations.create(input="x")

    @pytest.mark.parametrize("header", ["", "Bearer", "Bearer x", "Basic eDp5", "sk-al-wrong"])
    def test_no_key(self, live: Live, header: str) -> None:
        for route in ROUTES:
            answer = httpx.post(
                live.root + route,
                json=body_for(route, live.alias),
                headers={"authorization": header} if header else {},
                timeout=60,
            )
            assert_openai_error(answer, 401)

    def test_key_of_another_role(self, live: Live) -> None:
        with live.http(live.api_key) as http:
            assert_openai_error(http.get("/admin/v1/adapters"), 403)
            promote = f"/admin/v1/adapters/{live.alias}/promote"
            assert_openai_error(http.post(promote, json={"version": 1}), 403)

    def test_unknown_model(self, live: Live) -> None:
        with live.client() as client:
            for name in ("nobody", f"{live.alias}@999", f"{live.alias}@-1", f"{live.alias}@",
                         "../../etc/passwd", "", "a" * 10_000, "base@0-00000000"):  # fmt: skip
                with pytest.raises(openai.NotFoundError) as refused:
                    client.chat.completions.create(model=name, messages=ASK)
                assert refused.value.code == "model_not_found"
                with pytest.raises(openai.NotFoundError):
                    client.responses.create(model=name, input="x")
                with pytest.raises(openai.NotFoundError):
                    client.completions.create(model=name, prompt="x")

    def test_prompt_that_does_not_fit(self, live: Live) -> None:
        long = [{"role": "user", "content": "word " * 4000}]
        with live.client() as client:
            for stream in (False, True):
                with pytest.raises(openai.BadRequestError) as refused:
                    client.chat.completions.create(model=live.alias, messages=long, stream=stream)
                assert refused.value.code == "context_length_exceeded"
                assert "@1-" not in refused.value.message

    def test_unknown_route_and_wrong_method(self, live: Live) -> None:
        with live.http() as http:
            for path in ("/v1/nothing", "/nothing", "/v1", "/v1/chat", "/v1/chat/completions/x",
                         "/v1/load_lora_adapter", "/metrics/../v1/nothing"):  # fmt: skip
                assert_openai_error(http.get(path), 404)
                assert_openai_error(http.post(path, json={}), 404)
            for route in ROUTES:
                for method in ("GET", "PUT", "DELETE", "PATCH"):
                    assert_openai_error(http.request(method, route), 405)
            assert_openai_error(http.post("/v1/models", json={}), 405)

    def test_errors_before_a_stream_are_plain(self, live: Live) -> None:
        with live.http() as http:
            body = body_for(ROUTES[0], "nobody") | {"stream": True}
            assert_openai_error(http.post(ROUTES[0], json=body), 404)
            body = body_for(ROUTES[0], live.alias) | {"stream": True, "n": 99}
            assert_openai_error(http.post(ROUTES[0], json=body), 400)

    def test_stream_options_without_stream(self, live: Live) -> None:
        body = body_for(ROUTES[0], live.alias) | {"stream_options": {"include_usage": True}}
        with live.http() as http:
            assert_openai_error(http.post(ROUTES[0], json=body), 400)

    def test_escaped_json_is_read_as_text(self, live: Live) -> None:
        # What looks like a second document in a string is just text.
        odd = json.dumps([{"role": "user", "content": '"}], "model": "nobody", "x": [{"y": "'}])
        body = f'{{"model": "{live.alias}", "max_tokens": 2, "messages": {odd}}}'
        with live.http() as http:
            assert http.post(ROUTES[0], content=body).status_code == 200
