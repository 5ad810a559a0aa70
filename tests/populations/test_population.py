"""Populations: weights, averages, resampling and pooling."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import exptilt as xt
from exptilt.draft import Draft
from exptilt.errors import AllWeightsZero, RewardError, TargetError, WeightsError
from exptilt.keys import Key
from exptilt.populations.population import Population
from exptilt.populations.resampling import systematic
from exptilt.testing.enumeration import distance, final, paths
from exptilt.testing.toys import autoregressive, constrained

DRAFTS = [Draft("x", (token,)) for token in range(4)]


def population(*log_w: float) -> Population:
    return Population(DRAFTS[: len(log_w)], np.array(log_w), np.arange(len(log_w), dtype=float))


def test_numbers_of_a_population() -> None:
    one = population(math.log(1.0), math.log(2.0), math.log(1.0), -math.inf)
    np.testing.assert_allclose(one.weights, [0.25, 0.5, 0.25, 0.0])
    assert one.log_z is not None
    assert math.isclose(one.log_z, math.log(4.0))
    assert math.isclose(one.ess, 1 / 0.375)
    assert math.isclose(one.max_share, 0.5)
    assert math.isclose(one.mean_reward, 1.0)
    kl = one.kl(2.0)
    assert kl is not None
    assert math.isclose(kl, 0.5 - math.log(4.0))
    assert math.isclose(one.log_mean([0.0, math.log(3.0), 0.0, 5.0]), math.log(2.0))


def test_excluded_drafts_do_not_spoil_the_mean_reward() -> None:
    """A reward of -inf has weight zero; 0·(-inf) must not become NaN."""
    one = Population(DRAFTS[:2], np.array([0.0, -math.inf]), np.array([0.7, -math.inf]))
    assert one.mean_reward == 0.7


def test_weights_far_outside_float_range_stay_finite() -> None:
    one = population(5000.0, 5000.0, -5000.0)
    np.testing.assert_allclose(one.weights, [0.5, 0.5, 0.0])


@pytest.mark.parametrize("top", [1e4, 1e8, 1e12, 1e16, -1e16, 1e300])
def test_weights_sum_to_one_at_every_size_of_the_rewards(top: float) -> None:
    """From |r|/β of 1e8 on, log n was rounded away in log Σ w: eight equal weights summed to 8, the ESS was 1/8."""
    one = population(top, top, top - 1.0, -math.inf) if abs(top) < 1e15 else population(top, top, top, -math.inf)
    assert math.isclose(float(one.weights.sum()), 1.0, rel_tol=1e-12)
    assert 1.0 <= one.ess <= 3.0 + 1e-9
    assert math.isclose(one.log_mean(np.zeros(4)), 0.0, abs_tol=1e-12)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_bad_weights_are_refused(bad: float) -> None:
    with pytest.raises(WeightsError, match="NaN or"):
        population(0.0, bad)


def test_all_weights_zero_is_an_error_with_a_cure() -> None:
    with pytest.raises(AllWeightsZero, match="Draw more"):
        population(-math.inf, -math.inf)
    with pytest.raises(WeightsError, match="shape"):
        Population(DRAFTS, np.zeros(3), np.zeros(4))


def test_arrays_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="read-only"):
        population(0.0, 1.0).log_w[0] = 3.0


def test_merge_averages_runs() -> None:
    merged = Population.merge([population(0.0, 1.0), population(2.0)])
    assert merged.log_z is not None
    assert math.isclose(math.exp(merged.log_z), (1 + math.e + math.e**2) / 2)
    with pytest.raises(WeightsError, match="Markov chain"):
        Population.merge([population(0.0), Population.unweighted(DRAFTS, np.zeros(4))])


def test_merge_counts_runs_of_weight_zero() -> None:
    """Runs that ended in AllWeightsZero could not be given: log Ẑ of the rest was too large by -log of the share alive."""
    merged = Population.merge([population(0.0, 1.0), population(2.0)], dead=2)
    assert merged.log_z is not None
    assert math.isclose(math.exp(merged.log_z), (1 + math.e + math.e**2) / 4)
    chains = Population.merge([Population.unweighted(DRAFTS, np.zeros(4))], dead=3)
    assert math.isclose(float(np.exp(chains.log_w).sum()), 1.0)
    with pytest.raises(AllWeightsZero, match="each of the 3 runs"):
        Population.merge([], dead=3)
    for populations, dead in (([], 0), ([population(0.0)], -1)):
        with pytest.raises(ValueError, match="nothing to merge"):
            Population.merge(populations, dead)


def test_drafts_left_out_of_an_unweighted_population_have_no_weight() -> None:
    one = Population.unweighted(DRAFTS, np.array([1.0, -math.inf, 3.0, -math.inf]), held=[True, False, True, False])
    assert one.weights.tolist() == [0.5, 0.0, 0.5, 0.0]
    assert one.mean_reward == 2.0
    with pytest.raises(AllWeightsZero):
        Population.unweighted(DRAFTS, np.zeros(4), held=[False] * 4)


def test_a_chain_has_no_log_z() -> None:
    chain = Population.unweighted(DRAFTS, np.arange(4.0))
    assert chain.log_z is None
    assert chain.kl(1.0) is None
    assert math.isclose(float(np.exp(chain.log_w).sum()), 1.0)
    assert chain.mean_reward == 1.5


@pytest.mark.parametrize("size", [1, 3, 4, 7])
def test_systematic_resampling_is_unbiased_and_tight(size: int) -> None:
    """Enumerated: row i is expected size·w_i times, and never a whole one more or less."""
    weights = np.array([0.05, 0.5, 0.15, 0.3])
    expected = np.zeros(4)
    total = 0.0
    for probability, rows in paths(lambda key: systematic(weights, size, key)):
        counts = np.bincount(rows, minlength=4)
        assert len(rows) == size
        assert np.all(np.abs(counts - size * weights) < 1)
        expected += probability * counts
        total += probability
    assert math.isclose(total, 1.0)
    np.testing.assert_allclose(expected, size * weights, atol=1e-12)


def test_systematic_resampling_never_takes_a_row_of_weight_zero() -> None:
    """Rounding left the last row an interval of 1e-16 of its own where the sum of the rows before it fell short of n."""
    for count in range(2, 60):
        weights = np.append(np.random.default_rng(count).dirichlet(np.ones(count)), [0.0, 0.0])
        for _, rows in paths(lambda key, weights=weights: systematic(weights, 3, key)):
            assert max(rows) < count


def test_resample_keeps_drafts_and_rewards_together() -> None:
    one = population(0.0, 1.0, -1.0, 2.0)  # the reward of a draft is its token
    again = one.resample(Key(3), 25)
    assert [draft.tokens[0] for draft in again.drafts] == again.rewards.tolist()
    assert len(set(again.rewards)) > 2


def test_resample_keeps_log_z() -> None:
    one = population(0.0, 1.0, -1.0, 2.0)
    again = one.resample(Key(0), 10)
    assert len(again) == 10
    assert one.log_z is not None
    assert again.log_z is not None
    assert math.isclose(one.log_z, again.log_z)
    np.testing.assert_allclose(again.weights, 0.1)


# --------------------------------------------------------------------------------------------------- what a run tells


def test_the_same_drafts_at_another_beta(tmp_path: Path) -> None:
    """Weights for β′ from draws weighed at β are those of a run at β′ with the same draws."""
    toy = constrained(autoregressive(5), lambda tokens: tokens[0] == 0)
    warm = replace(toy.target, beta=2.5)
    drawn, read = (xt.run(toy.target, ["x"], xt.Independent(12), store=tmp_path / "a.jsonl")[0] for _ in range(2))
    there = xt.sample(warm, "x", xt.Independent(12)).population
    assert there.excluded > 0
    for each in (drawn, read):
        assert isinstance(each, xt.Result)
        moved = each.population.at(2.5)
        np.testing.assert_allclose(moved.log_w, there.log_w, rtol=0, atol=1e-12)
        assert (moved.beta, moved.proper) == (2.5, True)
        np.testing.assert_allclose(moved.at(1.0).log_w, each.population.log_w, rtol=0, atol=1e-12)


PROPER = {
    "independent": xt.Independent(2),
    "rejection": xt.Rejection(2, 3, reward_max=3.0),
    "ets": xt.ETS(2, 1, 2),
    "ets, chain only": xt.ETS(2, 1, 2, returns="chain"),
    "smc": xt.SMC(2, 2, 1, threshold=1.0),
}


@pytest.mark.parametrize("cold", [0.4, 3.0])
@pytest.mark.parametrize("name", PROPER)
def test_weights_for_another_beta_are_proper_by_enumeration(name: str, cold: float) -> None:
    """Over all random paths, also of samplers that select at their own β: E[Σ w f] = Σ γ f at the β asked for."""
    for toy in (autoregressive(5, proposal=name != "rejection"), constrained(autoregressive(5), lambda tokens: tokens[0] == 0)):
        reward = toy.target.reward
        assert callable(reward)
        found: dict[tuple[int, ...], float] = {}
        for chance, drawn in paths(lambda key, toy=toy: final(PROPER[name], toy.target, key)):
            moved = drawn and replace(drawn, beta=1.0).at(cold)
            for draft, log_w in zip(moved.drafts, moved.log_w.tolist(), strict=True) if moved else ():
                found[draft.tokens] = found.get(draft.tokens, 0.0) + chance * math.exp(log_w)
        rated = {tokens: float(reward("x", [Draft("x", tokens)])[0]) for tokens in toy.gamma}
        there = {tokens: mass * math.exp(rated[tokens] * (1 / cold - 1)) if mass else 0.0 for tokens, mass in toy.gamma.items()}
        assert distance(found, there) < 1e-9 * max(1.0, sum(there.values()))


def test_states_of_a_chain_are_not_weighted_for_another_beta() -> None:
    """Their equal weights are no importance weights: they were moved as if they were, and the result looked like any other."""
    toy = autoregressive(5)
    for made in (xt.SuffixMCMC(6), xt.Metropolised(xt.ETS(2, 1, 2), steps=3), xt.ParticleGibbs(xt.SMC(2, 2, 1), steps=3)):
        with pytest.raises(TargetError, match="states of a Markov chain"):
            xt.sample(toy.target, "x", made).population.at(2.0)
    ended = xt.sample(toy.target, "x", xt.Independent(8, batch=2), until=xt.until.ess(2.0))
    assert ended.stopped == "until"
    with pytest.raises(TargetError, match="a stop rule"):
        ended.population.at(2.0)


@pytest.mark.parametrize("beta", [0.0, -1.0, math.inf, math.nan, 5e-324])
def test_another_beta_is_a_positive_number(beta: float) -> None:
    """1/β overflows for the smallest of them, and the weights were refused as if the reward were at fault."""
    with pytest.raises(ValueError, match="positive finite"):
        replace(population(0.0, 1.0), beta=1.0).at(beta)


def test_what_does_not_know_its_target_is_no_ground_for_it() -> None:
    made = Population([Draft("x", (0,), (-0.1,), "a", "stop")], np.zeros(1), np.zeros(1))
    with pytest.raises(TargetError, match="β of this population is unknown"):
        made.at(1.0)
    with pytest.raises(TargetError, match="β of this population is unknown"):
        made.certified(str)
    with pytest.raises(TargetError, match="this reward gives none"):
        replace(made, beta=1.0).certified(str)
    assert replace(made, beta=1.0, reward_max=0.0).certified(str) == "a"
    with pytest.raises(TargetError, match="those of a proposal"):
        replace(made, beta=1.0, reward_max=0.0, own_logq=False).certified(str)
    merged = Population.merge([replace(made, beta=1.0), replace(made, beta=1.0)])
    assert (merged.beta, merged.at(2.0).beta) == (1.0, 2.0)
    assert Population.merge([replace(made, beta=1.0), replace(made, beta=2.0)]).beta is None


def test_a_proposals_probabilities_prove_nothing() -> None:
    """A draft's log-probabilities are then those of q."""
    with_proposal = xt.sample(autoregressive(5, proposal=True).target, "x", xt.Independent(12)).population
    power = xt.sample(autoregressive(5).target, "x", xt.SuffixMCMC(4, power=2.0)).population
    assert (with_proposal.own_logq, power.own_logq) == (False, False)
    assert xt.sample(autoregressive(5).target, "x", xt.SuffixMCMC(4)).population.own_logq


def test_a_vote_says_what_is_proved(tmp_path: Path) -> None:
    engine = autoregressive(5).target.engine

    def first(text: str) -> str | None:
        return text[:1] or None

    bounded = xt.Target(engine, xt.rewards.Sum([(1.0, xt.rewards.Format("^a")), (0.5, xt.rewards.Zero())]), 2.0)
    many, few = xt.Independent(200), xt.Independent(1)
    drawn, read = (xt.run(bounded, ["x"], many, select=xt.vote(first), store=tmp_path / "a.jsonl")[0] for _ in range(2))
    assert isinstance(drawn, xt.Result)
    assert isinstance(read, xt.Result)
    assert drawn.proved == read.proved == first(drawn.text)
    assert read.population.reward_max == 1.0
    assert xt.sample(bounded, "x", few, select=xt.vote(first)).proved is None
    assert xt.sample(bounded, "x", many).proved is None  # no vote
    assert xt.sample(replace(bounded, proposal=engine), "x", many, select=xt.vote(first)).proved is None
    unbounded = xt.Target(engine, xt.rewards.Sum([(-1.0, xt.rewards.Format("^a"))]), 2.0)
    assert xt.sample(unbounded, "x", many, select=xt.vote(first)).proved is None


def test_a_bound_that_is_none_is_an_error() -> None:
    def liar(text: str) -> float:
        return 2.0

    liar.reward_max = 1.0  # pyright: ignore[reportFunctionMemberAccess]
    target = xt.Target(autoregressive(5).target.engine, xt.rewards.Each(liar), 1.0)
    with pytest.raises(RewardError, match="gave 2 and says that reward_max=1"):
        xt.sample(target, "x", xt.Independent(3), select=xt.vote(str))
