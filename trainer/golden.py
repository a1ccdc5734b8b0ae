"""The golden set and the versions that are measured on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from trainer.client import AdminClient
from trainer.errors import NoGoldenSet, Refused
from trainer.evaluation import Evaluation, dump_evaluation, parse_evaluation
from trainer.measure import cache_key, measure
from trainer.rows import Row, parse_row
from trainer.settings import Surroundings

_STEP = 20
"""Answers between two lines that tell how far an evaluation is."""


def model_name(alias: str, number: int | None, base: str) -> str:
    """Give the name that pins a version; the base model's for 0, and where there is none."""
    return f"{alias}@{number}" if number else base


def read_golden(client: AdminClient, alias: str) -> tuple[list[Row], str]:
    """Give the alias's golden rows and their digest. Raises `NoGoldenSet`."""
    try:
        response = client.text(f"/golden/{alias}")
    except Refused as error:
        if error.status != 404:
            raise
        raise NoGoldenSet(
            f"{alias!r} has no golden set to measure a candidate on: put one with"
            f" `adapterloop feedback golden {alias} FILE`."
        ) from error
    rows = [parse_row(json.loads(line)) for line in response.text.splitlines() if line.strip()]
    return rows, response.headers["x-golden-digest"]


def find_version(client: AdminClient, alias: str, number: int) -> dict[str, Any]:
    """Give what the registry says of a version. Raises `Refused`."""
    return _version_in(client.get(f"/adapters/{alias}"), number)


def _version_in(entry: Mapping[str, Any], number: int) -> dict[str, Any]:
    for version in entry["versions"]:
        if version["version"] == number:
            return dict(version)
    raise Refused(404, f"There is no version {number} of {entry['alias']!r}.")


def evaluate_once(
    client: AdminClient,
    here: Surroundings,
    alias: str,
    model: str,
    say: Callable[[str], None],
    check: Callable[[], None] = lambda: None,
) -> tuple[str, Evaluation]:
    """Give a version's evaluation on the alias's golden set, and the digest it is kept under.

    `model` is `support@3` or `base`. It is measured only where it is not kept yet: by the same
    weights, options of the alias, golden set and decoding. `check` is called while it runs, and may
    raise to end it. Raises `TrainerError`.
    """
    golden, digest = read_golden(client, alias)
    settings = here.settings.evaluation
    key = cache_key(_served(client, model), digest, settings)
    try:
        return key, parse_evaluation(client.get(f"/evaluations/{key}"))
    except Refused as error:
        if error.status != 404:
            raise

    def told(done: int, total: int) -> None:
        check()
        if done % _STEP == 0 or done == total:
            say(f"evaluating {model}: {done} of {total}")

    found = measure(here.url, here.evaluation_key, model, golden, digest, settings, told)
    client.put(f"/evaluations/{key}", dump_evaluation(found))
    return key, found


def _served(client: AdminClient, model: str) -> str:
    """Name what is behind a model: base, adapter, and the defaults that the alias brings along.

    Rows bring their own system message, so the alias's prompt changes nothing; nor do fallbacks,
    since a version that is pinned has none, nor its share of logprobs, since evaluations get all.
    """
    alias, _, number = model.partition("@")
    entry = client.get(f"/adapters/{alias}")
    version = _version_in(entry, int(number or 0))
    weights = f"{version['base_model']}:{version['sha256']}"
    unused = ("system_prompt", "fallback", "logprobs")
    options = {k: v for k, v in entry.get("options", {}).items() if k not in unused}
    return f"{weights}:{json.dumps(options, sort_keys=True)}" if options else weights
