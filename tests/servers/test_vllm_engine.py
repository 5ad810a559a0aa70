"""vLLM in this process, with the bundled tiny model."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from exptilt.core import Engine, Target
from exptilt.engines.loading import load
from exptilt.running.run import sample
from exptilt.samplers import ETS
from tests.servers.conftest import CAP, MODEL
from tests.servers.contract import *  # noqa: F403 - its tests
from tests.servers.contract import BETWEEN, QUESTIONS, ROUNDING, check_logq, draw, keys

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def engine(environment: None) -> Iterator[Engine]:
    pytest.importorskip("vllm")
    found: Any = load(f"vllm:{MODEL}", max_tokens=CAP, max_rows=64, block_size=32, enforce_eager=True)
    yield found
    found.model.close()


def test_drafts_may_be_shared_with_transformers(engine: Engine, reference: Engine) -> None:
    """As proposals are: each rates and continues what the other drew."""
    assert engine.alphabet == reference.alphabet
    drafts = draw(reference)
    check_logq(drafts, engine.score(drafts), BETWEEN)
    target = Target(engine, lambda _, drafts: [float("#" in draft.text) for draft in drafts], 0.5, proposal=reference)
    result = sample(target, QUESTIONS[0], ETS(candidates=2, rollouts=2, block=8), seed=2)
    assert result.usage.reference.scored > 0
    assert result.usage.proposal.generated > 0


@pytest.mark.parametrize("changes", [{"temperature": 0.7}, {"top_k": 5}, {"top_p": 0.8, "temperature": 1.5}], ids=str)
def test_it_rates_drafts_under_any_law(engine: Engine, reference: Engine, changes: dict[str, Any]) -> None:
    """vLLM rates the tokens it reads by the model's own law, whatever its logprobs_mode: these go token by token."""
    law = engine.with_sampling(**changes)
    drafts = draw(law, 8)
    check_logq(drafts, law.score(drafts), ROUNDING)
    others = draw(reference, 8)
    expected = reference.with_sampling(**changes).score(others)
    for score, other in zip(law.score(others), expected, strict=True):
        np.testing.assert_array_equal(np.isinf(score), np.isinf(other))
        np.testing.assert_allclose(score[np.isfinite(score)], other[np.isfinite(other)], atol=BETWEEN, rtol=0)


def test_more_seeded_prompts_at_once_than_vllm_reads_in_one_step(engine: Engine) -> None:
    """vLLM 0.32 reads 2048 tokens a step and cut prompts to fill it: on a CPU a seeded request then failed with
    "CPU Generator does not use offset", and the whole engine with it."""
    prompt = " ".join(QUESTIONS[:2])
    drafts = draw(engine, 64, prompt)
    assert len(drafts) * len(engine.prompt_tokens(prompt)) > 2048  # pyright: ignore[reportAttributeAccessIssue]
    assert all(draft.finish is not None for draft in drafts)


def test_many_threads_at_once_get_what_single_calls_give(engine: Engine) -> None:
    """Draws and both kinds of ratings in one batch do not mix up."""
    warm = engine.with_sampling(temperature=1.5)
    expected = [draw(warm, 4, question) for question in QUESTIONS]

    def call(number: int) -> bool:
        question = number % len(QUESTIONS)
        drafts = warm.extend([warm.start(QUESTIONS[question])] * 4, keys(4))
        check_logq(drafts, warm.score(drafts), BETWEEN)
        engine.score(drafts)
        return [draft.tokens for draft in drafts] == [draft.tokens for draft in expected[question]]

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(call, range(16))) >= 15, "all but one that rounding may turn"
