"""Adapters on real vLLM: proven, swapped under load, aborted, and back after a kill."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest

from .beside import is_healthy
from .conftest import processes_of
from .live import Live, wait_for

CHAT = "/v1/chat/completions"
ASK = [{"role": "user", "content": "My parcel has not arrived. What can I do?"}]
SWAPS = 10
STREAMS = 8
STORY = 800


def body(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": ASK, "max_tokens": 4, "temperature": 0} | more


def worker_url(live: Live) -> str:
    with live.admin() as admin:
        workers = admin.get("/admin/v1/workers").json()
    listed = workers.get("data") or workers.get("workers") if isinstance(workers, dict) else workers
    return str(listed[0]["url"]).rstrip("/")


def metric(url: str, name: str) -> float:
    text = httpx.get(f"{url}/metrics", timeout=30).text
    found = re.findall(rf"^vllm:{name}\{{[^}}]*\}} (\S+)$", text, re.MULTILINE)
    assert found, name
    return sum(map(float, found))


def running(url: str) -> float:
    return metric(url, "num_requests_running")


def versions(live: Live) -> list[dict[str, Any]]:
    """The alias's versions as the admin API tells them."""
    told: list[dict[str, Any]] = live.adapter(live.alias)["versions"]
    return told


def all_effective(live: Live) -> bool:
    """Whether every version is on the worker, and proven to have its effect."""
    places = [one["placements"] for one in versions(live)]
    return all(
        place and all(one["current"] and one["effect"] == "effective" for one in place)
        for place in places
    )


def test_both_shipped_adapters_are_proven(live: Live) -> None:
    assert wait_for(lambda: all_effective(live), 180, 1), versions(live)
    assert [one["version"] for one in versions(live)][:2] == [1, 2]


def test_versions_answer_otherwise_than_the_base(live: Live) -> None:
    with live.client() as client:
        texts = {
            client.chat.completions.create(**body(model, max_tokens=16)).choices[0].message.content
            for model in ("base", f"{live.alias}@1", f"{live.alias}@2")
        }
    assert len(texts) >= 2


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "unary"])
def test_leaving_stops_the_generation(live: Live, stream: bool) -> None:
    url = worker_url(live)
    assert wait_for(lambda: running(url) == 0, 60)
    prompt = [{"role": "user", "content": "Tell a very long story about the sea."}]
    call = body("base", stream=stream, max_tokens=STORY, min_tokens=STORY, messages=prompt)
    for pause in (0.0, 1.0):
        with live.http() as http:
            leave = threading.Event()

            def ask(http: httpx.Client = http, leave: threading.Event = leave) -> None:
                try:
                    with http.stream("POST", CHAT, json=call, timeout=60) as answer:
                        leave.wait(30)
                        answer.close()
                except httpx.HTTPError:
                    pass

            if stream:
                thread = threading.Thread(target=ask)
                thread.start()
                assert wait_for(lambda: running(url) == 1, 20)
                time.sleep(pause)
                leave.set()
                thread.join()
            else:
                with pytest.raises(httpx.ReadTimeout):
                    http.post(CHAT, json=call, timeout=httpx.Timeout(60, read=2 + pause))
            # By what the worker does meanwhile: a slow machine is late, and no story is told to its
            # end on it.
            told = metric(url, "generation_tokens_total")
            assert wait_for(lambda: running(url) == 0, 20), "the worker still generates"
            assert metric(url, "generation_tokens_total") - told < STORY / 4


def test_an_adapter_that_lies_elsewhere_is_fetched(live: Live) -> None:
    """The worker gets a URL, as from a gateway with a bucket, and has a storage of its own."""
    [version] = [one for one in versions(live) if one["version"] == 1]
    digest, name = version["sha256"], f"{live.alias}@1-{version['sha256'][:8]}"
    fetched = live.home / "cache" / "adapters" / "adapters" / digest
    with httpx.Client(base_url=worker_url(live), timeout=180) as worker:

        def load(digest: str) -> httpx.Response:
            path = f"s3://elsewhere/adapters/{digest}"
            return worker.post(
                "/v1/load_lora_adapter", json={"lora_name": "fetched", "lora_path": path}
            )

        def answer(model: str) -> str:
            return str(worker.post(CHAT, json=body(model)).json()["choices"][0]["message"])

        try:
            assert load(digest).status_code == 200
            cards = {card["id"]: card["root"] for card in worker.get("/v1/models").json()["data"]}
            assert cards["fetched"] == str(fetched)
            assert answer("fetched") == answer(name)
            assert load("0" * 64).status_code == 503
        finally:
            worker.post("/v1/unload_lora_adapter", json={"lora_name": "fetched"})


async def test_ten_swaps_under_eight_streams(live: Live) -> None:
    assert await asyncio.to_thread(wait_for, lambda: all_effective(live), 180, 1)
    failed: list[str] = []
    seen: list[str] = []
    over = asyncio.Event()

    async def keep_asking() -> None:
        async with live.async_client() as client:
            while not over.is_set():
                try:
                    stream = await client.chat.completions.create(**body(live.alias), stream=True)
                    models = {chunk.model async for chunk in stream}
                except Exception as error:
                    failed.append(repr(error))
                    continue
                seen.extend(models)
                if len(models) != 1:
                    failed.append(str(models))

    async with asyncio.TaskGroup() as group:
        for _ in range(STREAMS):
            group.create_task(keep_asking())

        async def goes_on() -> None:
            """Return when a call has ended that began after now: all but one may have before."""
            had = len(seen) + len(failed)
            async with asyncio.timeout(60):
                while len(seen) + len(failed) <= had + STREAMS:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)

        try:
            for at in range(SWAPS):
                await goes_on()
                await asyncio.to_thread(promote, live, 2 - at % 2)
            await goes_on()
        finally:
            over.set()
    assert failed == []
    assert set(seen) == {f"{live.alias}@1", f"{live.alias}@2"}
    await asyncio.to_thread(promote, live, 1)


async def test_a_version_is_proven_beside_running_calls(live: Live) -> None:
    failed: list[str] = []
    over = asyncio.Event()

    async def keep_asking() -> None:
        async with live.async_client() as client:
            while not over.is_set():
                try:
                    await client.chat.completions.create(**body(live.alias, max_tokens=16))
                except Exception as error:
                    failed.append(repr(error))
                    await asyncio.sleep(1)

    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(keep_asking())
        await asyncio.sleep(1)
        try:
            number = await asyncio.to_thread(register_another, live)
            proven = await asyncio.to_thread(wait_for, lambda: all_effective(live), 150, 1)
        finally:
            over.set()
    assert failed == []
    assert proven, versions(live)
    assert number > 2


def register_another(live: Live) -> int:
    """Register the second version's weights again, under a manifest of their own."""
    [digest] = [one["sha256"] for one in versions(live) if one["version"] == 2]
    folder = live.home / "storage" / "adapters" / digest
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    files["manifest.json"] += b"\n"
    with live.admin() as admin:
        answer = admin.post(
            f"/admin/v1/adapters/{live.alias}/versions",
            files=[("files", one) for one in files.items()],
        )
    assert answer.status_code == 201, answer.text
    return int(answer.json()["version"])


def promote(live: Live, number: int) -> None:
    with live.admin() as admin:
        answer = admin.post(f"/admin/v1/adapters/{live.alias}/promote", json={"version": number})
    assert answer.status_code == 200, answer.text


def vllm_processes(live: Live) -> list[psutil.Process]:
    found = []
    for process in processes_of(live.home):
        try:
            if "vllm.entrypoints" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def seconds_to_start(live: Live, before: set[int]) -> float:
    """How long vLLM itself takes, from its new process to its first healthy answer."""

    def new() -> psutil.Process | None:
        return next((one for one in vllm_processes(live) if one.pid not in before), None)

    url, process = worker_url(live), wait_for(new, 60, 0.5)
    assert process is not None
    assert wait_for(lambda: is_healthy(url), 240, 0.2)
    return time.time() - process.create_time()


def test_a_killed_worker_is_back_with_its_adapters(live: Live) -> None:
    """Within two minutes, of which one is ours where vLLM needs more than the other to start."""
    before = vllm_processes(live)
    old = before[0].pid
    before[0].kill()
    killed = time.monotonic()
    statuses: list[int] = []
    answer = None
    with live.http() as http, ThreadPoolExecutor(1) as pool:
        starting = pool.submit(seconds_to_start, live, {one.pid for one in before})
        while time.monotonic() - killed < 240:
            began = time.monotonic()
            answer = http.post(CHAT, json=body(live.alias, max_tokens=2))
            statuses.append(answer.status_code)
            if answer.status_code == 200:
                break
            assert answer.status_code == 503, answer.text
            assert int(answer.headers["retry-after"]) > 0
            assert time.monotonic() - began < 15
        back = time.monotonic() - killed
    assert answer is not None
    assert answer.status_code == 200, statuses
    assert back < (due := max(120, starting.result() + 60))
    assert all(process.pid != old for process in vllm_processes(live))
    assert wait_for(lambda: all_effective(live), due - back, 1), versions(live)
