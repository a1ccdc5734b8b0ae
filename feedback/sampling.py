"""Which answers reviewers see unasked: the doubtful ones, and a uniform random audit.

The owner gives a budget of items a day. A fifth of it is kept for the audit, whose draws do not
look at the confidence, so that the rate of missed errors can be told; the rest goes to the answers
that the model was least sure of, by a rolling quantile that fills it. Pure: a state and an answer
go in, a state and a decision come out.
"""

from __future__ import annotations

import msgspec

AUDIT_SHARE = 0.2
_WINDOW = 250
"""Latest scores of a version that the quantile is taken of."""
_VERSIONS = 4
"""Versions whose scores are remembered, the latest to answer."""
_HOUR = 3600.0
_HOURS = 25
"""Buckets that cover any span of 24 hours, whatever minute it begins at."""
_DAY = 24 * _HOUR
_FIRST_DAY = 5
"""Answers per item of the budget that are expected while no whole day has been seen."""


class Bucket(msgspec.Struct, frozen=True, array_like=True):
    """What came and what was chosen in one hour since the epoch."""

    hour: int
    seen: int = 0
    doubtful: int = 0
    audit: int = 0


class Window(msgspec.Struct, frozen=True, array_like=True):
    """The latest scores of one version: another version's cannot be compared with them."""

    version: int
    scores: tuple[float, ...] = ()


class SamplingState(msgspec.Struct, frozen=True):
    """What the choice remembers of one alias: its first answer, latest scores and hours."""

    since: float
    windows: tuple[Window, ...] = ()
    hours: tuple[Bucket, ...] = ()


class Drawn(msgspec.Struct, frozen=True):
    """What was decided for an answer.

    `audit_probability` is that of the audit's draw and `doubt_probability` that of being taken as
    doubtful, as they were at that moment.
    """

    audit: bool
    doubtful: bool
    audit_probability: float
    doubt_probability: float


def draw(
    state: SamplingState | None,
    now: float,
    version: int,
    score: float | None,
    budget: int,
    chances: tuple[float, float],
) -> tuple[SamplingState, Drawn]:
    """Decide for one answer.

    `now` is the time in seconds, `version` the one that answered, `score` the answer's mean logprob
    (None where there is none: such an answer can only be audited), `budget` the items a day,
    `chances` two uniform numbers of 0..1 (audit, doubt). In no span of 24 hours are more than
    `budget` answers chosen.
    """
    state = state or SamplingState(now)
    hours = _recent(state.hours, now)
    seen = sum(bucket.seen for bucket in hours) + 1
    doubtful = sum(bucket.doubtful for bucket in hours)
    audited = sum(bucket.audit for bucket in hours)
    is_first_day = now - state.since < _DAY
    expected = max(seen, _FIRST_DAY * budget if is_first_day else 1)

    for_audit = AUDIT_SHARE * budget
    open_ = doubtful + audited < budget
    # Nobody knows on the first day how much will come: what is left is spread over as much again.
    left = max(0.0, for_audit - audited) if is_first_day else for_audit
    audit_p = min(1.0, left / max(expected, 1)) if open_ else 0.0
    audit = chances[0] < audit_p

    # What the audit has not used of its part stays its own.
    room = budget - doubtful - max(float(audited + audit), for_audit)
    left = room if is_first_day else budget - for_audit
    share = left / max(expected, 1) if room >= 1 else 0.0
    scores = next((one.scores for one in state.windows if one.version == version), ())
    doubt_p = 0.0 if score is None else _lowest(score, scores, share)
    is_doubtful = chances[1] < doubt_p

    # An answer that is both takes one place.
    new_doubt = is_doubtful and not audit
    present = hours[-1]
    last = Bucket(
        present.hour, present.seen + 1, present.doubtful + new_doubt, present.audit + audit
    )
    windows = _with(state.windows, version, scores if score is None else (*scores, score))
    after = SamplingState(state.since, windows, (*hours[:-1], last))
    return after, Drawn(audit, is_doubtful, audit_p, doubt_p)


class Use(msgspec.Struct, frozen=True):
    """How the budget was used in the last 24 hours, or the hour around their beginning too.

    Below `threshold` (a mean logprob), an answer of the version that answered last is taken as
    doubtful; None where there is no room, or no score yet.
    """

    budget: int
    seen: int
    doubtful: int
    audited: int
    threshold: float | None


def use_of(state: SamplingState | None, now: float, budget: int) -> Use:
    """Tell how the budget, in items a day, is used, and where doubt begins by now."""
    state = state or SamplingState(now)
    hours = _recent(state.hours, now)
    seen = sum(bucket.seen for bucket in hours)
    doubtful = sum(bucket.doubtful for bucket in hours)
    audited = sum(bucket.audit for bucket in hours)
    is_first_day = now - state.since < _DAY
    expected = max(seen, _FIRST_DAY * budget if is_first_day else 1)
    room = budget - doubtful - max(float(audited), AUDIT_SHARE * budget)
    share = (room if is_first_day else budget * (1 - AUDIT_SHARE)) / max(expected, 1)
    scores = sorted(state.windows[-1].scores) if state.windows else []
    threshold = None
    if scores and room >= 1:
        threshold = scores[min(len(scores) - 1, int(min(1.0, share) * len(scores)))]
    return Use(budget, seen, doubtful, audited, threshold)


def _with(
    windows: tuple[Window, ...], version: int, scores: tuple[float, ...]
) -> tuple[Window, ...]:
    """Give the windows with a version's latest scores; its window comes last."""
    others = (window for window in windows if window.version != version)
    return (*others, Window(version, scores[-_WINDOW:]))[-_VERSIONS:]


def _recent(hours: tuple[Bucket, ...], now: float) -> tuple[Bucket, ...]:
    """Give the buckets that still count; the last one is the present hour's."""
    # A clock that goes back must not open a second bucket for an hour.
    hour = max(int(now // _HOUR), hours[-1].hour if hours else 0)
    kept = tuple(bucket for bucket in hours if bucket.hour > hour - _HOURS)
    if not kept or kept[-1].hour != hour:
        kept = (*kept, Bucket(hour))
    return kept


def _lowest(score: float, scores: tuple[float, ...], share: float) -> float:
    """Give the probability with which a score belongs to the lowest `share` of the window.

    Ties at the border share what is left, so that equal scores do not all come in.
    """
    below = sum(map(score.__gt__, scores))
    equal = scores.count(score) + 1
    places = share * (len(scores) + 1)
    return min(1.0, max(0.0, (places - below) / equal))
