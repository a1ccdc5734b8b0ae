"""Takes over an edited policy file while a process runs."""

from __future__ import annotations

import asyncio
import logging

from guardrails.policy_book import PolicyBook

logger = logging.getLogger(__name__)


async def keep_fresh(policies: PolicyBook) -> None:
    """Look each second until cancelled; a mistake in the file keeps the policies that are held."""
    while True:
        await asyncio.sleep(1.0)
        try:
            await asyncio.to_thread(policies.refresh)
        except Exception as error:
            logger.error("the policy file cannot be used: %s", error)
