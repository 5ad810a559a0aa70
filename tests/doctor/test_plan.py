"""How many independent draws the doctor asks for, against identities and against runs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from exptilt.core import Target
from exptilt.doctor import Plan
from exptilt.doctor.pilot import Pilot, Sounding
from exptilt.doctor.tilt import Tilt, measure
from exptilt.evaluation.tasks.word_problems import word_problems
from exptilt.running.result import Result
from exptilt.running.run import run
from exptilt.samplers import Independent
from exptilt.testing.toys import autoregressive
from tests.doctor import tables


def tilt(share: float) -> Tilt:
    return Tilt(1.0, share, 1.0)


def test_independent_draws_are_worth_their_share() -> None:
    plan = Plan.reaching(8, tilt(0.2), [tilt(0.1), tilt(0.4)], length=12.0)
    assert plan.sampler == Independent(40)
    assert plan.ess.value == pytest.approx(8)
    assert 4 <= plan.ess.low < plan.ess.high <= 16
    assert (plan.tokens, plan.rated) == (480, 40)
    assert plan.resized(10).ess.value == pytest.approx(2)
    assert (plan.resized(10).tokens, plan.resized(10).rated) == (120, 10)


def test_one_draw_at_least() -> None:
    assert Plan.reaching(0.5, tilt(1.0), [], length=3.0).sampler == Independent(1)


@pytest.mark.parametrize("seed", [3, 4])
def test_predictions_hold_for_runs_on_tables(seed: int) -> None:
    """Tokens within 10 %; effective draws, by the variance of Ẑ over 400 runs, within 20 %."""
    toy = autoregressive(seed, symbols=3, cap=6)
    pilots = tables.soundings(toy, 20, 100)
    length = float(np.mean(np.concatenate([pilot.lengths for pilot in pilots])))
    plan = Plan.reaching(3, measure(pilots, 1.0), [], length)
    outcomes = run(toy.target, [f"run {number}" for number in range(400)], plan.sampler, seed=1, concurrency=1)
    results = [outcome for outcome in outcomes if isinstance(outcome, Result)]
    assert plan.tokens == pytest.approx(np.mean([result.usage.tokens for result in results]), rel=0.1)
    estimates = np.array([math.exp(result.log_z or -math.inf) for result in results]) / toy.z
    reached = (1 - tables.ess_share(toy)) / float(np.mean((estimates - 1) ** 2))
    assert 1 / 1.2 < plan.ess.value / reached < 1.2


def test_predicted_tokens_hold_on_the_tiny_model() -> None:
    """6 word problems: within 15 %."""
    pytest.importorskip("torch")
    import exptilt as xt

    prompts = [problem.question for problem in word_problems("test", 6, seed=2)]
    target = Target(xt.load("tiny", max_tokens=96), xt.rewards.Arithmetic(), 0.1)
    pilots = [Sounding.of(outcome) for outcome in run(target, prompts, Pilot(24)) if isinstance(outcome, Result)]
    length = float(np.mean(np.concatenate([pilot.lengths for pilot in pilots])))
    plan = Plan.reaching(8, measure(pilots, 0.1), [], length)
    tokens = [outcome.usage.tokens for outcome in run(target, prompts, plan.sampler, seed=5) if isinstance(outcome, Result)]
    assert plan.tokens == pytest.approx(np.mean(tokens), rel=0.15)
