"""What aliases bring along: kept with the alias, every change a line of its record."""

from __future__ import annotations

from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter
from typing import NoReturn

from sqlalchemy import Connection, select

from gateway.errors import Conflict, InvalidRequest
from gateway.registry import repository, writes
from gateway.registry.errors import AliasNotFound
from gateway.registry.records import OPTIONS
from gateway.registry.snapshot import BASE_ALIAS, AliasOptions, VersionState
from gateway.registry.store import Store
from gateway.registry.tables import ALIASES

MAX_FALLBACK = 4
_OVER = (VersionState.RETIRED, VersionState.REJECTED)


class ServingOptions(Store):
    """The registry's options of aliases."""

    def set_options(
        self, tenant: str, name: str, options: AliasOptions, actor: str = ""
    ) -> AliasOptions:
        """Replace all that an alias brings along; the same again changes nothing.

        Raises `AliasNotFound`, `Conflict` for the base model, and `InvalidRequest` for a chain of
        fallbacks that leads nowhere or in a circle.
        """
        if name == BASE_ALIAS:
            raise Conflict(
                "The base model belongs to every tenant and has no options: promote version 0 of"
                " an alias of your own, and give that one options."
            )
        with self._change() as connection:
            row = repository.find_alias_row(connection, tenant, name)
            if row is None:
                raise AliasNotFound(f"No adapter is registered under the name {name[:80]!r}.")
            _check_chain(connection, tenant, name, options.fallback)
            before = row.options or {}
            if options.given == before:
                return options
            writes.set_options(connection, row.id, options.given)
            line = {
                "alias_id": row.id,
                "tenant": tenant,
                "kind": OPTIONS,
                "from_version_id": None,
                "to_version_id": None,
                "detail": {"before": before, "after": options.given},
                "actor": actor,
                "at": self._clock(connection),
            }
            writes.record_move(connection, line)
            writes.bump_revision(connection)
        return options


def _check_chain(connection: Connection, tenant: str, alias: str, chain: Sequence[str]) -> None:
    """Refuse a chain with an entry that is not there, that comes twice or that leads back."""
    if len(chain) > MAX_FALLBACK:
        _refuse(f"names {len(chain)} models, and {MAX_FALLBACK} are the most")
    for entry in chain:
        if chain.count(entry) > 1:
            _refuse(f"names {entry!r} twice")
        _check_entry(connection, tenant, entry)
    query = select(ALIASES.c.name, ALIASES.c.options).where(ALIASES.c.tenant == tenant)
    chains = {
        row.name: (row.options or {}).get("fallback", ()) for row in connection.execute(query)
    }
    leads_to = {name: _others(name, given) for name, given in (chains | {alias: chain}).items()}
    try:
        TopologicalSorter(leads_to).prepare()
    except CycleError as error:
        way = " -> ".join(reversed(error.args[1]))
        _refuse(
            f"leads in a circle ({way}): where one of them is overloaded, all would be. Take one"
            " out"
        )


def _check_entry(connection: Connection, tenant: str, entry: str) -> None:
    name, pinned, number = entry.partition("@")
    if repository.find_alias_row(connection, tenant, name) is None:
        _refuse(f"names {entry!r}, and there is no alias {name!r}")
    if not pinned:
        return
    if not (number.isascii() and number.isdigit() and len(number) < 10):
        _refuse(f"names {entry!r}, which is no version: write it as 'support@3'")
    version = repository.find_version(connection, tenant, name, int(number))
    if version is None:
        _refuse(f"names {entry!r}, and there is no such version; the base model is 'base'")
    if version.state in _OVER:
        _refuse(f"names {entry!r}, which is {version.state} and gets no calls")


def _others(alias: str, chain: Sequence[str]) -> list[str]:
    """Give the aliases that a chain leads to; a pinned version of its own leads no further."""
    return [
        name
        for name, pinned, _ in (entry.partition("@") for entry in chain)
        if name != alias or not pinned
    ]


def _refuse(what: str) -> NoReturn:
    raise InvalidRequest(f"The fallback {what}.", param="fallback")
