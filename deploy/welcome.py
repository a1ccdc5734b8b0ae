"""What `adapterloop up` prints once it is ready."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.home import Home

_TEXT = """
adapterloop serves {url}/v1   (Ctrl-C stops it)

  keys    {keys}
  models  {model} and base; `adapterloop adapters list` shows all
  speed   {speed}
{ui}
Try it, in another terminal:

  set -a; . {keys}; set +a
  curl -s $OPENAI_BASE_URL/chat/completions -H "Authorization: Bearer $OPENAI_API_KEY" \\
    -H "Content-Type: application/json" \\
    -d '{{"model": "{model}", "max_tokens": 32, "messages": {messages}}}'

or with the openai package, which reads the same two variables:

  {python} - <<'EOF'
  from openai import OpenAI
  answer = OpenAI().chat.completions.create(model="{model}", max_tokens=32,
      messages={messages})
  print(answer.choices[0].message.content)
  EOF
"""
_UI = """  review  {url}/ui   (sign in with ADAPTERLOOP_REVIEWER_KEY)
  fill    make demo QUICK=1   plays one night of the loop here, so that there is something to see
"""
# What the shipped adapter was trained for, and a question for any other model.
_TICKET = (
    {
        "role": "system",
        "content": "Sort this Acme Cloud ticket."
        " Answer with JSON only: product, issue, priority, order_id.",
    },
    {"role": "user", "content": "The object store has been down since 9. Order AC-2041."},
)
_QUESTION = ({"role": "user", "content": "What is a support ticket?"},)


_SPEEDS = {
    "vllm": "on two CPU cores about 12 tokens a second for one caller, 98 for sixteen at once",
    "llamacpp": "on two CPU cores 31 to 48 tokens a second, for one caller or many together",
}


def welcome(home: Home, url: str, model: str, *, has_ui: bool, kind: str = "vllm") -> str:
    """Return addresses, keys and two snippets that work when pasted."""
    return _TEXT.format(
        url=url,
        keys=_short(home.keys),
        model=model,
        speed=_SPEEDS[kind],
        ui=_UI.format(url=url) if has_ui else "",
        messages=_messages(_TICKET if model == "support" else _QUESTION),
        python=_short(Path(sys.executable)),
    )


def _messages(messages: Sequence[Mapping[str, str]]) -> str:
    """Write messages as JSON, which Python reads too, a line each."""
    return "[\n" + ",\n".join(f"      {json.dumps(message)}" for message in messages) + "]"


def _short(path: Path) -> str:
    relative = os.path.relpath(path)
    return shlex.quote(str(path) if relative.startswith("..") else f"./{relative}")
