"""Tests of the whole on a real worker; the suites run on stub workers too."""

import pytest

pytest.register_assert_rewrite(
    "tests.acceptance.openai_client_suite", "tests.acceptance.refusals_suite"
)
