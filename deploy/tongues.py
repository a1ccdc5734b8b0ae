"""How a base model writes tool calls and thoughts, read from its chat template.

Gives the names of vLLM's parsers. Families share architectures and not their marks (SmolLM2 is of
Llama's architecture and writes tool calls as Hermes does), so the marks decide.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

_TOOL_MARKS = (
    ("[TOOL_CALLS]", "mistral"),
    ("<|python_tag|>", "llama3_json"),
    ("<|tool_call|>", "phi4_mini_json"),
    ("<function=", "qwen3_coder"),
    ("<tool_call>", "hermes"),
)
_THOUGHT_MARKS = (
    ("[THINK]", "mistral"),
    ("enable_thinking", "qwen3"),
    ("<think>", "deepseek_r1"),
)


@dataclass(frozen=True, slots=True)
class Tongue:
    """vLLM's parsers for a model; `reasoning` is None for one that does not think aloud."""

    tools: str = "hermes"
    reasoning: str | None = None


def tongue_of(model: Path | None) -> Tongue:
    """Give the parsers that fit a model's folder; the default where it has no chat template."""
    template = _template(model) if model is not None else ""
    tools = (parser for mark, parser in _TOOL_MARKS if mark in template)
    thoughts = (parser for mark, parser in _THOUGHT_MARKS if mark in template)
    return Tongue(next(tools, Tongue().tools), next(thoughts, None))


def _template(model: Path) -> str:
    """Read the chat template, which lies in a file of its own or in the tokenizer's settings."""
    own = model / "chat_template.jinja"
    if own.is_file():
        return own.read_text(encoding="utf-8")
    settings = model / "tokenizer_config.json"
    if not settings.is_file():
        return ""
    return json.dumps(json.loads(settings.read_bytes()).get("chat_template", ""))
