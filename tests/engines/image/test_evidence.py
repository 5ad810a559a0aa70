"""The estimate of log p(c|x) by the diffusion model itself, where the right one is known (math: x|c ~ N(μ_c, 1))."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import exptilt as xt
from exptilt.core import Target
from exptilt.errors import CapabilityError
from exptilt.keys import Floats, Key
from exptilt.rewards import ClassifierFree
from tests.engines.image.toys import Formula, engine_of

MEANS = {"left": -1.5, "right": 0.7, None: 0.2}


def unit_gaussians(x: Floats, times: Floats, conditions: Sequence[Any], guidance: Floats) -> Floats:
    """E[ε|x_t] where x|c ~ N(μ_c, 1), so that x_t has variance 1: s·(x_t - α·μ_c)."""
    means = np.array([MEANS[condition] for condition in conditions]).reshape(-1, *[1] * (x.ndim - 1))
    alpha = np.sqrt(times).reshape(means.shape)
    return np.sqrt(1 - alpha**2) * (x - alpha * means)


@pytest.fixture
def engine() -> Any:
    return engine_of(Formula(unit_gaussians, (0.1, 0.5, 0.9), shape=(1, 2, 2)))


@pytest.mark.parametrize("prompt", ["left", "right"])
def test_the_sum_tends_to_the_difference_of_squares_within_one_percent(engine: Any, prompt: str) -> None:
    drafts = engine.extend([engine.start(prompt)] * 6, [Key(5, number) for number in range(6)])
    found = engine.evidence(drafts, Key(1, prompt), levels=64, noises=64)
    x = np.array(engine.finals(drafts)).reshape(6, -1)
    exact = 0.5 * ((x - MEANS[None]) ** 2 - (x - MEANS[prompt]) ** 2).sum(axis=1)
    differences, right = found - found[0], exact - exact[0]
    assert np.abs(differences - right).max() < 0.01 * np.abs(right).max()
    assert np.abs(found - exact).max() < 0.25  # the noise that all share, which no difference sees


def test_noise_that_is_not_shared_would_hide_the_differences(engine: Any) -> None:
    """With 16 levels and 4 draws the differences of two pictures are good to a tenth; by noise of their own they are not."""
    drafts = engine.extend([engine.start("left")] * 2, [Key(5, number) for number in range(2)])
    shared = [np.diff(engine.evidence(drafts, Key(seed), 16, 4))[0] for seed in range(20)]
    apart = [
        engine.evidence(drafts[1:], Key(seed, 1), 16, 4)[0] - engine.evidence(drafts[:1], Key(seed, 0), 16, 4)[0]
        for seed in range(20)
    ]
    assert np.std(shared) < np.std(apart)


def test_as_a_reward_it_is_fixed_for_a_prompt(engine: Any) -> None:
    target = Target(engine, ClassifierFree(levels=8, noises=2), 1.0)
    result = xt.sample(target, "left", xt.Independent(4), select=xt.draw, seed=3)
    again = xt.sample(target, "left", xt.Independent(4), select=xt.draw, seed=3)
    assert result.draft == again.draft
    assert np.array_equal(result.population.rewards, again.population.rewards)
    assert result.usage.reference.forwards == 4 * 3 + 2 * 8 * 2 * 4


def test_engines_that_know_no_evidence_are_refused() -> None:
    engine = engine_of(Formula(unit_gaussians, (0.1, 0.5, 0.9), conditional=False))
    with pytest.raises(CapabilityError, match="evidence"):
        xt.sample(Target(engine, ClassifierFree(), 1.0), "left", xt.Independent(2), select=xt.draw)
