"""Changes of the registry told at once, where the database can: PostgreSQL's LISTEN and NOTIFY."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from sqlalchemy import Connection, text
from sqlalchemy.engine import make_url

from gateway.registry.db import patience

CHANNEL = "adapterloop_registry"
_RETRY_S = 1.0

logger = logging.getLogger(__name__)


def notify(connection: Connection) -> None:
    """Tell every listener, when the transaction commits; nothing where the database cannot."""
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"NOTIFY {CHANNEL}"))


async def listen(database_url: str, heard: Callable[[], None]) -> None:
    """Call `heard` at each change until cancelled; returns at once where the database cannot.

    It only makes changes show sooner: whoever listens polls as well, so that a connection which is
    lost, and made anew each second, loses nothing. It is known as lost, where the host is gone
    without a word, by TCP's keepalives alone: it has nothing to send.
    """
    url = make_url(database_url)
    if url.get_backend_name() != "postgresql":
        return
    import psycopg

    bounds = {name: str(value) for name, value in patience(url).items()}
    url = url.set(drivername="postgresql").update_query_dict(bounds)
    address = url.render_as_string(hide_password=False)
    while True:
        try:
            connection = await psycopg.AsyncConnection.connect(address, autocommit=True)
            async with connection:
                await connection.execute(f"LISTEN {CHANNEL}")
                heard()
                async for _ in connection.notifies():
                    heard()
        except psycopg.Error as error:
            logger.debug("the registry's notices are away: %s", error)
        await asyncio.sleep(_RETRY_S)
