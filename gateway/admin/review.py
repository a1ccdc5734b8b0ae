"""Review: the queue of answers that someone should look at, and what reviewers say of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from anyio import from_thread
from fastapi import APIRouter, Depends, Path, Query

from feedback.corrections import scrubbed_decision
from feedback.review import Item, ReviewDesk
from gateway.admin.access import REVIEWERS, Backstage, actor_of, backstage, check_sees, needs
from gateway.admin.review_schemas import DecisionRequest, ReviewItemOut, ReviewList
from gateway.admin.schemas import MAX_INT, ErrorBody, paged
from gateway.registry.names import PATTERN
from gateway.registry.snapshot import Key

Reviewer = Annotated[Key, Depends(needs(*REVIEWERS))]
ItemId = Annotated[int, Path(ge=1, le=MAX_INT)]


def _desk(behind: Annotated[Backstage, Depends(backstage)]) -> ReviewDesk:
    return ReviewDesk(behind.database)


Desk = Annotated[ReviewDesk, Depends(_desk)]


def create_router() -> APIRouter:
    """Make the routes under `/review`."""
    router = APIRouter(prefix="/review", tags=["review"])
    refused: dict[int | str, dict[str, Any]] = {
        404: {"model": ErrorBody},
        409: {"model": ErrorBody},
    }
    router.add_api_route("", queue, methods=["GET"])
    router.add_api_route("/{item_id}", get_item, methods=["GET"], responses=refused)
    for path, endpoint in (
        ("/{item_id}/claim", claim),
        ("/{item_id}", decide),
        ("/{item_id}/undo", undo),
    ):
        router.add_api_route(path, endpoint, methods=["POST"], responses=refused)
    return router


def queue(
    key: Reviewer,
    desk: Desk,
    alias: Annotated[str | None, Query(pattern=rf"^{PATTERN}$")] = None,
    reason: Literal["flagged", "guarded", "doubtful", "audit"] | None = None,
    status: Literal["open", "claimed", "done", "all"] = "open",
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    after: Annotated[int | None, Query(ge=1, le=MAX_INT)] = None,
) -> ReviewList:
    """List review items, the most pressing first; the next page begins `after` the last id."""
    wanted = {"alias": alias, "reason": reason, "status": status if status != "all" else None}
    filters = {name: value for name, value in wanted.items() if value is not None}
    found = desk.queue(key.tenant, filters, aliases=key.aliases, after=after, limit=limit + 1)
    return ReviewList(**paged([ReviewItemOut.of(item) for item in found], limit))


def get_item(item_id: ItemId, key: Reviewer, desk: Desk) -> ReviewItemOut:
    """Give a review item with its conversation and all that was said of it."""
    return ReviewItemOut.of(_seen(desk.get(key.tenant, item_id), key))


def claim(item_id: ItemId, key: Reviewer, desk: Desk) -> ReviewItemOut:
    """Take an item for ten minutes, so that nobody else works on it; again renews."""
    _seen(desk.get(key.tenant, item_id), key)
    return ReviewItemOut.of(desk.claim(key.tenant, item_id, actor_of(key)))


def decide(
    item_id: ItemId,
    body: DecisionRequest,
    key: Reviewer,
    behind: Annotated[Backstage, Depends(backstage)],
    desk: Desk,
) -> ReviewItemOut:
    """Say what an answer is: correct, wrong (with what it should have been), unsafe; or skip it.

    Personal data that a correction brings in is replaced as in answers.
    """
    item = _seen(desk.get(key.tenant, item_id), key)
    decision = from_thread.run(scrubbed_decision, behind.scrubber, item, body.decision())
    return ReviewItemOut.of(desk.decide(key.tenant, item_id, actor_of(key), decision))


def undo(item_id: ItemId, key: Reviewer, desk: Desk) -> ReviewItemOut:
    """Take one's own verdict back."""
    _seen(desk.get(key.tenant, item_id), key)
    return ReviewItemOut.of(desk.undo(key.tenant, item_id, actor_of(key)))


def _seen(item: Item, key: Key) -> Item:
    check_sees(key, item.row["alias"])
    return item
