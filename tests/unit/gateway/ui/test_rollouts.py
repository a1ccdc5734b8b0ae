"""The page of rollouts: figures of both versions, how they went, and the record."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gateway.registry.snapshot import Version, VersionState
from gateway.rollout.shadow import shadowed
from gateway.settings import RolloutSettings
from tests.unit.gateway.registry.adapter_files import write_adapter
from tests.unit.gateway.rollout.pairs import put_pairs

from .conftest import House, Visitor


def roll_out(house: House, folder: Path, share: float = 0.3) -> tuple[Version, Version]:
    """Let the base answer for `support`, and begin a rollout of its version 1."""
    registry = house.registry
    base = registry.promote("default", "support", 0).stable
    version = registry.register("default", "support", write_adapter(folder / "adapter"))
    version = registry.set_state(version.id, VersionState.CANDIDATE)
    plan = {"driven": True, "steps": [0.1, 0.5], "answers": 25, "evidence": "test"}
    registry.set_rollout("default", "support", 1, share, "ann", {**plan, "since": 1.0})
    house.refresh()
    assert base is not None
    return base, version


def answer(house: House, base: Version, version: Version, people: int = 80) -> None:
    """Users of both versions; one in two of the candidate's is not content."""
    for number in range(people):
        when = 1.8e9 + 60 * number
        house.item(number, version_id=base.id, started=when, duration=1.0)
        house.item(number + 1000, version_id=version.id, started=when, duration=1.2)
        if number % 2:
            house.said(number + 1000)


async def test_both_versions_stand_side_by_side(house: House, ann: Visitor, tmp_path: Path) -> None:
    answer(house, *roll_out(house, tmp_path))
    page = await ann.get("/ui/rollouts")
    assert "support@1 gets 30% of the callers, base@0 the rest" in page
    assert "80 answers of the candidate, 80 of the stable version" in page
    flags = page[page.index("<th>flags</th>") :].split("</tr>")[0]
    assert "<td>50.00%</td><td>0.00%</td><td>+50.00%</td>" in flags
    assert '<td class="state worse">worse</td>' in flags
    assert '<td class="state fine">no worse</td>' in page[page.index("<th>errors</th>") :]
    assert page.count("<polyline") == 4
    assert "version 1 gets 30% of the callers" in page
    assert "version 0 is promoted" in page


async def test_a_rollout_without_answers_has_a_page(
    house: House, ann: Visitor, tmp_path: Path
) -> None:
    roll_out(house, tmp_path)
    page = await ann.get("/ui/rollouts")
    assert page.count("too few users yet") == 4
    assert page.count('points=""') == 4


async def test_keys_see_their_own_aliases(
    house: House, visit: Callable[[], Visitor], tmp_path: Path
) -> None:
    roll_out(house, tmp_path)
    for options in ({"aliases": ["other"]}, {"tenant": "another"}):
        visitor = visit()
        await visitor.sign_in(house.key(**options))
        assert "support@1" not in await visitor.get("/ui/rollouts")
    assert (await visit().http.get("/ui/rollouts")).headers["location"].startswith("/ui/sign-in")


async def test_a_shadow_shows_its_pairs(house: House, ann: Visitor, tmp_path: Path) -> None:
    base, version = roll_out(house, tmp_path)
    plan = shadowed(RolloutSettings().plan(), RolloutSettings(), {"share": 0.25, "answers": 90})
    house.registry.set_rollout("default", "support", 1, 0.0, "ann", plan, shadow=0.25)
    house.refresh()
    page = await ann.get("/ui/rollouts")
    assert "0 of 90 calls were put to both versions." in page
    assert page.count("too few users yet") == 3
    put_pairs(house.engine, version.id, base.id, 40)
    put_pairs(house.engine, version.id, base.id, 40, candidate_failed=True, same_text=None)
    page = await ann.get("/ui/rollouts")
    assert "support@1 gets copies of 25% of the calls; all answers are base@0&#39;s" in page or (
        "support@1 gets copies of 25% of the calls; all answers are base@0's" in page
    )
    assert "80 of 90 calls were put to both versions." in page
    assert "50% of the answers have the same text." in page
    assert "candidate less stable: +0.250" in page
    errors = page[page.index("<th>errors</th>") :].split("</tr>")[0]
    assert "<td>50.00%</td><td>0.00%</td><td>+50.00%</td>" in errors
    assert '<td class="state worse">worse</td>' in errors
    assert page.count("<polyline") == 4
    assert "version 1 gets copies of 25% of the calls, unshown" in page
