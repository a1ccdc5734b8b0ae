"""Patterns of modules' names: what PEFT means by them, and none that would never end."""

from __future__ import annotations

import re
import time

import pytest

from gateway.registry.module_patterns import BadPattern, ModulePatterns

Q = "model.layers.10.self_attn.q_proj"
NAMES = [Q, "model.layers.2.mlp.down_proj"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("q_proj", True),
        ("proj", False),
        ("self_attn.q_proj", True),
        ("model.layers.10.self_attn.q_proj", True),
        (r".*layers\.\d+\..*_proj", True),
        (r"layers\.(1|2|10)\.self_attn\.(?:q|k)_proj", True),
        (r"layers\.1[0-9]?\.self_attn\.[qk]_proj", True),
        (r"^model\..*\.q_proj$", True),
        (r"[\]*+?(|q]_proj", True),
        (r"layers\.\d{1,2}\.self_attn\.q_proj", True),
    ],
)
def test_a_pattern_is_what_peft_takes_it_for(pattern: str, found: bool) -> None:
    patterns = ModulePatterns({pattern: 4}, NAMES)
    assert patterns.value_of(Q) == (4 if found else None)
    assert bool(re.match(rf"(.*\.)?({pattern})$", Q)) is found


def test_the_first_that_matches_holds() -> None:
    patterns = ModulePatterns({"k_proj": 1, "q_proj": 2, ".*": 3}, NAMES)
    assert [patterns.value_of(name) for name in NAMES] == [2, 3]


@pytest.mark.parametrize("pattern", ["(", "[", "*", "a**", "\\", "a{99999999999}", "(" * 499, ")"])
def test_what_is_no_regular_expression_is_told(pattern: str) -> None:
    with pytest.raises(BadPattern, match="is no regular expression"):
        ModulePatterns({pattern: 4}, NAMES)


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+",
        "(a|a)*",
        "(?:a*)*",
        "(a){2,}",
        "(a?){20}",
        "a?" * 24 + "a" * 24,
        ".*.*.*.*.*.*.*!",
        "(a|a)" * 24 + "!",
        r"(a*)\1\1\1!",
        "(?=(a*))*",
        "a" * 1001,
    ],
)
def test_none_takes_longer_than_a_name_is_worth(pattern: str) -> None:
    began = time.process_time()
    with pytest.raises(BadPattern, match=r"too (costly|long)"):
        ModulePatterns({pattern: 4}, ["a" * 28 + "b"])
    assert time.process_time() - began < 1


def test_many_patterns_on_many_modules_end_too() -> None:
    patterns = {f".*a{number}.*": 4 for number in range(1000)}
    with pytest.raises(BadPattern, match="together"):
        ModulePatterns(patterns, [f"model.layers.{number}.q_proj" for number in range(2000)])
    ModulePatterns(dict.fromkeys(patterns, 4), NAMES)
