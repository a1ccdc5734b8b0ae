"""The gate: whether a candidate may ship, by paired comparison on the golden set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from trainer.calibration import calibrate
from trainer.errors import GateError
from trainer.evaluation import Answer, Evaluation
from trainer.gate.policy import GatePolicy
from trainer.gate.report import Change, GateReport, Mean, Role, SliceResult, Verdict
from trainer.gate.statistics import detectable, holm, mcnemar, paired_interval
from trainer.metrics import exact_match, f1


@dataclass(frozen=True, slots=True)
class _Pair:
    """Both answers to one item, and whether each is right."""

    new: Answer
    old: Answer
    new_right: bool
    old_right: bool


@dataclass(frozen=True, slots=True)
class _Compared:
    """A slice before the p-values of all slices are adjusted."""

    name: str
    pairs: Sequence[_Pair]
    role: Role
    p: float


def judge(
    candidate: Evaluation, against: Evaluation, policy: GatePolicy, target: frozenset[str]
) -> GateReport:
    """Compare two evaluations of the same golden items, slice by slice.

    Slices that the refresh aims at (`target`, unless the policy names them) must get better: the
    lower bound of the difference above 0, and McNemar's p, adjusted by Holm, below alpha. All
    others must not get worse by the margin: the lower bound above its negative. Raises
    `GateError`.
    """
    pairs = _paired(candidate, against)
    compared = []
    for name, own in sorted(pairs.items()):
        role: Role = "superiority" if policy.must_improve(name, target) else "non-inferiority"
        gains, losses = _discordant(own)
        compared.append(_Compared(name, own, role, mcnemar(gains, losses)))
    tested = [one for one in compared if one.role == "superiority"]
    adjusted = dict(zip((o.name for o in tested), holm([o.p for o in tested]), strict=True))
    slices = {one.name: _slice(one, adjusted.get(one.name), policy) for one in compared}
    verdict, reasons = _overall(slices, bool(tested))
    fitted = (("candidate", calibrate(candidate)), ("against", calibrate(against)))
    every = [pair for own in pairs.values() for pair in own]
    return GateReport(
        candidate=candidate.version,
        against=against.version,
        golden_digest=candidate.golden_digest,
        verdict=verdict,
        slices=slices,
        reasons=reasons,
        fixed=_changes(every, policy.examples, to_right=True),
        broken=_changes(every, policy.examples, to_right=False),
        policy=policy.model_dump(),
        calibration={name: found for name, found in fitted if found is not None},
    )


def _paired(candidate: Evaluation, against: Evaluation) -> dict[str, list[_Pair]]:
    if candidate.golden_digest != against.golden_digest:
        raise GateError(
            f"{candidate.version} and {against.version} were measured on different golden sets;"
            " evaluate both on the present one"
        )
    old = {answer.item_id: answer for answer in against.answers}
    new = {answer.item_id: answer for answer in candidate.answers}
    if old.keys() != new.keys():
        missing = sorted(old.keys() ^ new.keys())[0]
        raise GateError(f"only one of both answered item {missing!r}; evaluate both again")
    if len(old) < len(against.answers) or len(new) < len(candidate.answers):
        raise GateError("an item is answered twice; evaluate both again")
    if not new:
        raise GateError("there are no answers to compare")
    pairs: dict[str, list[_Pair]] = defaultdict(list)
    for item_id in sorted(new):
        one, other = new[item_id], old[item_id]
        if (one.slice, one.expected) != (other.slice, other.expected):
            raise GateError(f"item {item_id!r} is not the same in both; evaluate both again")
        right = exact_match(one.said, one.expected), exact_match(other.said, other.expected)
        pairs[one.slice].append(_Pair(one, other, *right))
    return pairs


def _discordant(pairs: Sequence[_Pair]) -> tuple[int, int]:
    gains = sum(pair.new_right and not pair.old_right for pair in pairs)
    losses = sum(pair.old_right and not pair.new_right for pair in pairs)
    return gains, losses


def _slice(one: _Compared, p_adjusted: float | None, policy: GatePolicy) -> SliceResult:
    n, (gains, losses) = len(one.pairs), _discordant(one.pairs)
    level = {"level": 1 - policy.alpha, "resamples": policy.resamples, "seed": policy.seed}
    interval = paired_interval(
        [pair.new_right - pair.old_right for pair in one.pairs],
        **level,  # type: ignore[arg-type]
    )
    scores = [
        (f1(pair.new.said, pair.new.expected), f1(pair.old.said, pair.old.expected))
        for pair in one.pairs
    ]
    f1_interval = paired_interval([new - old for new, old in scores], **level)  # type: ignore[arg-type]
    result = SliceResult(
        name=one.name,
        n=n,
        candidate=sum(pair.new_right for pair in one.pairs) / n,
        against=sum(pair.old_right for pair in one.pairs) / n,
        difference=(gains - losses) / n,
        low=interval.low,
        high=interval.high,
        gains=gains,
        losses=losses,
        p=one.p,
        p_adjusted=p_adjusted,
        role=one.role,
        margin=policy.margin_of(one.name),
        detectable=detectable(gains + losses, n, alpha=policy.alpha),
        f1=Mean(
            candidate=sum(new for new, _ in scores) / n,
            against=sum(old for _, old in scores) / n,
            low=f1_interval.low,
            high=f1_interval.high,
        ),
    )
    return result.judged(*_verdict(result, policy))


def _verdict(found: SliceResult, policy: GatePolicy) -> tuple[Verdict, str]:
    told = (
        f"{found.name or 'all'}: {_points(found.difference)} points"
        f" ({_points(found.low)} to {_points(found.high)}, {found.n} items)"
    )
    if found.role == "superiority":
        verdict, reason = _better(found, policy, told)
    else:
        verdict, reason = _not_worse(found, told)
    # So few cannot show that all is well; that it is not, they can.
    if found.n < policy.minimum_items and verdict != "FAIL":
        return "INCONCLUSIVE", f"{told}: fewer than {policy.minimum_items} items show nothing"
    return verdict, reason


def _not_worse(found: SliceResult, told: str) -> tuple[Verdict, str]:
    margin = f"{100 * found.margin:.1f} points"
    if found.low > -found.margin:
        return "PASS", f"{told}: not worse by {margin}"
    if found.high < -found.margin:
        return "FAIL", f"{told}: worse by more than {margin}"
    return "INCONCLUSIVE", f"{told}: a loss of {margin} cannot be ruled out"


def _better(found: SliceResult, policy: GatePolicy, told: str) -> tuple[Verdict, str]:
    p = 1.0 if found.p_adjusted is None else found.p_adjusted
    if found.low > 0 and p < policy.alpha:
        return "PASS", f"{told}: better (p = {p:.2g})"
    if found.high < 0 or (p < policy.alpha and found.difference < 0):
        return "FAIL", f"{told}: worse (p = {p:.2g})"
    seen = (
        f"a difference of {100 * found.detectable:.1f} points would have shown"
        if found.detectable is not None
        else "so few items can show no difference"
    )
    return "INCONCLUSIVE", f"{told}: not shown to be better (p = {p:.2g}); {seen}"


def _overall(slices: dict[str, SliceResult], has_target: bool) -> tuple[Verdict, tuple[str, ...]]:
    verdicts = {result.verdict for result in slices.values()}
    reasons = [result.reason for result in slices.values() if result.verdict != "PASS"]
    if not has_target:
        reasons.append("no slice of the golden set is one that this refresh should make better")
    if "FAIL" in verdicts:
        return "FAIL", tuple(reasons)
    if reasons:
        return "INCONCLUSIVE", tuple(reasons)
    return "PASS", tuple(result.reason for result in slices.values())


def _changes(pairs: Sequence[_Pair], most: int, *, to_right: bool) -> tuple[Change, ...]:
    """Give changed items, of each slice in turn, so that none is crowded out."""
    by_slice: dict[str, list[_Pair]] = defaultdict(list)
    for pair in pairs:
        if pair.new_right != pair.old_right and pair.new_right == to_right:
            by_slice[pair.new.slice].append(pair)
    rounds = zip_longest(*by_slice.values())
    changed = [pair for one in rounds for pair in one if pair is not None]
    return tuple(
        Change(
            item_id=pair.new.item_id,
            slice=pair.new.slice,
            prompt=pair.new.prompt,
            expected=pair.new.expected,
            before=pair.old.said,
            after=pair.new.said,
        )
        for pair in changed[:most]
    )


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"
