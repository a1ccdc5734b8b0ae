from __future__ import annotations

import pytest
from pydantic import ValidationError

from trainer.recipe import Recipe
from trainer.settings import TrainerSettings


@pytest.mark.parametrize(
    ("rows", "epochs"), [(20, 6.0), (500, 6.0), (501, 4.0), (1000, 4.0), (5000, 2.0), (90_000, 1.0)]
)
def test_few_rows_are_seen_more_often(rows: int, epochs: float) -> None:
    assert Recipe().for_rows(rows).epochs == epochs


def test_what_a_person_sets_stays() -> None:
    assert Recipe(epochs=1.5).for_rows(20).epochs == 1.5


def test_an_alias_may_have_its_own() -> None:
    settings = TrainerSettings(recipes={"legal": Recipe(rank=64)})
    assert (settings.recipe_for("legal").rank, settings.recipe_for("support").rank) == (64, 16)


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"learning_rate": 0}, {"epochs": -1}, {"lora": 1}])
def test_nonsense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Recipe(**wrong)
