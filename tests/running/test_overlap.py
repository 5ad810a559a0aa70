"""The overlap of a proposal with its model: figures of p/q as the weights have them, and a warning where few draws carry them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import exptilt as xt
from exptilt.draft import Draft
from exptilt.engines import TableEngine
from exptilt.populations.overlap import Overlap
from exptilt.running.results import read_results
from exptilt.testing.toys import random_table

NEAR, FAR = 0.02, 4.0  # by how much the proposal's log-probabilities are moved, nats


def length(prompt: str, drafts: Sequence[Draft]) -> list[float]:
    return [draft.decided / 8 for draft in drafts]


def target(moved: float | None, reward: Any = length) -> xt.Target:
    """Tables over four symbols, the last of which ends a response; the proposal has the logits of the model, moved at random."""

    def known(prefix: tuple[int, ...]) -> np.ndarray:
        weights = random_table(3, 4)(prefix) * [1.0, 1.0, 1.0, 0.1]  # long responses
        return weights / weights.sum()

    def other(prefix: tuple[int, ...]) -> np.ndarray:
        noise = np.random.default_rng([9, *[token + 1 for token in prefix]]).normal(size=4)
        weights = known(prefix) * np.exp((moved or 0.0) * noise)
        return weights / weights.sum()

    proposal = None if moved is None else TableEngine(other, 8, 3)
    return xt.Target(TableEngine(known, 8, 3), reward, 0.5, proposal)


def told(result: xt.Result) -> Overlap:
    return Overlap(**result.trace[-1]["overlap"])


def test_the_figures_are_those_of_the_weights() -> None:
    result = xt.sample(target(1.0), "why?", xt.Independent(400, batch=100))
    population = result.population
    ratios = population.log_w + math.log(400) - population.rewards / 0.5
    assert [entry["overlap"]["count"] for entry in result.trace] == [100, 200, 300, 400]
    found, weights = told(result), np.exp(ratios)
    assert found.largest == pytest.approx(ratios.max())
    assert found.variation == pytest.approx(weights.std() / weights.mean())
    assert found.effective == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
    assert found.k_hat == pytest.approx(xt.Population(population.drafts, ratios, population.rewards).k_hat)


@pytest.mark.parametrize("sampler", [xt.ETS(8, 4, 2), xt.SMC(16, 2), xt.Independent(200)], ids=lambda each: type(each).__name__)
def test_a_far_proposal_is_warned_of_and_a_near_one_is_not(sampler: Any) -> None:
    def warned(moved: float | None) -> int:
        results = [xt.sample(target(moved), "why?", sampler, seed=seed) for seed in range(8)]
        assert all(("overlap" in result.trace[-1]) == (moved is not None) for result in results)
        said = [each for result in results for each in result.warnings if "seldom draws what" in each]
        assert all("Leave the proposal out, or take one nearer to the model: larger, or at the" in each for each in said)
        return len(said)

    assert (warned(None), warned(NEAR)) == (0, 0)
    assert warned(FAR) > 4


def test_a_reward_that_scores_by_the_model_is_not_counted() -> None:
    """It asks the model for the same drafts once more."""
    plain, scored = (
        told(xt.sample(target(1.0, reward), "why?", xt.Independent(50))) for reward in (length, xt.rewards.LogProb())
    )
    assert plain == scored


def test_it_is_kept_with_a_result(tmp_path: Path) -> None:
    (result,) = xt.run(target(FAR), ["why?"], xt.Independent(10), store=tmp_path / "kept.jsonl", progress=False)
    (back,) = read_results(tmp_path / "kept.jsonl")
    assert isinstance(result, xt.Result)
    assert isinstance(back, xt.Result)
    assert told(back) == told(result)
    assert math.isinf(told(back).k_hat)  # of ten draws no tail can be fitted


def test_few_draws_and_impossible_ones_are_not_judged() -> None:
    assert not Overlap.of([0.0]).poor
    assert not Overlap.of([0.0] * 100).poor
    none = Overlap.of([-math.inf] * 30)
    assert (none.poor, none.largest) == (False, -math.inf)
    some = Overlap.of([-math.inf] * 30 + [math.log(2.0)] * 30)
    assert some.variation == pytest.approx(1.0)
    assert some.effective == pytest.approx(30)
