"""Choosing β against closed forms: Gaussian and two-level rewards, mixtures of two Gaussians, and impossible wishes."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from exptilt.core import Target
from exptilt.draft import Draft
from exptilt.engines.table import TableEngine
from exptilt.keys import Key
from exptilt.populations.calibrate import (
    best_of_n_of_beta,
    beta_of_best_of_n,
    choose_beta,
    dominant,
    mixture,
    tilt_acceptance,
    tilt_ess,
    tilt_kl,
    tilted,
)
from exptilt.populations.population import Population
from exptilt.samplers.ets import ETS
from exptilt.samplers.independent import Independent


def gaussian(mean: float, sd: float, count: int = 5000) -> np.ndarray:
    """The middle quantiles of N(mean, sd²): a sample without noise."""
    return np.array([NormalDist(mean, sd).inv_cdf((i + 0.5) / count) for i in range(count)])


@pytest.mark.parametrize("sd", [0.5, 2.0])
def test_gaussian_rewards_give_the_closed_forms(sd):
    """KL = σ²/(2β²), ESS/n = exp(-σ²/β²), and a chain accepts a new draw at the rate erfc(σ/(2β))."""
    rewards = gaussian(-3.0, sd)
    assert choose_beta(rewards, kl=0.5) == pytest.approx(sd, rel=0.01)
    assert choose_beta(rewards, kl=0.08) == pytest.approx(sd / 0.4, rel=0.01)
    assert choose_beta(rewards, ess=0.5) == pytest.approx(sd / math.sqrt(math.log(2)), rel=0.01)
    assert choose_beta(rewards, acceptance=math.erfc(0.4)) == pytest.approx(sd / 0.8, rel=0.01)


def test_two_level_rewards_are_exact():
    """A quarter of the draws at 1, the rest at 0: π has mass e^(1/β)/(e^(1/β) + 3) on them."""
    rewards = [1.0] * 25 + [0.0] * 75
    mass = math.e / (math.e + 3)
    kl = mass * math.log(mass / 0.25) + (1 - mass) * math.log((1 - mass) / 0.75)
    ess = 1 / (mass**2 / 0.25 + (1 - mass) ** 2 / 0.75)
    assert tilt_kl(rewards, 1.0) == pytest.approx(kl, abs=1e-12)
    assert tilt_ess(rewards, 1.0) == pytest.approx(ess, abs=1e-12)
    assert choose_beta(rewards, kl=kl) == pytest.approx(1.0, abs=1e-9)
    assert choose_beta(rewards, ess=ess) == pytest.approx(1.0, abs=1e-9)


def test_the_acceptance_rate_is_that_of_the_chain():
    """Of a chain that proposes draws from p anew, by all its moves between 40 rewards; the state itself is no draw."""
    rewards = np.random.default_rng(0).normal(0, 1, 40)
    pi = np.exp(rewards / 0.7)
    pi /= pi.sum()
    moves = [pi[i] * min(1.0, math.exp((rewards[j] - rewards[i]) / 0.7)) / 39 for i in range(40) for j in range(40) if i != j]
    assert tilt_acceptance(rewards, 0.7) == pytest.approx(sum(moves), abs=1e-12)
    with pytest.raises(ValueError, match="acceptance lies between 0 and 1"):
        choose_beta(rewards, acceptance=1.5)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e12])
def test_beta_carries_the_unit_of_the_reward(scale):
    rewards = gaussian(1e3, 1.0, 300)
    rewards = scale * (rewards - rewards[0])
    assert choose_beta(rewards, kl=1.0) / scale == pytest.approx(choose_beta(rewards / scale, kl=1.0), rel=1e-6)
    assert tilt_kl(rewards, choose_beta(rewards, kl=1.0)) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("kl", [4.5, 4.0, 1e-6])
def test_targets_near_the_ends_of_the_range_are_met(kl):
    rewards = gaussian(0.0, 1.0, 100)
    assert tilt_kl(rewards, choose_beta(rewards, kl=kl)) == pytest.approx(kl, rel=1e-6)


def test_excluded_draws_cost_kl_at_every_beta():
    rewards = [*gaussian(0.0, 1.0, 100), *[-math.inf] * 100]
    assert tilt_kl(rewards, 1e9) == pytest.approx(math.log(2))
    assert tilt_ess(rewards, 1e9) == pytest.approx(0.5)
    with pytest.raises(ValueError, match=r"between 0\.6931 and 5\.298"):
        choose_beta(rewards, kl=0.5)


def test_unreachable_targets_tell_the_range():
    with pytest.raises(ValueError, match=r"kl=3 with these 8 rewards: kl lies between 0 and 2\.079"):
        choose_beta(range(8), kl=3.0)
    with pytest.raises(ValueError, match=r"ess lies between 0\.25 and 1"):
        choose_beta([0.0, 0.0, 0.0, 1.0], ess=0.2)
    with pytest.raises(ValueError, match="kl lies between 0 and 0"):
        choose_beta([2.0, 2.0], kl=0.1)


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="exactly one"):
        choose_beta([0.0, 1.0])
    with pytest.raises(ValueError, match="exactly one"):
        choose_beta([0.0, 1.0], kl=0.1, ess=0.5)
    with pytest.raises(ValueError, match="exactly one"):
        choose_beta([0.0, 1.0], acceptance=0.1, ess=0.5)
    with pytest.raises(ValueError, match="two rewards or more"):
        choose_beta([1.0], kl=0.1)
    with pytest.raises(ValueError, match="without NaN"):
        choose_beta([1.0, math.nan], kl=0.1)
    with pytest.raises(ValueError, match="all 2 rewards"):
        choose_beta([-math.inf] * 2, kl=0.1)
    with pytest.raises(ValueError, match="beta=0"):
        tilt_kl([0.0, 1.0], 0.0)


def test_a_population_of_independent_draws_is_a_pilot_and_others_are_refused():
    def table(prefix):
        return [0.3, 0.5, 0.2]

    def reward(prompt, drafts):
        return [sum(draft.tokens) for draft in drafts]

    engine = TableEngine(table, 4, 2)
    target = Target(engine, reward, beta=2.0)
    (pilot,) = Independent(200)(target, "x", Key(0))
    assert choose_beta(pilot, kl=0.3) == choose_beta(pilot.rewards, kl=0.3)
    *_, guided = ETS(4, 2, 2)(target, "x", Key(0))
    (proposed,) = Independent(200)(Target(engine, reward, 2.0, engine.with_sampling(temperature=2.0)), "x", Key(0))
    chain = Population.unweighted([Draft("x")] * 3, [0.0, 1.0, 2.0])
    for population in (guided, proposed, chain):
        with pytest.raises(ValueError, match="not drawn from p alone"):
            choose_beta(population, kl=0.3)


# --------------------------------------------------------------------------------------------------------- best-of-n


def test_one_gaussian_is_recognised_and_gives_the_textbook_rule():
    rewards = gaussian(1.0, 2.0)
    part = dominant(rewards)
    assert part.share == 1.0
    assert part.sd == pytest.approx(2.0, rel=0.01)
    assert beta_of_best_of_n(rewards, 100) == pytest.approx(2.0 / math.sqrt(2 * math.log(100)), rel=0.01)


def test_noise_alone_does_not_call_for_a_second_gaussian():
    """Two Gaussians always fit a sample of one a little better; the three parameters must earn their place."""
    assert [dominant(Key(seed, "noise").rng().normal(size=1000)).share for seed in range(5)] == [1.0] * 5


@pytest.mark.parametrize(("low_sd", "high_sd", "high_mean"), [(1.0, 2.0, 3.0), (0.5, 1.5, -1.0), (1.0, 1.0, 6.0)])
def test_the_dominant_part_of_a_mixture_governs_the_upper_tail(low_sd, high_sd, high_mean):
    """0.7·N(0, low²) + 0.3·N(mean, high²): the wider part, or the higher of equally wide ones."""
    rewards = np.concatenate([gaussian(0.0, low_sd, 1400), gaussian(high_mean, high_sd, 600)])
    part = dominant(rewards)
    assert part.share == pytest.approx(0.3, abs=0.03)
    assert part.mean == pytest.approx(high_mean, abs=0.2)
    assert part.sd == pytest.approx(high_sd, rel=0.06)
    assert beta_of_best_of_n(rewards, 50) == part.sd / math.sqrt(2 * math.log(50 * part.share))


def test_the_fit_follows_shift_and_scale_and_excluded_draws():
    rewards = np.concatenate([gaussian(0.0, 1.0, 700), gaussian(6.0, 2.0, 300)])
    part, moved = dominant(rewards), dominant(5.0 * rewards - 40.0)
    assert moved.share == pytest.approx(part.share, rel=1e-6)
    assert moved.mean == pytest.approx(5.0 * part.mean - 40.0, rel=1e-6)
    assert moved.sd == pytest.approx(5.0 * part.sd, rel=1e-6)
    halved = dominant(np.concatenate([rewards, np.full(1000, -math.inf)]))
    assert halved.share == pytest.approx(part.share / 2, rel=1e-6)


@pytest.mark.parametrize("beta", [0.5, 1.0, 4.0])
def test_the_tilt_of_a_mixture_in_closed_form(beta):
    """0.7·N(0, 1) + 0.3·N(3, 2²), against the integral over a grid of rewards."""
    rewards = np.concatenate([gaussian(0.0, 1.0, 7000), gaussian(3.0, 2.0, 3000)])
    found, parts = tilted(rewards, beta), mixture(rewards)
    grid = np.linspace(-20, 60, 200_001)
    density = np.sum([part.share * np.exp(-0.5 * ((grid - part.mean) / part.sd) ** 2) / part.sd for part in parts], axis=0)
    log_w = grid / beta
    shares = density * np.exp(log_w - log_w.max())
    shares /= shares.sum()
    mean = float(shares @ grid)
    held = density > 0
    kl = float(np.sum(shares[held] * np.log(np.maximum(shares[held] / (density[held] / density.sum()), 1e-300))))
    assert found.mean == pytest.approx(mean, rel=1e-6)
    assert found.kl == pytest.approx(kl, rel=1e-5)
    assert sum(part.share for part in found.parts) == pytest.approx(1.0)
    assert found.mean / beta - found.log_z == pytest.approx(found.kl)


def test_the_tilt_of_one_gaussian_and_of_excluded_draws():
    rewards = gaussian(1.0, 2.0)
    found = tilted(rewards, 4.0)
    assert (found.mean, found.kl) == pytest.approx((1.0 + 4.0 / 4.0, 4.0 / 32.0), rel=0.01)
    excluded = tilted(np.concatenate([rewards, np.full(5000, -math.inf)]), 4.0)
    assert excluded.mean == pytest.approx(found.mean)
    assert excluded.kl == pytest.approx(found.kl + math.log(2.0))
    with pytest.raises(ValueError, match="beta=0"):
        tilted(rewards, 0)


def test_beta_and_n_are_inverse():
    rewards = np.concatenate([gaussian(0.0, 1.0, 700), gaussian(3.0, 2.0, 300)])
    assert best_of_n_of_beta(rewards, beta_of_best_of_n(rewards, 64)) == pytest.approx(64)


def test_best_of_n_arguments_are_checked():
    rewards = np.concatenate([gaussian(0.0, 1.0, 800), gaussian(20.0, 2.0, 200)])
    with pytest.raises(ValueError, match="take n above 5"):
        beta_of_best_of_n(rewards, 4)
    with pytest.raises(ValueError, match="take a beta above"):
        best_of_n_of_beta(rewards, 1e-3)
    with pytest.raises(ValueError, match="beta=-1"):
        best_of_n_of_beta(rewards, -1)
    with pytest.raises(ValueError, match="2 distinct"):
        dominant([0.0, 1.0] * 20)
    with pytest.raises(ValueError, match="9 finite rewards"):
        dominant(range(9))
