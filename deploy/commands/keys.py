"""adapterloop keys: made straight in the store, so the first key needs no key."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from deploy.commands.context import configuration, fail

if TYPE_CHECKING:
    from gateway.registry.service import Registry
    from gateway.registry.snapshot import KeyLimits

_TENANT = click.option("--tenant", default="default", show_default=True, help="Whose keys.")
DAY_S = 86_400


def _limits(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that limit a key."""
    number = click.IntRange(min=1)
    for option in (
        click.option(
            "--budget-period",
            default="month",
            type=click.Choice(["day", "month"]),
            show_default=True,
            help="What the budget is for, in UTC.",
        ),
        click.option(
            "--priority",
            default="normal",
            type=click.Choice(["high", "normal", "low"]),
            show_default=True,
            help="Who goes first while all workers are full.",
        ),
        click.option("--max-parallel", type=number, help="Calls at once, in each gateway."),
        click.option("--token-budget", type=number, help="Tokens for each day or month."),
        click.option("--tokens-per-minute", type=number),
        click.option("--requests-per-minute", type=number),
    ):
        function = option(function)
    return function


@click.group("keys")
def command() -> None:
    """Create, limit, list, rotate and revoke API keys."""


@command.command("create")
@_TENANT
@click.option("--owner", default="", help="Who holds the key; shown in the list.")
@click.option(
    "--role",
    default="app",
    type=click.Choice(["app", "reviewer", "trainer", "admin"]),
    show_default=True,
)
@click.option("--alias", "aliases", multiple=True, help="Allow only this alias; may be repeated.")
@click.option("--days", type=click.FloatRange(min=0, min_open=True), help="Valid for so long.")
@click.option(
    "--evaluation", is_flag=True, help="For evaluation: not captured, in no usage, not limited."
)
@_limits
def create(
    tenant: str,
    owner: str,
    role: str,
    aliases: tuple[str, ...],
    days: float | None,
    evaluation: bool,
    **limits: Any,
) -> None:
    """Make a key and print it: it is shown this once."""
    from gateway.registry.snapshot import KeyLimits

    with _registry() as registry:
        secret, _ = registry.create_key(
            tenant=tenant,
            owner=owner,
            role=role,
            aliases=aliases or None,
            purpose="evaluation" if evaluation else "serve",
            expires_at=time.time() + days * DAY_S if days else None,
            limits=KeyLimits(**limits),
        )
    click.echo(secret)


@command.command("limit")
@_TENANT
@click.argument("key_id", type=int)
@_limits
def limit(tenant: str, key_id: int, **limits: Any) -> None:
    """Replace all limits of a key's account; what is left out is no limit any more.

    They hold for the key and for those that it was rotated with alike.
    """
    from gateway.registry.snapshot import KeyLimits

    with _registry() as registry:
        info = registry.limit_key(tenant, key_id, KeyLimits(**limits))
    click.echo(f"{info.prefix}…  {_limits_of(info.key.limits) or 'no limits'}")


@command.command("rotate")
@_TENANT
@click.argument("key_id", type=int)
@click.option(
    "--hours",
    default=1.0,
    type=click.FloatRange(min=0, max=90 * 24),
    show_default=True,
    help="For how long the old key stays valid.",
)
def rotate(tenant: str, key_id: int, hours: float) -> None:
    """Make a key that may do the same and print it; the old one expires."""
    with _registry() as registry:
        secret, _ = registry.rotate_key(tenant, key_id, hours * 3600)
    click.echo(secret)


@command.command("list")
@_TENANT
def list_(tenant: str) -> None:
    """List keys by their first characters; the rest is not kept."""
    with _registry() as registry:
        infos = registry.list_keys(tenant)
    for info in infos:
        key = info.key
        state = "revoked" if info.revoked_at else _until(key.expires_at)
        allowed = ",".join(sorted(key.aliases)) if key.aliases is not None else "all aliases"
        click.echo(
            f"{key.id:>4}  {info.prefix}…  {key.role:<8}  {state:<16}  {allowed}  {key.owner}"
            f"  {_limits_of(key.limits)}".rstrip()
        )


@command.command("revoke")
@_TENANT
@click.argument("key_id", type=int)
def revoke(tenant: str, key_id: int) -> None:
    """End a key for good; KEY_ID is the number in the list."""
    with _registry() as registry:
        info = registry.revoke_key(tenant, key_id)
    click.echo(f"{info.prefix}… is revoked")


def _limits_of(limits: KeyLimits) -> str:
    told = [
        f"{limits.requests_per_minute} requests/min" if limits.requests_per_minute else "",
        f"{limits.tokens_per_minute} tokens/min" if limits.tokens_per_minute else "",
        f"{limits.token_budget} tokens/{limits.budget_period}" if limits.token_budget else "",
        f"{limits.max_parallel} calls at once" if limits.max_parallel else "",
        f"{limits.priority} priority" if limits.priority != "normal" else "",
    ]
    return ", ".join(part for part in told if part)


def _until(expires_at: float | None) -> str:
    if expires_at is None:
        return "valid"
    if expires_at <= time.time():
        return "expired"
    return f"until {datetime.fromtimestamp(expires_at, UTC):%Y-%m-%d}"


@contextmanager
def _registry() -> Iterator[Registry]:
    config = configuration()
    from deploy.compose import gateway_settings
    from gateway.errors import GatewayError
    from gateway.registry.service import Registry

    registry = Registry.from_settings(gateway_settings(config))
    try:
        yield registry
    except GatewayError as error:
        fail(f"{error}")
    finally:
        registry.close()
