"""The official client against the whole, with real vLLM."""

from __future__ import annotations

from tests.acceptance import openai_client_suite as suite
from tests.acceptance.openai_client_suite import client as client  # the fixture


class TestOpenAIClient(suite.OpenAIClientSuite):
    pass
