"""Identities that tie the samplers together: each is a special case of another, exactly."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from exptilt.core import Sampler
from exptilt.draft import Draft
from exptilt.keys import Key
from exptilt.samplers import ETS, SMC, Independent
from exptilt.testing.enumeration import distance, draw_law, final
from exptilt.testing.toys import Toy, autoregressive, masked

SEEDS = range(20)
SAMPLERS: list[Sampler] = [Independent(4), ETS(3, 2, 2), ETS(3, 2, 2, returns="chain"), SMC(4, 2)]


def toy_of(seed: int, proposal: bool = False) -> Toy:
    """Autoregressive and masked targets in turn."""
    return masked(seed, length=2, proposal=proposal) if seed % 2 else autoregressive(seed, proposal=proposal)


def reference_law(toy: Toy) -> dict[tuple[int, ...], float]:
    return {tokens: math.exp(log_p) for tokens, log_p in toy.target.engine.enumerate().items()}  # type: ignore[attr-defined]


@pytest.mark.parametrize("seed", SEEDS)
def test_one_candidate_draws_from_p(seed: int) -> None:
    toy = toy_of(seed)
    assert distance(draw_law(ETS(1, 1, 1, returns="chain"), toy.target), reference_law(toy)) < 1e-9


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("returns", ["chain", "rollouts"])
def test_one_full_block_is_soft_best_of_n(seed: int, returns: str) -> None:
    target = toy_of(seed).target
    one_block = ETS(2, 1, returns=returns)  # type: ignore[arg-type]
    assert distance(draw_law(one_block, target), draw_law(Independent(2), target)) < 1e-9


@pytest.mark.parametrize("seed", SEEDS)
def test_proposal_equal_to_reference_is_plain_ets(seed: int) -> None:
    """q = p: the same key gives the same drafts with the same weights."""
    target = toy_of(seed).target
    for propose_candidates in (False, True):
        plain = final(ETS(3, 2, 1), target, Key(seed))
        proposed = final(ETS(3, 2, 1, propose_candidates=propose_candidates), replace(target, proposal=target.engine), Key(seed))
        assert plain is not None
        assert proposed is not None
        assert plain.drafts == proposed.drafts
        np.testing.assert_allclose(plain.log_w, proposed.log_w, atol=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("sampler", [Independent(2), ETS(2, 1, 2, returns="chain"), SMC(2, 2, threshold=1.0)])
def test_large_beta_draws_from_p(sampler: Sampler, seed: int) -> None:
    toy = toy_of(seed)
    law = draw_law(sampler, replace(toy.target, beta=1e12))
    assert distance(law, reference_law(toy)) < 1e-9


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_reward_shift_moves_log_z_alone(sampler: Sampler, seed: int) -> None:
    target = toy_of(seed).target
    shift = 3.7

    def shifted(prompt: str, drafts: list[Draft]) -> list[float]:
        return [value + shift for value in target.rate(prompt, drafts)]

    before, after = final(sampler, target, Key(seed)), final(sampler, replace(target, reward=shifted), Key(seed))
    assert before is not None
    assert after is not None
    assert before.log_z is not None
    assert after.log_z is not None
    assert before.drafts == after.drafts
    np.testing.assert_allclose(before.weights, after.weights, atol=1e-12)
    assert math.isclose(after.log_z - before.log_z, shift / target.beta, abs_tol=1e-9)


def test_extreme_rewards_do_not_overflow() -> None:
    """r/β far beyond 88 (float32) and 709 (float64) stays in log space."""
    target = toy_of(0).target

    def steep(prompt: str, drafts: list[Draft]) -> list[float]:
        return [5000.0 * value for value in target.rate(prompt, drafts)]

    for sampler in SAMPLERS:
        population = final(sampler, replace(target, reward=steep), Key(1))
        assert population is not None
        assert math.isclose(float(np.sum(population.weights)), 1.0)
