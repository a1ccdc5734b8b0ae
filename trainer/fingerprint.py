"""The fingerprint of an adapter: what proves on a worker that its weights answer.

A worker that loaded an adapter may still answer with the base, or with other weights. The
fingerprint keeps, for a few short conversations, the mean logprob of the expected answer under the
base and under the adapter as it was saved, both in float32. Means are compared, never single
tokens: kernels differ by far more at one token than in the mean.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer.errors import PromptsTooFew
from trainer.rows import Row, to_prompt

PROMPTS = 6
FEWEST_PROMPTS = 4


def make_fingerprint(model_path: Path, adapter_path: Path, rows: Sequence[Row]) -> dict[str, Any]:
    """Measure base and saved adapter on six short conversations out of `rows`.

    Raises PromptsTooFew.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_path)
    return measure_on(model_path, adapter_path, choose_prompts(tokenizer, rows))


def measure_on(
    model_path: Path, adapter_path: Path, prompts: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Measure base and saved adapter on prompts of token ids.

    Gives {"prompts": [{"token_ids", "answer_start"}], "base_mean": [...], "adapter_mean": [...]},
    means in nats per token over token_ids[answer_start:].
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32).eval()
    base_mean = [_mean_logprob(base, prompt) for prompt in prompts]
    adapted = PeftModel.from_pretrained(base, adapter_path).float().eval()
    adapter_mean = [_mean_logprob(adapted, prompt) for prompt in prompts]
    return {"prompts": list(prompts), "base_mean": base_mean, "adapter_mean": adapter_mean}


def choose_prompts(tokenizer: Any, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Tokenise the shortest rows, the slices in turn, so that a check on a CPU takes seconds.

    The choice depends on the rows alone, not on their order.
    """
    slices: dict[str, list[tuple[int, str, dict[str, Any]]]] = defaultdict(list)
    for row in {row.input: row for row in sorted(rows, key=lambda row: row.id)}.values():
        prompt = tokenise(tokenizer, row)
        slices[row.slice].append((len(prompt["token_ids"]), row.id, prompt))
    ranked = [
        (place, name, prompt)
        for name, items in slices.items()
        for place, (_, _, prompt) in enumerate(sorted(items, key=lambda item: item[:2]))
    ]
    chosen = sorted(ranked, key=lambda item: item[:2])[:PROMPTS]
    if len(chosen) < FEWEST_PROMPTS:
        raise PromptsTooFew
    return [prompt for _, _, prompt in chosen]


def tokenise(tokenizer: Any, row: Row) -> dict[str, Any]:
    """Give the token ids of prompt, answer and end token, and where the answer starts."""
    text = tokenizer.apply_chat_template(to_prompt(row), add_generation_prompt=True, tokenize=False)
    prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
    answer = tokenizer(row.output, add_special_tokens=False)["input_ids"]
    return {
        "token_ids": [*prompt, *answer, tokenizer.eos_token_id],
        "answer_start": len(prompt),
    }


def _mean_logprob(model: Any, prompt: dict[str, Any]) -> float:
    import torch

    ids = torch.tensor([prompt["token_ids"]])
    start = prompt["answer_start"]
    with torch.inference_mode():
        logits = model(input_ids=ids).logits[0, start - 1 : -1].float()
    logprobs = torch.log_softmax(logits, dim=-1)
    taken = logprobs.gather(1, ids[0, start:, None])
    return round(taken.double().mean().item(), 6)
