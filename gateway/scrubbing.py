"""Finds personal data for the feedback store by asking the guard process."""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence

from feedback.errors import FinderAway
from feedback.scrub import PERSON, Scrubber, Span
from feedback.sealing import Seal
from guardrails.client import JudgeClient
from guardrails.errors import GuardUnavailable
from guardrails.policy_book import PolicyBook
from guardrails.types import Finding, Judge, Passage

_PIECE = 8000
"""Characters judged at once, so that a long text does not keep the guards from answers."""
_OVERLAP = 128
_PASSAGES = 32
_REMEMBERED = 512
_THRESHOLD = 0.4
_LABELS = frozenset({"EMAIL_ADDRESS", "PHONE_NUMBER", "CREDIT_CARD", "IBAN_CODE", "US_SSN", PERSON})
# What a language model takes for people now and then: codes, names with digits, acronyms.
_NO_PERSON = re.compile(r"[\d_@/]|\A[A-Z]{2,}\Z")


def make_seal(secret: bytes) -> Seal:
    """Make what encrypts waiting records; `secret` is the installation's."""
    return Seal(_key(secret, b"outbox"))


def make_scrubber(secret: bytes, judge: JudgeClient, policies: PolicyBook) -> Scrubber:
    """Make what takes personal data out of records; the same secret gives the same surrogates."""
    finder = GuardFinder(judge, judge.versions, policies)
    return Scrubber(finder, _key(secret, b"surrogates"))


def _key(secret: bytes, purpose: bytes) -> bytes:
    return hashlib.blake2b(secret, person=purpose, digest_size=32).digest()


class GuardFinder:
    """Asks the guards `personal_data` and, where it is loaded, `names`.

    What the alias's policy exempts from either guard, such as order numbers, is not found. System
    prompts and conversations come again with every call, so the latest texts are remembered.
    """

    def __init__(self, judge: Judge, versions: Mapping[str, str], policies: PolicyBook) -> None:
        """`versions` are the versions of the guards that are loaded, and may change."""
        self._judge = judge
        self._versions = versions
        self._policies = policies
        self._known: OrderedDict[str, tuple[Span, ...]] = OrderedDict()

    @property
    def version(self) -> str:
        """The guards that look, with their versions."""
        return ", ".join(f"{name} {self._versions.get(name, '?')}" for name in self._guards)

    @property
    def _guards(self) -> tuple[str, ...]:
        names = ("names",) if "names" in self._versions else ()
        return ("personal_data", *names)

    async def find(self, texts: Sequence[str], alias: str) -> list[list[Span]]:
        """Give the personal data in each text. Raises `FinderAway`."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        found = dict(zip(new, await self._ask(new), strict=True))
        exempt = self._exempt(alias)
        spans = []
        for text in texts:
            all_of_it = found[text] if text in found else self._known[text]
            spans.append(list(_not_exempt(text, all_of_it, exempt)))
        self._remember(found)
        return spans

    async def _ask(self, texts: Sequence[str]) -> list[tuple[Span, ...]]:
        if texts and not self._versions:
            # Which guards there are is told with the connection, which comes with the first asking.
            await self._judged(("personal_data",), [Passage("")])
        pieces = [
            (at, start) for at, text in enumerate(texts) for start in range(0, len(text), _PIECE)
        ]
        found: list[list[Span]] = [[] for _ in texts]
        for first in range(0, len(pieces), _PASSAGES):
            some = pieces[first : first + _PASSAGES]
            passages = [
                Passage(
                    texts[at][start : start + _PIECE], texts[at][max(0, start - _OVERLAP) : start]
                )
                for at, start in some
            ]
            judged = await self._judged(self._guards, passages)
            for (at, start), findings in zip(some, judged, strict=True):
                found[at] += _spans(texts[at], start, findings)
        return [tuple(spans) for spans in found]

    async def _judged(
        self, guards: Sequence[str], passages: Sequence[Passage]
    ) -> Sequence[Sequence[Finding]]:
        try:
            return await self._judge.judge(guards, passages)
        except GuardUnavailable as error:
            raise FinderAway from error

    def _exempt(self, alias: str) -> tuple[re.Pattern[str], ...]:
        rules = self._policies.policy_for(alias).guards
        return tuple(
            re.compile(pattern)
            for rule in rules
            if rule.guard in ("personal_data", "names")
            for pattern in rule.exempt
        )

    def _remember(self, found: dict[str, tuple[Span, ...]]) -> None:
        for text, spans in found.items():
            if len(text) <= _PIECE:
                self._known[text] = spans
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)


def _spans(text: str, start: int, findings: Iterable[Finding]) -> Iterable[Span]:
    for finding in findings:
        if finding.label not in _LABELS or finding.score < _THRESHOLD:
            continue
        span = Span(finding.label, start + finding.start, start + finding.end)
        if span.label == PERSON and _NO_PERSON.search(text[span.start : span.end]):
            continue
        yield span


def _not_exempt(
    text: str, spans: Iterable[Span], exempt: Sequence[re.Pattern[str]]
) -> Iterable[Span]:
    free = [match.span() for pattern in exempt for match in pattern.finditer(text)]
    for span in spans:
        if not any(start <= span.start and span.end <= end for start, end in free):
            yield span
