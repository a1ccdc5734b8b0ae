"""The gate: may this candidate take the place of that version?

Both answered the same golden items, so each item is its own control. A slice that the refresh is
for must be shown to be better; every other must be shown to be at most its margin worse.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice, zip_longest

from trainer.errors import GateError
from trainer.evaluation import Answer, Evaluation
from trainer.gate.policy import GatePolicy
from trainer.gate.reasons import Finding, explain
from trainer.gate.report import Compared, Example, GateReport, Role, SliceReport, Verdict, title
from trainer.gate.statistics import detectable, holm, mcnemar, paired_interval
from trainer.metrics import exact_match, f1


@dataclass(frozen=True, slots=True)
class _Pair:
    """Both answers to one item, and how right they are: before and after."""

    before: Answer
    after: Answer
    exact: tuple[bool, bool]
    f1: tuple[float, float]


def judge(
    candidate: Evaluation, against: Evaluation, policy: GatePolicy, target: frozenset[str]
) -> GateReport:
    """Compare a candidate with another version on the golden set that both answered.

    `target` names the slices that the refresh is for, unless the policy names them. PASS only where
    every slice passes and one had to be better. Raises `GateError` where the two evaluations are
    not of the same items.
    """
    slices = _pairs(candidate, against)
    named = frozenset(policy.superiority) or target
    findings = _findings(slices, named, policy)
    reports = tuple(_report(finding) for finding in findings)
    verdict = _overall(reports)
    return GateReport(
        candidate=candidate.version,
        against=against.version,
        verdict=verdict,
        golden_digest=candidate.golden_digest,
        slices=reports,
        reasons=_reasons(verdict, reports, named),
        fixed=_changed(slices, policy.examples, (False, True)),
        broken=_changed(slices, policy.examples, (True, False)),
        policy=policy.model_dump(mode="json"),
    )


def _pairs(candidate: Evaluation, against: Evaluation) -> dict[str, list[_Pair]]:
    """Pair the answers by item; slices by name, items by id, whatever their order was."""
    if candidate.golden_digest != against.golden_digest:
        raise GateError(
            f"{candidate.version} and {against.version} answered different golden sets: "
            f"{candidate.golden_digest[:12]} and {against.golden_digest[:12]}"
        )
    after, before = _by_item(candidate), _by_item(against)
    if odd := sorted(after.keys() ^ before.keys()):
        raise GateError(
            f"{len(odd)} items are answered by only one of {candidate.version} and "
            f"{against.version}, such as {odd[0]!r}"
        )
    slices: dict[str, list[_Pair]] = defaultdict(list)
    for item in sorted(after):
        pair = _pair(before[item], after[item])
        slices[pair.after.slice].append(pair)
    return dict(sorted(slices.items()))


def _by_item(evaluation: Evaluation) -> dict[str, Answer]:
    counts = Counter(answer.item_id for answer in evaluation.answers)
    if not counts:
        raise GateError(f"{evaluation.version} answered no golden item")
    item, times = counts.most_common(1)[0]
    if times > 1:
        raise GateError(f"{evaluation.version} answered item {item!r} {times} times")
    return {answer.item_id: answer for answer in evaluation.answers}


def _pair(before: Answer, after: Answer) -> _Pair:
    if (before.slice, before.expected) != (after.slice, after.expected):
        raise GateError(f"item {after.item_id!r} is not the same item in both evaluations")
    expected = after.expected
    return _Pair(
        before,
        after,
        (exact_match(before.said, expected), exact_match(after.said, expected)),
        (f1(before.said, expected), f1(after.said, expected)),
    )


def _findings(
    slices: Mapping[str, Sequence[_Pair]], named: Collection[str], policy: GatePolicy
) -> list[Finding]:
    """Test every slice; Holm's correction is over those that must be better."""
    tested = [name for name in slices if name in named]
    changes = {name: Counter(pair.exact for pair in pairs) for name, pairs in slices.items()}
    p = {name: mcnemar(each[False, True], each[True, False]) for name, each in changes.items()}
    adjusted = dict(zip(tested, holm([p[name] for name in tested]), strict=True))
    return [
        Finding(
            name=name,
            n=len(pairs),
            fixed=changes[name][False, True],
            broken=changes[name][True, False],
            exact_match=_compared([pair.exact for pair in pairs], policy),
            f1=_compared([pair.f1 for pair in pairs], policy),
            p=p[name],
            p_adjusted=adjusted.get(name),
            role=Role.SUPERIORITY if name in adjusted else Role.NON_INFERIORITY,
            margin=None if name in adjusted else policy.margin_of(name),
            detectable=detectable(
                changes[name][False, True] + changes[name][True, False],
                len(pairs),
                # Holm's first step: what the strictest of the tests could see.
                alpha=policy.alpha / (len(tested) if name in adjusted else 1),
            ),
            policy=policy,
        )
        for name, pairs in slices.items()
    ]


def _compared(scores: Sequence[tuple[float, float]], policy: GatePolicy) -> Compared:
    differences = [after - before for before, after in scores]
    interval = paired_interval(
        differences, level=policy.level, resamples=policy.resamples, seed=policy.seed
    )
    n = len(scores)
    return Compared(
        candidate=sum(after for _, after in scores) / n,
        against=sum(before for before, _ in scores) / n,
        difference=sum(differences) / n,
        low=interval.low,
        high=interval.high,
    )


def _report(finding: Finding) -> SliceReport:
    verdict = decide(finding)
    return SliceReport(
        name=finding.name,
        n=finding.n,
        fixed=finding.fixed,
        broken=finding.broken,
        exact_match=finding.exact_match,
        f1=finding.f1,
        p=finding.p,
        p_adjusted=finding.p_adjusted,
        role=finding.role,
        margin=finding.margin,
        detectable=finding.detectable,
        verdict=verdict,
        reason=explain(finding, verdict),
    )


def decide(finding: Finding) -> Verdict:
    """Give a slice's verdict: FAIL where harm is shown, PASS where what it must show is shown."""
    if finding.harmed or finding.f1_harmed:
        return Verdict.FAIL
    if finding.enough and finding.shown and finding.f1_shown:
        return Verdict.PASS
    return Verdict.INCONCLUSIVE


def _overall(slices: Sequence[SliceReport]) -> Verdict:
    verdicts = {each.verdict for each in slices}
    if Verdict.FAIL in verdicts:
        return Verdict.FAIL
    better = any(each.role is Role.SUPERIORITY for each in slices)
    return Verdict.PASS if verdicts == {Verdict.PASS} and better else Verdict.INCONCLUSIVE


def _reasons(
    verdict: Verdict, slices: Sequence[SliceReport], named: Collection[str]
) -> tuple[str, ...]:
    """Give the slices that decided, and what was asked for but is not in the golden set."""
    reasons = [f"{title(each.name)}: {each.reason}" for each in slices if each.verdict is verdict]
    present = {each.name for each in slices}
    reasons += [
        f"{title(name)}: the golden set has no item of this slice, so nothing is known of it."
        for name in sorted(set(named) - present)
    ]
    if not present & set(named):
        reasons.append("No slice of the golden set had to be better, so nothing could pass.")
    return tuple(reasons)


def _changed(
    slices: Mapping[str, Sequence[_Pair]], count: int, kind: tuple[bool, bool]
) -> tuple[Example, ...]:
    """Give examples of one kind of change, from all slices in turn."""
    columns = [[pair for pair in pairs if pair.exact == kind] for pairs in slices.values()]
    turns = chain.from_iterable(zip_longest(*columns))
    pairs = islice((pair for pair in turns if pair is not None), count)
    return tuple(
        Example(
            item_id=pair.after.item_id,
            slice=pair.after.slice,
            prompt=pair.after.prompt,
            expected=pair.after.expected,
            before=pair.before.said,
            after=pair.after.said,
        )
        for pair in pairs
    )
