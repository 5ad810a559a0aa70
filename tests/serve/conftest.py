"""The program with a table for a model, as the tests of the command line have it, and a server of the usual table."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from tests.cli.conftest import program
from tests.serve.served import Live, live

__all__ = ["program"]


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    with live() as started:
        yield started


@pytest.fixture(scope="module")
def client(server: Live) -> openai.OpenAI:
    return server.client()
