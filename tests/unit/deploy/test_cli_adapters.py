"""Commands that ask a gateway: `adapters` and `usage`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from deploy import api
from deploy.cli import cli
from deploy.config import Config
from deploy.home import Home, write_env
from gateway.registry.receiving import digest_of


class Gateway:
    """Answers the admin API from a table; remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, list[httpx.Response]] = {}
        self.asked: list[tuple[str, bytes]] = []
        self.queries: list[dict[str, str]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        key = f"{request.method} {request.url.path}"
        self.asked.append((key, request.read()))
        self.queries.append(dict(request.url.params))
        assert request.headers["authorization"] == "Bearer sk-admin"
        answers = self.answers[key]
        return answers.pop(0) if len(answers) > 1 else answers[0]


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gateway:
    monkeypatch.setenv("ADAPTERLOOP_HOME", str(tmp_path))
    keys = {"ADAPTERLOOP_ADMIN_KEY": "sk-admin", "OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}
    write_env(Home(Config().home).keys, keys)
    gateway = Gateway()
    real = httpx.Client

    def client(**options: object) -> httpx.Client:
        return real(transport=httpx.MockTransport(gateway), **options)  # type: ignore[arg-type]

    monkeypatch.setattr(api.httpx, "Client", client)
    return gateway


def alias(state: str, **more: str) -> httpx.Response:
    version = {"version": 2, "state": state, "sha256": "ab" * 32, **more}
    return httpx.Response(200, json={"alias": "support", "stable": 1, "versions": [version]})


def test_promote_waits_for_the_proof(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    states = ["registered", "verifying", "candidate"]
    gateway.answers["GET /admin/v1/adapters/support"] = [alias(state) for state in states]
    gateway.answers["POST /admin/v1/adapters/support/promote"] = [httpx.Response(200, json={})]
    result = CliRunner().invoke(cli, ["adapters", "promote", "support", "2"])
    assert result.exit_code == 0, result.output
    assert "verifying support@2" in result.output
    assert gateway.asked[-1] == ("POST /admin/v1/adapters/support/promote", b'{"version":2}')


def test_promote_says_why_a_version_waits(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setattr("deploy.commands.adapters.VERIFY_S", 0.0)
    waits = alias("registered", waiting="A worker runs without it: of another family")
    gateway.answers["GET /admin/v1/adapters/support"] = [waits]
    result = CliRunner().invoke(cli, ["adapters", "promote", "support", "2"])
    assert result.exit_code == 1
    assert "still registered after 0 s; A worker runs without it: of another" in result.output


def test_the_base_needs_no_proof(gateway: Gateway) -> None:
    for what, more in (("promote", []), ("rollout", ["--steps", "0.5"])):
        gateway.answers[f"POST /admin/v1/adapters/support/{what}"] = [httpx.Response(200, json={})]
        result = CliRunner().invoke(cli, ["adapters", what, "support", "0", *more])
        assert result.exit_code == 0, result.output
    assert [asked for asked, _ in gateway.asked] == [
        "POST /admin/v1/adapters/support/promote",
        "POST /admin/v1/adapters/support/rollout",
    ]


def test_promote_refuses_what_was_rejected(gateway: Gateway) -> None:
    gateway.answers["GET /admin/v1/adapters/support"] = [alias("rejected")]
    result = CliRunner().invoke(cli, ["adapters", "promote", "support", "2"])
    assert result.exit_code == 1
    assert "rejected" in result.output


def test_promote_of_a_missing_version_names_those_there_are(gateway: Gateway) -> None:
    gateway.answers["GET /admin/v1/adapters/support"] = [alias("candidate")]
    result = CliRunner().invoke(cli, ["adapters", "promote", "support", "7"])
    assert result.output == "support@7 does not exist; versions: 2\n"


def test_a_refusal_is_the_gateways_message(gateway: Gateway) -> None:
    body = {"error": {"message": "No adapter is published under this name."}}
    gateway.answers["GET /admin/v1/adapters/nope"] = [httpx.Response(404, json=body)]
    result = CliRunner().invoke(cli, ["adapters", "list", "nope"])
    assert (result.exit_code, result.output) == (1, "No adapter is published under this name.\n")


def test_no_gateway_is_said(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    monkeypatch.setattr(Gateway, "__call__", lambda self, request: refuse(request))
    result = CliRunner().invoke(cli, ["adapters", "list"])
    assert result.exit_code == 1
    assert "no gateway answers at http://127.0.0.1:9" in result.output


def test_add_uploads_the_folders_files(gateway: Gateway, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors", "README.md"):
        (folder / name).write_text(name, encoding="utf-8")
    digest = digest_of(
        {
            name: hashlib.sha256(name.encode()).hexdigest()
            for name in ("adapter_config.json", "adapter_model.safetensors")
        }
    )
    answer = {"alias": "support", "version": 3, "state": "registered", "sha256": digest}
    path = "POST /admin/v1/adapters/support/versions"
    gateway.answers[path] = [httpx.Response(201, json=answer)]
    result = CliRunner().invoke(cli, ["adapters", "add", "support", str(folder)])
    assert result.output == f"support@3  registered  {digest[:12]}\n"
    body = gateway.asked[0][1]
    assert b'filename="adapter_model.safetensors"' in body
    assert b"README" not in body


def test_add_by_path_sends_the_path_alone(gateway: Gateway) -> None:
    made = {"version": 3, "state": "registered", "sha256": "ab" * 32}
    key = "POST /admin/v1/adapters/support/versions"
    gateway.answers[key] = [httpx.Response(201, json=made)]
    folder = "/models/of/the/gateway"
    result = CliRunner().invoke(cli, ["adapters", "add", "support", folder, "--by-path"])
    assert (result.exit_code, "support@3  registered  abab" in result.output) == (0, True)
    assert [(k, json.loads(body)) for k, body in gateway.asked] == [(key, {"path": folder})]
    missing = CliRunner().invoke(cli, ["adapters", "add", "support", folder])
    assert "is no folder of this machine" in missing.output


def test_pin_and_unpin(gateway: Gateway) -> None:
    path = "/admin/v1/adapters/support/versions/2/pin"
    for method in ("PUT", "DELETE"):
        gateway.answers[f"{method} {path}"] = [httpx.Response(200, json={})]
    run = CliRunner().invoke
    pinned = run(cli, ["adapters", "pin", "support", "2", "--replicas", "3"])
    assert pinned.output == "support@2 is pinned to 3 workers\n"
    assert run(cli, ["adapters", "unpin", "support", "2"]).exit_code == 0
    assert gateway.asked == [(f"PUT {path}", b'{"replicas":3}'), (f"DELETE {path}", b"")]
    assert run(cli, ["adapters", "pin", "support", "2", "--replicas", "0"]).exit_code == 2


def test_list_shows_pins(gateway: Gateway) -> None:
    versions = [
        {"version": number, "state": "candidate", "sha256": "ab" * 32, "pinned": pinned}
        for number, pinned in ((1, None), (2, 1))
    ]
    body = {"data": [{"alias": "support", "stable": 1, "versions": versions}]}
    gateway.answers["GET /admin/v1/adapters"] = [httpx.Response(200, json=body)]
    lines = CliRunner().invoke(cli, ["adapters", "list"]).output.splitlines()
    assert [line.endswith("pinned to 1 worker") for line in lines] == [False, False, True]


def test_list_shows_all_pages(gateway: Gateway) -> None:
    pages = [
        {"data": [{"alias": name, "stable": 0, "versions": []}], "has_more": more, "last_id": name}
        for name, more in (("a", True), ("b", True), ("c", False))
    ]
    gateway.answers["GET /admin/v1/adapters"] = [httpx.Response(200, json=one) for one in pages]
    shown = CliRunner().invoke(cli, ["adapters", "list"]).output
    assert [line[0] for line in shown.splitlines()] == ["a", "b", "c"]
    assert gateway.queries == [{}, {"after": "a"}, {"after": "b"}]


def test_list_tells_a_merged_model(gateway: Gateway) -> None:
    gateway.answers["GET /admin/v1/adapters/support"] = [alias("candidate", kind="merged")]
    result = CliRunner().invoke(cli, ["adapters", "list", "support"])
    assert "2  candidate   abababababab  a merged model" in result.output


def test_rollout_sends_its_steps(gateway: Gateway) -> None:
    gateway.answers["GET /admin/v1/adapters/support"] = [alias("candidate")]
    gateway.answers["POST /admin/v1/adapters/support/rollout"] = [httpx.Response(200, json={})]
    run = CliRunner().invoke
    result = run(cli, ["adapters", "rollout", "support", "2", "--steps", "0.1,1"])
    assert "10% of the callers" in result.output
    assert gateway.asked[-1][1] == b'{"version":2,"steps":[0.1,1.0]}'
    assert run(cli, ["adapters", "rollout", "support", "2", "--steps", "some"]).exit_code == 2
    begin = ["adapters", "rollout", "support", "2", "--steps", "0.1", "--shadow"]
    result = run(cli, [*begin, "0.25", "--shadow-answers", "50"])
    assert "copies of 25% of the calls" in result.output
    asked = b'{"version":2,"steps":[0.1],"shadow":{"share":0.25,"answers":50}}'
    assert gateway.asked[-1][1] == asked
    for bad in ([*begin, "0"], [*begin, "1.5"], [*begin[:-1], "--shadow-answers", "9"]):
        assert run(cli, bad).exit_code == 2


def test_usage_is_a_table_or_csv(gateway: Gateway) -> None:
    line = {
        "day": "2026-11-24",
        "alias": "support",
        "version": 2,
        "key_id": 7,
        "requests": 3,
        "prompt_tokens": 30,
        "completion_tokens": 12,
    }
    table = httpx.Response(200, json={"data": [line]})
    gateway.answers["GET /admin/v1/usage"] = [table, httpx.Response(200, text="day,alias\n")]
    shown = CliRunner().invoke(cli, ["usage", "--since", "2026-11-01", "--alias", "support"])
    assert shown.exit_code == 0, shown.output
    assert [row.split() for row in shown.output.splitlines()] == [
        list(line),
        ["2026-11-24", "support", "2", "7", "3", "30", "12"],
    ]
    assert gateway.queries[-1] == {"since": "2026-11-01", "alias": "support"}
    assert CliRunner().invoke(cli, ["usage", "--csv"]).output == "day,alias\n"
    assert gateway.queries[-1] == {"format": "csv"}
    assert CliRunner().invoke(cli, ["usage", "--since", "yesterday"]).exit_code == 2


OPTIONS = "/admin/v1/adapters/support/options"


def test_options_are_shown_changed_and_cleared(gateway: Gateway, tmp_path: Path) -> None:
    held = {"temperature": 0.5, "seed": 1, "stop": None, "fallback": ["base"]}
    gateway.answers[f"GET {OPTIONS}"] = [httpx.Response(200, json=held)]
    gateway.answers[f"PUT {OPTIONS}"] = [httpx.Response(200, json={"temperature": 0.2})]
    run = CliRunner().invoke
    shown = run(cli, ["adapters", "options", "support"])
    assert shown.output == '  temperature = 0.5\n  seed = 1\n  fallback = ["base"]\n'
    assert len(gateway.asked) == 1
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("Be kind.", encoding="utf-8")
    changes = ["--set", "temperature=0.2", "--set", "stop=END", "--set", "seed=null"]
    more = ["--system-prompt", str(prompt), "--fallback", "support@3", "--fallback", "base"]
    changed = run(cli, ["adapters", "options", "support", *changes, *more])
    assert changed.output == "  temperature = 0.2\n"
    assert json.loads(gateway.asked[-1][1]) == {
        "temperature": 0.2,
        "seed": None,
        "stop": "END",
        "fallback": ["support@3", "base"],
        "system_prompt": "Be kind.",
    }
    run(cli, ["adapters", "options", "support", "--clear", "--set", "seed=2"])
    assert json.loads(gateway.asked[-1][1]) == {"seed": 2}
    wrong = run(cli, ["adapters", "options", "support", "--set", "seed"])
    assert (wrong.exit_code, "NAME=VALUE" in wrong.output) == (2, True)


def test_a_merge_fetches_the_files_and_registers_the_result(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.compose.model_path", lambda config: Path("tiny"))
    files = {"adapter_config.json": {}, "adapter_model.safetensors": {}}
    for number in (1, 2):
        version = {"version": number, "sha256": f"{number:064x}", "manifest": {"files": files}}
        path = f"/admin/v1/adapters/a{number}"
        found = {"alias": f"a{number}", "versions": [version]}
        gateway.answers[f"GET {path}"] = [httpx.Response(200, json=found)]
        for name in files:
            content = f"{name} of {number}".encode()
            file = f"GET {path}/versions/{number}/files/{name}"
            gateway.answers[file] = [httpx.Response(200, content=content)]
    both = b"adapter_model.safetensors of 1 + adapter_model.safetensors of 2"
    digest = digest_of({"adapter_model.safetensors": hashlib.sha256(both).hexdigest()})
    made = {"version": 1, "state": "registered", "sha256": digest}
    gateway.answers["POST /admin/v1/adapters/both/versions"] = [httpx.Response(201, json=made)]

    def merged(base: Path, sources: list[Any], plan: Any, alias: str, out: Path) -> float:
        assert [(s.model, s.weight) for s in sources] == [("a1@1", 0.7), ("a2@2", 0.3)]
        assert (plan.method, plan.density, plan.seed) == ("dare_ties", 0.4, 7)
        out.mkdir()
        weights = b" + ".join(
            (source.folder / "adapter_model.safetensors").read_bytes() for source in sources
        )
        (out / "adapter_model.safetensors").write_bytes(weights)
        return 0.876

    monkeypatch.setattr("trainer.merge.merge", merged)
    how = ["--weights", "0.7,0.3", "--method", "dare_ties", "--density", "0.4", "--into", "both"]
    result = CliRunner().invoke(cli, ["adapters", "merge", "a1@1", "a2@2", *how])
    assert result.exit_code == 0, result.output
    assert "87.6%" in result.output
    assert "both@1  registered" in result.output
    assert both in gateway.asked[-1][1]


def test_a_merge_names_its_mistakes(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    run = CliRunner().invoke
    base = ["adapters", "merge", "support@1", "support@2", "--into", "both", "--weights"]
    for weights, said in (("1", "2 versions take 2 weights"), ("a,b", "separated by commas")):
        result = run(cli, [*base, weights])
        assert result.exit_code != 0
        assert said in result.output
    monkeypatch.setattr("deploy.compose.model_path", lambda config: None)
    assert "ADAPTERLOOP_MODEL" in run(cli, [*base, "1,1"]).output
    monkeypatch.setattr("deploy.compose.model_path", lambda config: Path("tiny"))
    gateway.answers["GET /admin/v1/adapters/support"] = [alias("candidate")]
    assert "support@1: name a version as support@N; there are 2" in run(cli, [*base, "1,1"]).output
    whole = ["adapters", "merge", "support@2", "support@2", "--into", "both", "--weights", "1,1"]
    gateway.answers["GET /admin/v1/adapters/support"] = [alias("candidate", kind="merged")]
    assert "support@2 is a whole model: only adapters are merged" in run(cli, whole).output
