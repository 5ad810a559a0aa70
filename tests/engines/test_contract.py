"""What every engine promises, asked of each in turn. A test that an engine cannot take, by its own `can`, is skipped."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import pytest

import exptilt as xt
from exptilt.testing.engines import CHECKS, EngineContract
from exptilt.testing.toys import random_fill, random_table
from tests.engines.fake_server import MODEL as SERVED
from tests.engines.fake_server import Fake, serving

PROMPTS = [  # nothing that the bundled models know, so they are not sure of what follows
    "The sea is wide and nobody has counted its birds, said the old captain.",
    "Green ideas sleep furiously in the colourless house of the town mayor.",
    "Write a poem about rain on the roofs of a city at night, please.",
    "Of all the roads that lead to the mill, which one did the miller take?",
]
NAMES = ("a prompt", "another", "a third one", "and the last")
LAW: dict[str, Any] = {"max_tokens": 12, "temperature": 1.3, "top_k": 4}


def table(_: pytest.FixtureRequest, __: ExitStack) -> EngineContract:
    return EngineContract(
        xt.engines.TableEngine(random_table(1, 3), 6, 2, symbols="ab#"), NAMES, tolerance=1e-9, draws=6000, stops=False
    )


def masked_table(_: pytest.FixtureRequest, __: ExitStack) -> EngineContract:
    """From left to right, so that the probability of an order is one and a score is the whole law."""
    return EngineContract(
        xt.engines.MaskedTableEngine(random_fill(1, 3), 5, "left", symbols="abc"), NAMES, tolerance=1e-9, draws=6000, stops=False
    )


def hf(_: pytest.FixtureRequest, __: ExitStack) -> EngineContract:
    pytest.importorskip("transformers")
    return EngineContract(xt.load("tiny", **LAW), PROMPTS, tolerance=1e-5, draws=1000)


def diffusion(_: pytest.FixtureRequest, __: ExitStack) -> EngineContract:
    pytest.importorskip("transformers")
    engine = xt.load("tiny-mdlm", **LAW, block=6, per_step=2)
    return EngineContract(engine, PROMPTS, tolerance=1e-5, singles=40, draws=600, caches=False, stops=False)


def openai(_: pytest.FixtureRequest, stack: ExitStack) -> EngineContract:
    return _served(stack, processed=True)


def openai_chat(_: pytest.FixtureRequest, stack: ExitStack) -> EngineContract:
    return _served(stack, completions=False)


def _served(stack: ExitStack, **habits: Any) -> EngineContract:
    pytest.importorskip("httpx2")
    law = xt.engines.TableEngine(random_table(1, 3), 6, 2, symbols="ab#")
    url = stack.enter_context(serving(Fake(law, **habits)))
    return EngineContract(
        xt.load(f"openai:{SERVED}", base_url=url, max_tokens=6, backoff=0.01), NAMES, tolerance=1e-9, singles=60, draws=300
    )


def llamacpp(request: pytest.FixtureRequest, _: ExitStack) -> EngineContract:
    pytest.importorskip("llama_cpp")
    pytest.importorskip("gguf")
    from tests.engines.gguf_tiny import TINY, tiny_gguf

    file = tiny_gguf(request.getfixturevalue("tmp_path_factory").mktemp("gguf") / "tiny.gguf")
    engine = xt.load(f"llamacpp:{file}", tokenizer=TINY, threads=1, memory=2**24, **LAW)
    return EngineContract(engine, PROMPTS, tolerance=1e-3, singles=40, draws=600)


def vllm(_: pytest.FixtureRequest, stack: ExitStack) -> EngineContract:
    from tests.servers.conftest import FOR_VLLM, MODEL

    stack.enter_context(patch.dict(os.environ, FOR_VLLM))
    pytest.importorskip("vllm")
    engine: Any = xt.load(f"vllm:{MODEL}", max_rows=64, block_size=32, enforce_eager=True, **LAW)
    stack.callback(engine.backend.close)
    return EngineContract(engine, PROMPTS, tolerance=1e-3, singles=40, draws=600)


BUILDERS = [table, masked_table, hf, diffusion, openai, openai_chat, llamacpp, pytest.param(vllm, marks=pytest.mark.servers)]


@pytest.fixture(scope="session", params=BUILDERS, ids=lambda build: build.__name__)
def case(request: pytest.FixtureRequest) -> Iterator[EngineContract]:
    with ExitStack() as stack:
        yield request.param(request, stack)


@pytest.mark.parametrize("name", CHECKS)
def test_contract(case: EngineContract, name: str) -> None:
    check = CHECKS[name]
    if not check.applies(case):
        pytest.skip(f"{case.engine.name} does not claim {', '.join(sorted(check.needs - case.engine.can)) or 'this'}")
    check.run(case)
