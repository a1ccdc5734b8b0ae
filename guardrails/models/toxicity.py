"""Toxicity by alt-profanity-check: a small linear model over words, with two corrections.

Weak but fast and at hand without a download; `guardrails.models.detoxify` is the strong choice.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from typing import Any

from guardrails.models.hostility import calmed, is_hostile
from guardrails.models.reading import readings, worst
from guardrails.types import Finding, Passage

_HOSTILE_SCORE = 0.97
"""What a threat's or insult's shape counts, where the classifier gives less."""


class WordToxicity:
    """Scores each passage with one finding, label `toxicity`."""

    name = "toxicity"

    def __init__(self) -> None:
        from profanity_check.profanity_check import model, vectorizer

        self._vectorizer = vectorizer
        # The public predict_prob costs 3 ms a call in checks; the same sum by hand costs 0.3.
        self._folds = [
            (fold.estimator, fold.calibrators[0]) for fold in model.calibrated_classifiers_
        ]
        package = importlib.metadata.version("alt-profanity-check")
        self.version = f"alt-profanity-check {package}+1"

    def run(self, passages: Sequence[Passage]) -> list[list[Finding]]:
        """Give one finding for each passage."""
        texts = [readings(passage) for passage in passages]
        flat = [text for each in texts for text in each]
        scores = worst(self.scores(flat), [len(each) for each in texts])
        return [
            [Finding(self.name, "toxicity", 0, len(passage.text), score)]
            for passage, score in zip(passages, scores, strict=True)
        ]

    def scores(self, texts: Sequence[str]) -> list[float]:
        """Give the toxicity of each text, 0 to 1."""
        raw = self.classifier_scores([calmed(text) for text in texts])
        return [
            max(score, _HOSTILE_SCORE) if is_hostile(text) else score
            for text, score in zip(texts, raw, strict=True)
        ]

    def classifier_scores(self, texts: Sequence[str]) -> list[float]:
        """Give the classifier's own probabilities, as `profanity_check.predict_prob` does."""
        features = self._vectorizer.transform(texts)
        total: Any = 0.0
        for estimator, calibrator in self._folds:
            margin = features @ estimator.coef_[0] + estimator.intercept_[0]
            total = total + calibrator.predict(margin)
        return [float(score) for score in total / len(self._folds)]
