"""Populations: weights, averages, resampling and pooling."""

from __future__ import annotations

import math

import numpy as np
import pytest

from exptilt.draft import Draft
from exptilt.errors import AllWeightsZero, WeightsError
from exptilt.keys import Key
from exptilt.populations.population import Population, systematic
from tests.exact import paths

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


def test_resample_keeps_log_z() -> None:
    one = population(0.0, 1.0, -1.0, 2.0)
    again = one.resample(Key(0), 10)
    assert len(again) == 10
    assert one.log_z is not None
    assert again.log_z is not None
    assert math.isclose(one.log_z, again.log_z)
    np.testing.assert_allclose(again.weights, 0.1)
