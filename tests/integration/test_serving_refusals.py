"""What the whole gateway refuses, and how."""

from __future__ import annotations

import pytest

from tests.acceptance import refusals_suite as suite

pytestmark = pytest.mark.timeout(60)


class TestRefusals(suite.RefusalsSuite):
    pass
