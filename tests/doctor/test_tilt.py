"""The doctor's estimates against enumerated laws, within five standard errors, and the choice of β against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from exptilt.core import Target
from exptilt.doctor.pilot import PLACES, Branches, Sounding
from exptilt.doctor.tilt import (
    Estimate,
    Tilt,
    attainable_kl,
    best_of,
    common_beta,
    heavy_tails,
    measure,
    resample,
)
from exptilt.draft import Draft
from exptilt.engines import TableEngine
from exptilt.populations.calibrate import choose_beta
from exptilt.testing.toys import Toy, autoregressive
from tests.doctor import tables

SEEDS = (3, 4)


def plain(*rewards: float) -> Sounding:
    return Sounding(np.array(rewards), np.full(len(rewards), 5.0))


def estimated(seed: int) -> tuple[Tilt, list[Tilt]]:
    """The estimates for a toy from 25 pilots of 200 draws, and bootstrap resamples of them."""
    toy = autoregressive(seed, symbols=3, cap=5)
    pilots = tables.soundings(toy, 25, 200)
    return measure(pilots, 1.0), [measure(sample, 1.0) for sample in resample(pilots, 60, 0)]


@pytest.mark.parametrize("seed", SEEDS)
def test_estimates_agree_with_enumeration(seed: int) -> None:
    toy = autoregressive(seed, symbols=3, cap=5)
    tilt, samples = estimated(seed)

    def near(name: str, truth: float) -> bool:
        error = float(np.std([getattr(sample, name) for sample in samples]))
        return abs(getattr(tilt, name) - truth) < 5 * error < 0.4 * truth

    assert near("share", tables.ess_share(toy))
    assert near("kl", tables.kl(toy))
    assert near("acceptance", tables.acceptance(toy, seed))
    for place, share in enumerate(PLACES):
        error = float(np.std([sample.explained[place] for sample in samples]))
        truth = tables.explained(toy, max(1, round(share * tables.mean_length(toy))))
        assert abs(tilt.explained[place] - truth) < 5 * error < 0.4


def test_what_beginnings_explain_in_closed_form() -> None:
    """The reward counts heads in 8 tosses, so h is a product and 1+χ² the eighth power of c."""
    beta, size = 1.5, 8
    toy = Toy(Target(tables.coin(size), tables.of_tokens(sum), beta), {})
    c = 2 * (1 + math.exp(2 / beta)) / (1 + math.exp(1 / beta)) ** 2
    pilots = tables.soundings(toy, 30, 64)
    tilt = measure(pilots, beta)
    samples = [measure(sample, beta) for sample in resample(pilots, 50, 0)]
    for place, share in enumerate(PLACES):
        truth = (c ** (share * size) - 1) / (c**size - 1)
        error = float(np.std([sample.explained[place] for sample in samples]))
        assert abs(tilt.explained[place] - truth) < 5 * error < 0.3


def test_what_few_pairs_lose_to_their_own_mean_is_given_back() -> None:
    """4 pairs each, which agree with probability 0.5 and else are independent: uncorrected, 0.38 instead of 0.5."""
    generator = np.random.default_rng(0)

    def pilot() -> Sounding:
        rewards = generator.integers(0, 2, 64).astype(float)
        again = np.where(generator.random(4) < 0.5, rewards[:4], generator.integers(0, 2, 4))
        fork = Branches(np.ones(4), again, np.full(4, 5.0), np.full(4, math.inf))
        return Sounding(rewards, np.full(64, 5.0), None, (fork, fork, fork))

    pilots = [pilot() for _ in range(1500)]
    samples = [measure(sample, 1.0).explained[0] for sample in resample(pilots, 8, 0)]
    assert abs(measure(pilots, 1.0).explained[0] - 0.5) < 5 * float(np.std(samples)) < 0.1


def test_a_parity_is_not_told_by_its_beginning() -> None:
    """The parity of 8 tosses: nothing but the whole response says anything about it."""
    engine = tables.coin(8)
    toy = Toy(Target(engine, tables.of_tokens(lambda tokens: sum(tokens) % 2), 0.5), {})
    assert max(measure(tables.soundings(toy, 20, 100), 0.5).explained) < 0.1


def test_a_beginning_that_decides_tells_all() -> None:
    toy = Toy(Target(tables.coin(8), tables.of_tokens(lambda tokens: tokens[0]), 0.5), {})
    assert measure(tables.soundings(toy, 5, 40), 0.5).explained == pytest.approx((1.0, 1.0, 1.0))


@pytest.mark.parametrize("size", [6, 8])
def test_losses_that_a_bound_shows(size: int) -> None:
    """All tosses must be heads: of 1 - 2^-n of the draws that are lost, k tosses show 1 - 2^-k, and none without a bound."""
    toy = Toy(Target(tables.coin(size), tables.AllHeads(), 0.1), {})
    pilots = tables.soundings(toy, 40, 60)
    tilt, samples = measure(pilots, 0.1), [measure(sample, 0.1).lost for sample in resample(pilots, 60, 0)]
    for place, share in enumerate(PLACES):
        truth = (1 - 0.5 ** (1 + max(1, round(share * size)))) / (1 - 0.5**size)  # a token is drawn before the bound is read
        error = float(np.std([sample[place] for sample in samples]))
        assert abs(tilt.lost[place] - truth) < 5 * error < 0.1
    blind = Toy(Target(tables.coin(size), tables.of_tokens(all), 0.1), {})
    assert measure(tables.soundings(blind, 40, 60), 0.1).lost == (0.0, 0.0, 0.0)


def test_bounds_that_read_text_see_it() -> None:
    """A draft that was cut has tokens and no text: every bound that read the text found nothing wrong with it."""
    engine = TableEngine(lambda prefix: np.array([0.5, 0.5, 0.0]), 6, 2, symbols=("a", "b", "."))
    told = measure(tables.soundings(Toy(Target(engine, OnlyA(), 0.1), {}), 40, 60), 0.1).lost
    assert told[1] > 0.8


class OnlyA:
    """1.0 for a text without b, as its bound says of every beginning."""

    def __call__(self, prompt: str, drafts: list[Draft]) -> list[float]:
        return [float("b" not in draft.text) for draft in drafts]

    bound = __call__


def test_draws_that_had_ended_are_seen_to_be_lost_without_a_bound() -> None:
    short = Branches(np.full(2, 5.0), np.array([0.0, 1.0]), np.full(2, 5.0), np.array([0.0, 1.0]))
    pilot = Sounding(np.array([0.0, 1.0]), np.full(2, 5.0), None, (short, short, short))
    assert measure([pilot], 0.1).lost == (1.0, 1.0, 1.0)


def test_excluded_draws() -> None:
    mixed = plain(0.0, 1.0, -math.inf, -math.inf)
    moves = Branches(np.array([0.0, 2.0]), np.array([-math.inf, 1.0]), np.array([5.0, 5.0]), np.full(2, math.inf))
    tilt = measure([Sounding(mixed.rewards, mixed.lengths, moves)], 1.0)
    shares = np.array([1.0, math.e]) / (1 + math.e)
    assert tilt.acceptance == pytest.approx(shares[1])  # the move of the first draw leads to a draft that is excluded
    assert tilt.share == pytest.approx((1 + math.e) ** 2 / (1 + math.e**2) / 4)


def test_prompts_without_spread_are_left_out() -> None:
    assert not plain(1.0, 1.0).varies
    assert plain(1.0, -math.inf).varies
    alone = measure([plain(0.0, 1.0)], 1.0)
    assert measure([plain(0.0, 1.0), plain(3.0, 3.0)], 1.0).share == alone.share
    assert math.isnan(alone.acceptance)
    assert alone.explained == ()
    with pytest.raises(ValueError, match="no reward varies on any of 1 prompts"):
        measure([plain(2.0, 2.0)], 1.0)


# --------------------------------------------------------------------------------------------------------- choosing β


def test_beta_of_one_prompt_is_choose_beta() -> None:
    rewards = np.random.default_rng(0).normal(size=200)
    assert common_beta([plain(*rewards)], kl=0.7) == pytest.approx(choose_beta(rewards, kl=0.7), rel=1e-5)
    assert common_beta([plain(*rewards)], share=0.4) == pytest.approx(choose_beta(rewards, ess=0.4), rel=1e-5)


def test_beta_of_several_prompts_meets_the_mean() -> None:
    pilots = [plain(*np.random.default_rng(seed).normal(scale=1 + seed, size=100)) for seed in range(3)]
    assert measure(pilots, common_beta(pilots, kl=0.8)).kl == pytest.approx(0.8, abs=1e-5)
    assert measure(pilots, common_beta(pilots, share=0.3)).share == pytest.approx(0.3, abs=1e-5)


def test_what_no_beta_reaches() -> None:
    halves = [plain(0.0, 0.0, 1.0, 1.0)]
    assert attainable_kl(halves) == pytest.approx(math.log(2))
    assert measure(halves, common_beta(halves, kl=0.7)).kl == pytest.approx(0.9 * math.log(2), abs=1e-5)
    assert measure(halves, common_beta(halves, share=0.1)).share == pytest.approx(0.55, abs=1e-5)
    filtered = [plain(0.0, 0.0, 1.0, -math.inf)]
    assert measure(filtered, common_beta(filtered, kl=0.01)).kl > math.log(4 / 3)  # what exclusion alone costs
    assert common_beta([plain(2.0, 2.0, -math.inf)], kl=0.5) == 1.0  # every β does the same
    with pytest.raises(ValueError, match="exactly one"):
        common_beta(halves)


def test_best_of_n_of_the_same_mean_reward() -> None:
    """A tilt with mean reward 0.7 of half zeros, half ones: two draws have 0.75."""
    halves = [plain(*[0.0] * 50, *[1.0] * 50)]
    beta = 1 / math.log(0.7 / 0.3)
    assert best_of(halves, beta) == 2
    assert best_of([plain(0.0, 0.0, -math.inf, 5.0)], 1e-3) == 4


def test_heavy_tails() -> None:
    steep, even = np.random.default_rng(1).exponential(size=400), np.random.default_rng(1).uniform(size=400)
    assert heavy_tails([plain(*steep), plain(*even)], 0.5) == 1
    assert heavy_tails([plain(*steep[:20])], 0.5) == 0  # too few to fit a tail


def test_intervals() -> None:
    assert Estimate.of(1.0, []) == (1.0, 1.0, 1.0)
    assert Estimate.of(1.0, [0.0, math.nan, 2.0]) == pytest.approx((1.0, 0.05, 1.95))
    single = plain(*np.random.default_rng(0).normal(size=60))
    beta = common_beta([single], kl=0.5)
    shares = [measure(sample, beta).share for sample in resample([single], 50, 0)]
    assert 0.02 < np.std(shares) < 0.2  # one prompt: its draws are resampled
