"""What the whole refuses, with real vLLM behind it."""

from __future__ import annotations

from tests.acceptance import refusals_suite as suite


class TestRefusals(suite.RefusalsSuite):
    pass
