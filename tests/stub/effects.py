"""Logprobs of given tokens that differ by adapter as a real worker's do.

An adapter whose manifest holds a fingerprint answers its prompts with the reference means (and the
base with the base means), so that proof of effect comes out as `effective`. Other prompts and
other adapters get numbers made from their bytes: steady, and different for different weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Tokens = tuple[int, ...]
MEASURING = ("prompt_logprobs", "logprob_token_ids", "allowed_token_ids")  # no client's fields


@dataclass(frozen=True, slots=True)
class Weights:
    """What the stub knows of the files of an adapter, or of a merged model."""

    digest: bytes
    adapter_means: dict[Tokens, float]
    base_means: dict[Tokens, float]

    @classmethod
    def read(cls, path: str) -> Weights:
        """Read an adapter's or a model's folder; raises FileNotFoundError without weights."""
        folder = Path(path)
        model = folder / "model.safetensors"
        weights = model if model.exists() else folder / "adapter_model.safetensors"
        digest = hashlib.sha256(weights.read_bytes()).digest()
        manifest = folder / "manifest.json"
        mark = json.loads(manifest.read_bytes()).get("fingerprint") if manifest.exists() else None
        if not mark:
            return cls(digest, {}, {})
        prompts = [tuple(prompt["token_ids"]) for prompt in mark["prompts"]]
        return cls(
            digest,
            dict(zip(prompts, mark["adapter_mean"], strict=True)),
            dict(zip(prompts, mark["base_mean"], strict=True)),
        )


def _unit(*parts: bytes) -> float:
    """A number in [0, 1) made from bytes."""
    return int.from_bytes(hashlib.sha256(b"\0".join(parts)).digest()[:4], "big") / 2**32


def base_mean(prompt: Tokens, known: Sequence[Weights]) -> float:
    """The base model's mean logprob over a prompt."""
    for weights in known:
        if (mean := weights.base_means.get(prompt)) is not None:
            return mean
    return -3.0 - _unit(json.dumps(prompt).encode())


def adapter_mean(prompt: Tokens, weights: Weights, known: Sequence[Weights]) -> float:
    """An adapter's mean logprob over a prompt: off the base by its own delta."""
    if (mean := weights.adapter_means.get(prompt)) is not None:
        return mean
    delta = 0.5 + _unit(weights.digest, json.dumps(prompt).encode())
    return base_mean(prompt, known) + delta


def next_mean(
    prefix: Tokens, token: int, weights: Weights | None, known: Sequence[Weights]
) -> float:
    """The logprob of `token` after `prefix`: the mean of the fingerprint's prompt that goes so."""
    for one in known:
        for prompt in one.base_means:
            if prompt[: len(prefix) + 1] == (*prefix, token):
                prefix = prompt
    return mean_under(prefix, weights, known)


def mean_under(prompt: Tokens, weights: Weights | None, known: Sequence[Weights]) -> float:
    """The mean logprob under an adapter, or under the base where there is none."""
    if weights is None:
        return base_mean(prompt, known)
    return adapter_mean(prompt, weights, known)


def forced_logprobs(
    prefix: Tokens, wanted: Sequence[int], weights: Weights | None, known: Sequence[Weights]
) -> dict[str, Any]:
    """vLLM's logprobs of one sampled token with `logprob_token_ids` or `allowed_token_ids`."""
    found = {f"token_id:{t}": next_mean(prefix, t, weights, known) for t in wanted}
    first = next(iter(found))
    return {
        "text_offset": [0],
        "token_logprobs": [found[first]],
        "tokens": [first],
        "top_logprobs": [found],
    }


def prompt_logprobs(prompt: Tokens, mean: float) -> list[dict[str, Any] | None]:
    """vLLM's shape: None for the first token, then a map from token id to its logprob."""
    return [
        None if at == 0 else {str(token): {"logprob": mean, "rank": 1, "decoded_token": "t"}}
        for at, token in enumerate(prompt)
    ]
