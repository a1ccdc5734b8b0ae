"""The official client against the whole gateway on a stub worker."""

from __future__ import annotations

from tests.acceptance import openai_client_suite as suite
from tests.acceptance.openai_client_suite import client as client  # the fixture


class TestChat(suite.ChatSuite):
    pass


class TestCompletions(suite.CompletionSuite):
    pass


class TestResponses(suite.ResponsesSuite):
    pass


class TestModels(suite.ModelsSuite):
    pass
