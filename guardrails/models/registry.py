"""Which class stands behind a guard's name."""

from __future__ import annotations

from pathlib import Path

from guardrails.models.base import Model
from guardrails.settings import GuardSettings


def load_models(settings: GuardSettings) -> dict[str, Model]:
    """Load the models that the settings ask for, by the name of their guard.

    Imports happen here, so that a process pays only for what it runs. Raises `GuardError` where a
    file is missing.
    """
    models: list[Model] = [_toxicity(settings)]
    if settings.personal_data:
        from guardrails.models.personal_data import PersonalData

        models.append(PersonalData())
    if settings.names:
        from guardrails.models.names import Names

        models.append(Names())
    return {model.name: model for model in models}


def _toxicity(settings: GuardSettings) -> Model:
    kind, _, checkpoint = settings.toxicity.partition(":")
    if kind == "detoxify":
        from guardrails.models.detoxify import Detoxify

        return Detoxify(Path(checkpoint), settings.detoxify_config)
    from guardrails.models.toxicity import WordToxicity

    return WordToxicity()
