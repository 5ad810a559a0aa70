"""A vLLM server on loopback, with the bundled tiny model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from exptilt.core import Engine
from exptilt.engines.loading import load
from exptilt.errors import CapabilityError
from tests.servers.conftest import CAP
from tests.servers.contract import *  # noqa: F403 - its tests
from tests.servers.contract import draw

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def engine(vllm_url: str) -> Iterator[Engine]:
    found: Any = load("openai:tiny", base_url=vllm_url, max_tokens=CAP, concurrency=32)
    yield found
    found.close()


def test_what_the_server_can_is_measured(engine: Any) -> None:
    abilities = engine.backend.server.abilities
    assert (abilities.mode, abilities.make, abilities.processed, abilities.context) == ("ids", "vllm", True, 512)
    with pytest.raises(CapabilityError, match="temperature 1 and no truncation"):
        engine.with_sampling(temperature=0.7).score(draw(engine, 1))


def test_without_seeds_copies_of_a_prefix_are_one_request(engine: Engine, vllm_url: str) -> None:
    bare: Any = load("openai:tiny", base_url=vllm_url, max_tokens=CAP, seeds=False, temperature=1.5)
    drafts = draw(bare, 16)
    assert len({draft.tokens for draft in drafts}) > 4
    assert all(draft.logq is not None and len(draft.logq) == len(draft.tokens) for draft in drafts)
    bare.close()
