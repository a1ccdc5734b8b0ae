"""A gateway in memory, as far as the trainer sees it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import httpx

JSON = dict[str, Any]


class FakeGateway:
    """Keeps jobs, versions, evaluations, gates; `calls` are the changes that it was asked for."""

    def __init__(self) -> None:
        self.jobs: dict[str, JSON] = {}
        self.versions: dict[str, list[JSON]] = {}
        self.stable: dict[str, int | None] = {"support": 0}
        self.base = "base"
        self.options: JSON = {}
        self.rows: list[JSON] = []
        self.golden: dict[str, list[JSON]] = {}
        self.evaluations: dict[str, JSON] = {}
        self.gates: list[JSON] = []
        self.published: list[int] = []
        self.uploads: list[bytes] = []
        self.verified_state = "candidate"
        self.waiting = ""
        self.trouble: list[int | Exception] = []
        self.calls: list[str] = []

    @property
    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self)

    def add_job(self, alias: str = "support", **values: Any) -> JSON:
        job = {
            "id": f"job-{len(self.jobs) + 1}",
            "kind": "refresh",
            "alias": alias,
            "state": "queued",
            "stage": None,
            "stages": {},
            "parameters": {},
            "lease_holder": None,
            "result": None,
            "reason": None,
            **values,
        }
        self.jobs[job["id"]] = job
        return job

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if self.trouble:
            next_ = self.trouble.pop(0)
            if isinstance(next_, Exception):
                raise next_
            return refusal(next_, "not now")
        path = request.url.path.removeprefix("/admin/v1")
        if request.method != "GET":
            self.calls.append(f"{request.method} {path}")
        for pattern, handler in self._routes():
            if match := re.fullmatch(pattern, f"{request.method} {path}"):
                return handler(request, *match.groups())
        return refusal(404, f"nothing at {path}")

    def _routes(self) -> list[tuple[str, Callable[..., httpx.Response]]]:
        return [
            (r"POST /datasets", self._dataset),
            (r"GET /datasets/\w+/rows", lambda _: lines(self.rows)),
            (r"GET /golden/(.+)", self._golden),
            (r"POST /refreshes", self._refreshes),
            (r"POST /jobs/claim", self._claim),
            (r"GET /jobs/(.+)", lambda _, job: ok(self.jobs[job])),
            (r"POST /jobs/(.+)/(heartbeat|stages|finish|release)", self._job),
            (r"POST /adapters/(.+)/versions", self._register),
            (r"POST /adapters/(.+)/publish", self._publish),
            (r"GET /adapters/(.+)", self._adapter),
            (r"GET /evaluations/(\w+)", self._get_evaluation),
            (r"PUT /evaluations/(\w+)", self._put_evaluation),
            (r"POST /gates", self._gate),
        ]

    def _dataset(self, request: httpx.Request) -> httpx.Response:
        if not self.rows:
            return refusal(400, "nothing is left: 3 rows are golden items")
        slices = {row["slice"]: 1 for row in self.rows}
        about = {"digest": "d" * 64, "rows": len(self.rows), "dropped": {}, "slices": slices}
        return ok({**about, "origins": {"import": len(self.rows)}, "new_rows": len(self.rows)}, 201)

    def _golden(self, _: httpx.Request, alias: str) -> httpx.Response:
        if alias not in self.golden:
            return refusal(404, "no golden set")
        return lines(self.golden[alias], {"x-golden-digest": "g" * 64})

    def _refreshes(self, request: httpx.Request) -> httpx.Response:
        asked = json.loads(request.content)
        if asked["alias"] not in self.stable:
            return refusal(404, f"There is no alias {asked['alias']!r}.")
        return ok(self.add_job(asked["alias"], parameters=asked["parameters"]), 201)

    def _claim(self, request: httpx.Request) -> httpx.Response:
        asked = json.loads(request.content)
        for job in self.jobs.values():
            if job["state"] == "queued" and asked["job_id"] in (None, job["id"]):
                job.update(state="running", lease_holder=asked["holder"])
                return ok(job)
        return httpx.Response(204)

    def _job(self, request: httpx.Request, job_id: str, what: str) -> httpx.Response:
        job, asked = self.jobs[job_id], json.loads(request.content)
        if job["state"] != "running" or job["lease_holder"] != asked["holder"]:
            return refusal(409, "the job is another trainer's")
        match what:
            case "heartbeat":
                job["stage"] = asked["stage"]
            case "stages":
                job["stages"][asked["stage"]] = asked["made"]
            case "finish":
                job.update({name: asked[name] for name in ("state", "result", "reason")})
            case "release":
                job.update(state="queued", lease_holder=None)
        return ok(job)

    def _register(self, request: httpx.Request, alias: str) -> httpx.Response:
        self.uploads.append(request.content)
        known = self.versions.setdefault(alias, [])
        content = request.content.split(b"\r\n", 1)[1].rsplit(b"--", 2)[0]
        sha256 = str(hash(re.sub(rb"--\w+", b"", content)))
        for version in known:
            if version["sha256"] == sha256:
                return ok(version)
        state = self.verified_state
        version = {"alias": alias, "version": len(known) + 1, "state": state, "sha256": sha256}
        more = {"waiting": self.waiting, "events": [{"reason": "has no effect"}]}
        known.append({**version, "base_model": "tiny", **more})
        return ok(version, 201)

    def _publish(self, request: httpx.Request, alias: str) -> httpx.Response:
        number = json.loads(request.content)["version"]
        if number not in self.published:
            self.published.append(number)
        return ok({"alias": alias, "stable": self.stable[alias], "candidate": number})

    def _adapter(self, _: httpx.Request, alias: str) -> httpx.Response:
        base = {"version": 0, "state": "serving", "sha256": "base", "base_model": "tiny"}
        versions = [base] if alias == self.base else self.versions.get(alias, [])
        told = {"stable": self.stable.get(alias), "options": self.options}
        return ok({"alias": alias, "base": self.base, **told, "versions": versions})

    def _get_evaluation(self, _: httpx.Request, digest: str) -> httpx.Response:
        found = self.evaluations.get(digest)
        return ok(found) if found is not None else refusal(404, "not evaluated yet")

    def _put_evaluation(self, request: httpx.Request, digest: str) -> httpx.Response:
        self.evaluations.setdefault(digest, json.loads(request.content))
        return ok({})

    def _gate(self, request: httpx.Request) -> httpx.Response:
        self.gates.append(json.loads(request.content))
        return ok({"id": len(self.gates)}, 201)


def ok(value: Any, status: int = 200) -> httpx.Response:
    return httpx.Response(status, json=value)


def lines(rows: list[JSON], headers: dict[str, str] | None = None) -> httpx.Response:
    return httpx.Response(200, text="".join(f"{json.dumps(r)}\n" for r in rows), headers=headers)


def refusal(status: int, message: str) -> httpx.Response:
    return httpx.Response(status, json={"error": {"message": message}})
