from __future__ import annotations

import json
from pathlib import Path

import pytest

from deploy.config import Config, LocalWorker
from deploy.tongues import Tongue, tongue_of
from deploy.worker import command


@pytest.mark.parametrize(
    ("template", "tongue"),
    [
        ("{{ '<|im_start|>' }}", Tongue("hermes", None)),
        ("<tool_call>\n{{ tool.arguments }}\n</tool_call>", Tongue("hermes", None)),
        ("<|python_tag|>{{ call }}", Tongue("llama3_json", None)),
        ("[TOOL_CALLS] [{{ call }}]", Tongue("mistral", None)),
        ("<|tool_call|>{{ call }}", Tongue("phi4_mini_json", None)),
        ("<tool_call>{% if enable_thinking %}<think>{% endif %}", Tongue("hermes", "qwen3")),
        ("<tool_call>\n<function={{ name }}>", Tongue("qwen3_coder", None)),
        ("{{ '<think>' }}", Tongue("hermes", "deepseek_r1")),
    ],
)
@pytest.mark.parametrize("where", ["chat_template.jinja", "tokenizer_config.json"])
def test_the_marks_of_the_chat_template_decide(
    tmp_path: Path, template: str, tongue: Tongue, where: str
) -> None:
    text = template if where.endswith("jinja") else json.dumps({"chat_template": template})
    (tmp_path / where).write_text(text)
    assert tongue_of(tmp_path) == tongue


def test_a_model_without_a_template_or_a_folder_gets_the_default(tmp_path: Path) -> None:
    assert tongue_of(tmp_path) == tongue_of(None) == Tongue("hermes", None)


def test_the_configuration_wins(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("[TOOL_CALLS]")
    own = LocalWorker(reasoning_parser="granite")
    line = command(Config(home=tmp_path, model=str(tmp_path), local_worker=own))
    assert line[line.index("--tool-call-parser") + 1] == "mistral"
    assert line[line.index("--reasoning-parser") + 1] == "granite"
