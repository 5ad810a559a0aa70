"""What samplers are predicted to reach and to cost, against identities and against runs of them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from exptilt.core import Target
from exptilt.doctor.pilot import Sounding
from exptilt.doctor.plans import Shape, chain, cheapest, effective, guided, independent, priced, resized
from exptilt.doctor.tilt import Tilt, measure
from exptilt.evaluation.tasks.word_problems import word_problems
from exptilt.running.result import Result
from exptilt.running.run import run
from exptilt.samplers import ETS, Independent, SuffixMCMC
from tests.doctor import tables
from tests.toys import Toy, autoregressive

EVEN = Shape(np.full(4, 12.0), np.full(4, 0.25), np.full(4, 0.25), 12)


def tilt(share: float = 0.2, explained: tuple[float, ...] = (0.1, 0.3, 0.6), per_step: float = 0.1) -> Tilt:
    return Tilt(1.0, share, 1.0, explained, acceptance=0.5, turnover=0.3, redrawn=6.0, per_step=per_step)


def runs(toy: Toy, sampler: Independent | ETS | SuffixMCMC, count: int) -> list[Result]:
    outcomes = run(toy.target, [f"run {number}" for number in range(count)], sampler, seed=1, concurrency=1)
    return [outcome for outcome in outcomes if isinstance(outcome, Result)]


def reached(toy: Toy, results: list[Result]) -> float:
    """Effective draws, from the variance of Ẑ over runs: (1 - share)·Z²/Var(Ẑ)."""
    estimates = np.array([math.exp(result.log_z or -math.inf) for result in results]) / toy.z
    return (1 - tables.ess_share(toy)) / float(np.mean((estimates - 1) ** 2))


# --------------------------------------------------------------------------------------------------------- identities


def test_independent_draws_are_worth_their_share() -> None:
    plan = independent(8, tilt(0.2), [tilt(0.1), tilt(0.4)], EVEN)
    assert plan.sampler == Independent(40)
    assert plan.ess.value == pytest.approx(8)
    assert 4 <= plan.ess.low < plan.ess.high <= 16
    assert (plan.tokens, plan.rated, plan.rounds) == (480, 40, 1)
    assert resized(plan, 10).ess.value == pytest.approx(2)
    assert resized(plan, 10).tokens == 120


def test_ets_of_one_block_is_independent() -> None:
    assert effective(ETS(40, 3, 12), tilt(0.2), EVEN) == pytest.approx(8)
    assert priced(ETS(40, 3, 12), tilt(0.2), [], EVEN).tokens == 480


def test_ets_of_beginnings_that_tell_all_and_share_one_step() -> None:
    """Where the first block decides, its rollouts are copies: M candidates are worth M draws, however many rollouts."""
    known = tilt(0.2, (1.0, 1.0, 1.0))
    for rollouts in (1, 4):
        assert effective(ETS(40, rollouts, 6), known, EVEN) == pytest.approx(8)


def test_ets_cost_is_the_published_formula_for_equal_lengths() -> None:
    """M(1+(I-1)K/2) responses of 12 tokens, I = 3 steps of 4."""
    plan = priced(ETS(5, 2, 4), tilt(), [], EVEN)
    assert plan.tokens == pytest.approx(5 * (1 + 2 * 2 / 2) * 12)
    assert plan.rated == pytest.approx(5 * (2 + 2 + 1))
    assert plan.rounds == 6


def test_more_candidates_and_rollouts_are_worth_more() -> None:
    worth = [effective(ETS(many, deep, 6), tilt(), EVEN) for deep in (1, 2, 8) for many in (2, 8, 32)]
    assert worth[0] < worth[1] < worth[2]
    assert worth[2] < worth[5] < worth[8]


def test_plans_reach_the_goal_with_their_mean() -> None:
    guide, walk = guided(8, tilt(), [], EVEN), chain(8, tilt(per_step=0.1), [], EVEN)
    assert guide is not None
    assert walk is not None
    assert guide.ess.value >= 8
    assert isinstance(guide.sampler, ETS)
    assert guide.sampler.candidates >= 8  # never fewer beginnings than effective draws
    assert walk.sampler == SuffixMCMC(90, burn_in=10)
    assert walk.tokens == 12 + 90 * 6


def test_what_cannot_be_told_or_reached() -> None:
    assert guided(8, tilt(explained=()), [], EVEN) is None
    assert guided(10_000, tilt(), [], EVEN) is None
    assert chain(8, tilt(per_step=math.nan), [], EVEN) is None
    assert chain(8, tilt(per_step=1e-4), [], EVEN) is None
    assert guided(8, tilt(share=1.0), [], EVEN) is None


def test_another_sampler_must_be_cheaper_by_more_than_its_estimate_errs() -> None:
    plain = independent(8, tilt(), [], EVEN)
    near, far = (priced(ETS(many, 1, 12), tilt(), [], EVEN) for many in (32, 28))
    walks = [priced(SuffixMCMC(steps), tilt(), [], EVEN) for steps in (42, 36)]
    assert cheapest([plain, walks[0]]) is plain
    assert cheapest([plain, walks[1]]) is walks[1]
    assert cheapest([plain, near]) is plain
    assert cheapest([plain, near, far]) is far


# ------------------------------------------------------------------------------------------------- held against runs


@pytest.mark.parametrize("seed", [3, 4])
def test_predictions_hold_for_runs_on_tables(seed: int) -> None:
    """Tokens and ratings within 10 %; effective draws of ETS within a factor of 1.6, of independent draws within 20 %."""
    toy = autoregressive(seed, symbols=3, cap=6)
    pilots = tables.soundings(toy, 20, 100)
    found = measure(pilots, 1.0)
    shape = Shape.of(pilots, 1.0, 6)
    for sampler, error in ((Independent(8), 1.2), (ETS(8, 4, 2), 1.6), (ETS(8, 2, 3), 1.6)):
        plan, results = priced(sampler, found, [], shape), runs(toy, sampler, 400)
        assert plan.tokens == pytest.approx(np.mean([result.usage.tokens for result in results]), rel=0.1)
        ratings = np.mean([result.usage.rated + result.usage.reused for result in results])
        assert plan.rated == pytest.approx(ratings, rel=0.1)
        assert 1 / error < plan.ess.value / reached(toy, results) < error


def test_predictions_hold_for_chains() -> None:
    """Tokens within 10 %, effective draws of the mean reward within a factor of 2: heads in 10 tosses, known in closed form."""
    size, beta = 10, 1.0
    toy = Toy(Target(tables.coin(size), tables.of_tokens(sum), beta), {})
    pilots = tables.soundings(toy, 20, 100)
    found, shape = measure(pilots, beta), Shape.of(pilots, beta, size)
    plan = priced(SuffixMCMC(80, burn_in=10), found, [], shape)
    results = runs(toy, SuffixMCMC(80, burn_in=10), 80)
    assert plan.tokens == pytest.approx(np.mean([result.usage.tokens for result in results]), rel=0.1)
    heads = 1 / (1 + math.exp(-1 / beta))
    errors = np.array([np.mean(result.population.rewards) for result in results]) - size * heads
    assert 0.5 < plan.ess.value / (size * heads * (1 - heads) / float(np.mean(errors**2))) < 2


def test_predicted_tokens_hold_on_the_tiny_model() -> None:
    """Independent, ETS and SuffixMCMC on 6 word problems: within 15 %."""
    pytest.importorskip("torch")
    import exptilt as xt
    from exptilt.doctor.pilot import Pilot

    prompts = [problem.question for problem in word_problems("test", 6, seed=2)]
    target = Target(xt.load("tiny", max_tokens=96), xt.rewards.Arithmetic(), 0.1)
    pilots = [Sounding.of(outcome) for outcome in run(target, prompts, Pilot(24)) if isinstance(outcome, Result)]
    found, shape = measure(pilots, 0.1), Shape.of(pilots, 0.1, 96)
    for sampler in (Independent(16), ETS(8, 2, 16), SuffixMCMC(16)):
        tokens = [outcome.usage.tokens for outcome in run(target, prompts, sampler, seed=5) if isinstance(outcome, Result)]
        assert priced(sampler, found, [], shape).tokens == pytest.approx(np.mean(tokens), rel=0.15)
