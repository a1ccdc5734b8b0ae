"""Which texts are nearly the same: MinHash proposes, the exact similarity decides.

Two texts are nearly the same when the Jaccard similarity of their sets of shingles (three words in
a row) is at least 0.9. MinHash and banding after Broder, "On the resemblance and containment of
documents", 1997, and Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", chapter 3.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

THRESHOLD = 0.9
SHINGLE = 3
BANDS, ROWS = 16, 8
"""A pair at the threshold is not proposed once in 8,000 times; ever more rarely above it."""
PERMUTATIONS = BANDS * ROWS

_FEW = 16
"""So many texts are compared one by one: quicker than an index, and without the library."""
_FEWEST = 9
"""Of smaller sets, two that differ at all have less than the threshold in common."""
_PUNCTUATION = ".,;:!?¡¿…\"'`“”‘’„«»()[]{}。，、；：！？「」『』（）।"  # noqa: RUF001 - of many scripts
# Scripts that put no spaces between words: every character counts as one.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)


class Texts:
    """Texts that others are compared with."""

    def __init__(self) -> None:
        self._known: set[frozenset[str]] = set()
        self._sets: list[frozenset[str]] = []
        self._index: _Index | None = None

    def add(self, text: str) -> None:
        """Take in a text."""
        shingles = shingles_of(text)
        if shingles not in self._known:
            self._known.add(shingles)
            if len(shingles) >= _FEWEST:
                self._sets.append(shingles)

    def has_like(self, text: str) -> bool:
        """Whether a text is the same as one of these or nearly the same."""
        shingles = shingles_of(text)
        if shingles in self._known:
            return True
        if len(shingles) < _FEWEST:
            return False
        if len(self._sets) <= _FEW:
            return any(_alike(shingles, other) for other in self._sets)
        if self._index is None:
            self._index = _Index()
        places = self._index.proposed(shingles, self._sets)
        return any(_alike(shingles, self._sets[place]) for place in places)


class _Index:
    """Proposes which of many sets may be alike. Brings SciPy along, so it is made when needed."""

    def __init__(self) -> None:
        from datasketch import MinHash, MinHashLSH

        # Copies share its permutations, which take longer to make than a sketch.
        self._blank = MinHash(num_perm=PERMUTATIONS)
        self._bands = MinHashLSH(num_perm=PERMUTATIONS, params=(BANDS, ROWS))
        self._indexed = 0

    def proposed(self, shingles: frozenset[str], sets: Sequence[frozenset[str]]) -> list[int]:
        """Give places in `sets`, of which more may have come since the last time."""
        for place in range(self._indexed, len(sets)):
            self._bands.insert(place, self._sketch(sets[place]))
        self._indexed = len(sets)
        found: list[int] = self._bands.query(self._sketch(shingles))
        return found

    def _sketch(self, shingles: frozenset[str]) -> Any:
        sketch = self._blank.copy()
        sketch.update_batch([shingle.encode() for shingle in shingles])
        return sketch


def words(text: str) -> list[str]:
    """Give a text's words in small letters, without the punctuation around them."""
    composed = unicodedata.normalize("NFC", text).casefold()
    spaced = _UNSPACED.sub(r" \g<0> ", composed).split()
    return [word for each in spaced if (word := each.strip(_PUNCTUATION))] or spaced


def shingles_of(text: str) -> frozenset[str]:
    """Give the set of all three words in a row; a shorter text is one shingle."""
    found = words(text)
    last = max(1, len(found) - SHINGLE + 1)
    return frozenset(" ".join(found[at : at + SHINGLE]) for at in range(last))


def _alike(one: frozenset[str], other: frozenset[str]) -> bool:
    return len(one & other) >= THRESHOLD * len(one | other)
