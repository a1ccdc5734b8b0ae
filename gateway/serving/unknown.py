"""What is said of addresses where nothing is; what OpenAI has there is refused by name."""

from __future__ import annotations

from gateway.errors import NotFound, NotOffered

LEFT_OUT = (
    "assistants",
    "audio",
    "batches",
    "chat/completions",
    "containers",
    "conversations",
    "evals",
    "images",
    "organization",
    "realtime",
    "responses",
    "threads",
    "uploads",
    "vector_stores",
    "videos",
)
"""Below /v1. Of chats and responses what reads stored ones: nothing is stored."""


def unknown(method: str, path: str) -> NotFound:
    """Give the error for an address where nothing is."""
    where = path.removeprefix("/v1/")
    if where != path and any(where == name or where.startswith(f"{name}/") for name in LEFT_OUT):
        return NotOffered(f"{method} {path} is part of OpenAI's API that is not offered here.")
    return NotFound(f"Unknown request URL: {method} {path}.", code="unknown_url")
