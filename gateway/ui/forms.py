"""What the pages' forms and addresses say."""

from __future__ import annotations

from typing import cast

from starlette.datastructures import FormData
from starlette.requests import Request

from feedback.errors import Invalid
from feedback.review import Decision, Verdict
from gateway.errors import BodyTooLarge
from gateway.registry.names import is_name

REASONS = ("flagged", "guarded", "doubtful", "audit")
STATES = ("open", "claimed", "done")
SCORES = ("correctness", "relevance", "safety")
MAX_FORM = 512 * 1024
MAX_CORRECTION = 100_000
_VERDICTS = ("correct", "wrong", "unsafe", "skip")


async def read_form(request: Request) -> FormData:
    """Read a form, once. Raises `BodyTooLarge`."""
    form: FormData | None = getattr(request.state, "form", None)
    if form is None:
        length = request.headers.get("content-length", "")
        if not length.isdigit() or int(length) > MAX_FORM:
            raise BodyTooLarge("This form is too large.")
        form = request.state.form = await request.form(max_files=0, max_fields=20)
    return form


def decision_of(form: FormData) -> Decision:
    """Read a verdict. Raises `Invalid`.

    An empty correction is none: nobody knows what it should have been.
    """
    verdict = str(form.get("verdict", ""))
    if verdict not in _VERDICTS:
        raise Invalid("Choose one of the verdicts.", param="verdict")
    # Browsers send line ends as CR LF.
    correction = str(form.get("correction", "")).replace("\r\n", "\n")
    if len(correction) > MAX_CORRECTION or "\0" in correction:
        raise Invalid(f"A correction is text of {MAX_CORRECTION} characters at most.")
    given = {name: str(form.get(name, "")) for name in SCORES}
    scores = {name: float(value) for name, value in given.items() if value in ("0", "0.5", "1")}
    kept = correction if verdict == "wrong" and correction.strip() else None
    return Decision(cast("Verdict", verdict), kept, scores or None)


def filters_of(request: Request) -> dict[str, str]:
    """Read which items are wanted; what makes no sense is left out."""
    asked = request.query_params
    found = {"status": asked["status"] if asked.get("status") in STATES else "open"}
    if asked.get("reason") in REASONS:
        found["reason"] = asked["reason"]
    if is_name(asked.get("alias", "")):
        found["alias"] = asked["alias"]
    return found
