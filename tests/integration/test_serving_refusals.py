"""What the whole gateway refuses, and how."""

from __future__ import annotations

from tests.acceptance import refusals_suite as suite


class TestRefusals(suite.RefusalsSuite):
    pass
