from __future__ import annotations

import random
from typing import Any

import pytest

from trainer.errors import PromptsTooFew
from trainer.fingerprint import choose_prompts, tokenise
from trainer.rows import Row


class Letters:
    """A tokenizer of one token a letter."""

    eos_token_id = 0

    def apply_chat_template(self, messages: list[dict[str, str]], **options: Any) -> str:
        assert options == {"add_generation_prompt": True, "tokenize": False}
        return "".join(message["content"] + "/" for message in messages)

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        assert not add_special_tokens
        return {"input_ids": [ord(letter) for letter in text]}


def rows(slices: dict[str, int]) -> list[Row]:
    return [
        Row(id=f"{name}-{n}", slice=name, instruction="i", input=name + "x" * n, output="yes")
        for name, count in slices.items()
        for n in range(count)
    ]


def test_the_answer_starts_after_the_prompt_and_ends_with_the_end_token() -> None:
    prompt = tokenise(Letters(), Row(id="a", instruction="i", input="q", output="yes"))

    start = prompt["answer_start"]
    assert "".join(map(chr, prompt["token_ids"][:start])) == "i/q/"
    assert prompt["token_ids"][start:] == [*map(ord, "yes"), 0]


def test_six_short_prompts_are_chosen_from_the_slices_in_turn() -> None:
    chosen = choose_prompts(Letters(), rows({"triage": 9, "facts": 9}))

    lengths = sorted(len(prompt["token_ids"]) for prompt in chosen)
    shortest = sorted(
        len(f"i/{name}{'x' * n}/yes") + 1 for name in ("triage", "facts") for n in range(3)
    )
    assert lengths == shortest


def test_the_order_of_rows_does_not_matter() -> None:
    everything = rows({"triage": 20, "facts": 5})
    shuffled = random.Random(1).sample(everything, len(everything))

    assert choose_prompts(Letters(), shuffled) == choose_prompts(Letters(), everything)


def test_one_question_asked_twice_is_one_prompt() -> None:
    with pytest.raises(PromptsTooFew):
        choose_prompts(Letters(), rows({"triage": 3}) * 2)
