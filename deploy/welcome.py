"""What `adapterloop up` prints once it is ready."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from deploy.home import Home

_TEXT = """
adapterloop serves {url}/v1   (Ctrl-C stops it)

  keys    {keys}
  models  {model} and base; `adapterloop adapters list` shows all
  speed   without a GPU about 10 tokens a second, 5 through an adapter; more in all when several
          ask at once
{ui}
Try it, in another terminal:

  set -a; . {keys}; set +a
  curl -s $OPENAI_BASE_URL/chat/completions -H "Authorization: Bearer $OPENAI_API_KEY" \\
    -H "Content-Type: application/json" \\
    -d '{{"model": "{model}", "max_tokens": 32,
         "messages": [{{"role": "user", "content": "{question}"}}]}}'

or with the openai package, which reads the same two variables:

  {python} - <<'EOF'
  from openai import OpenAI
  answer = OpenAI().chat.completions.create(model="{model}", max_tokens=32,
      messages=[{{"role": "user", "content": "{question}"}}])
  print(answer.choices[0].message.content)
  EOF
"""
_UI = "  review  {url}/ui   (sign in with ADAPTERLOOP_REVIEWER_KEY)\n"
_QUESTION = "My order has not arrived. What can I do?"


def welcome(home: Home, url: str, model: str, *, has_ui: bool) -> str:
    """Return addresses, keys and two snippets that work when pasted."""
    return _TEXT.format(
        url=url,
        keys=_short(home.keys),
        model=model,
        ui=_UI.format(url=url) if has_ui else "",
        question=_QUESTION,
        python=_short(Path(sys.executable)),
    )


def _short(path: Path) -> str:
    relative = os.path.relpath(path)
    return shlex.quote(str(path) if relative.startswith("..") else f"./{relative}")
