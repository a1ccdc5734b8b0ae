"""What an alias brings along to each call: defaults, a system prompt, who answers instead."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import Field, model_validator

from feedback.data.rows import MAX_TEXT
from gateway.admin.access import (
    ADMINS,
    READERS,
    Backstage,
    actor_of,
    backstage,
    check_sees,
    needs,
    publish,
)
from gateway.admin.data_schemas import FullText
from gateway.admin.schemas import MAX_INT, Asked, ErrorBody
from gateway.errors import InvalidRequest
from gateway.registry.serving_options import MAX_FALLBACK
from gateway.registry.snapshot import AliasOptions, Key
from gateway.settings import LogprobsShare

Reader = Annotated[Key, Depends(needs(*READERS))]
Admin = Annotated[Key, Depends(needs(*ADMINS))]
Behind = Annotated[Backstage, Depends(backstage)]

_Stop = Annotated[str, Field(min_length=1, max_length=200)]


class OptionsBody(Asked):
    """What an alias brings along; null leaves it to the client and the worker.

    A field that the client sends wins. The system prompt is put before a conversation that has
    none of its own.
    """

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    max_tokens: int | None = Field(None, ge=1, le=MAX_INT)
    stop: _Stop | Annotated[list[_Stop], Field(min_length=1, max_length=16)] | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    top_k: int | None = Field(None, ge=-1, le=MAX_INT)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    min_tokens: int | None = Field(None, ge=0, le=MAX_INT)
    ignore_eos: bool | None = None
    system_prompt: FullText | None = Field(None, description=f"at most {MAX_TEXT} characters")
    logprobs: LogprobsShare | None = Field(
        None, description="share of the calls whose confidence is measured; `all`, `off`"
    )
    fallback: list[Annotated[str, Field(min_length=1, max_length=80)]] = Field(
        [],
        max_length=MAX_FALLBACK,
        description="who answers where no worker can serve the alias's own version, in this order:"
        " `support@3`, `base`, another alias",
    )

    @model_validator(mode="after")
    def _fits(self) -> OptionsBody:
        if self.max_tokens is not None and (self.min_tokens or 0) > self.max_tokens:
            raise ValueError("min_tokens is more than max_tokens")
        return self

    @property
    def options(self) -> AliasOptions:
        """The same as a value."""
        return AliasOptions.of(self.model_dump())


def create_router() -> APIRouter:
    """Make the routes `/adapters/{alias}/options`."""
    router = APIRouter(prefix="/adapters", tags=["adapters"])
    refused: dict[int | str, dict[str, Any]] = {
        404: {"model": ErrorBody},
        409: {"model": ErrorBody},
    }
    path = "/{alias}/options"
    router.add_api_route(path, get_options, methods=["GET"], responses=refused)
    router.add_api_route(path, put_options, methods=["PUT"], responses=refused)
    return router


def get_options(alias: str, key: Reader, behind: Behind) -> OptionsBody:
    """Tell what an alias brings along."""
    check_sees(key, alias)
    return OptionsBody(**behind.registry.alias(key.tenant, alias).options.given)


def put_options(alias: str, body: OptionsBody, key: Admin, behind: Behind) -> OptionsBody:
    """Replace all that an alias brings along; what is left out is unset."""
    check_sees(key, alias)
    most = behind.settings.limits.max_tokens
    for name in ("max_tokens", "min_tokens"):
        if (getattr(body, name) or 0) > most:
            raise InvalidRequest(f"'{name}' may be at most {most} here.", param=name)
    kept = behind.registry.set_options(key.tenant, alias, body.options, actor_of(key))
    publish(behind)
    return OptionsBody(**kept.given)
