"""Proper weighting by enumeration: E[Σ w f] = Σ γ f to 1e-9, for every sampler, on random targets of every kind.

Every random path of the sampler is taken, so these are equalities, not statistics.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from exptilt.core import Sampler
from exptilt.draft import Draft
from exptilt.engines.masked_table import Order
from exptilt.engines.table import TableEngine
from exptilt.samplers import ETS, SMC, Independent
from exptilt.testing.enumeration import distance, expected_weights
from exptilt.testing.toys import Toy, autoregressive, masked

SEEDS = range(20)


def length_value(prompt: str, drafts: list[Draft]) -> list[float]:
    """Some estimate of the final reward of a partial draft; any will do."""
    return [0.3 * draft.decided - 0.2 * sum(draft.tokens) for draft in drafts]


def plain(block: int) -> dict[str, Sampler]:
    """Samplers of every kind that take two steps on a response of `block` + 1 tokens."""
    return {
        "independent": Independent(2),
        "independent in batches": Independent(3, batch=2),
        "ets": ETS(2, 1, block),
        "ets, one candidate": ETS(1, 2, block),
        "ets, chain only": ETS(2, 1, block, returns="chain"),
        "ets, tempered": ETS(2, 1, block, temper=0.5),
        "ets, uniform scores": ETS(2, 1, block, temper=0.0),
        "ets, value": ETS(2, 1, 1, value=length_value),
        "ets, value, chain only": ETS(2, 1, 1, value=length_value, returns="chain"),
        "ets, one block": ETS(3, 2),
        "ets, step weights": ETS(2, 1, block, step_weights=(0.2, 0.8)),
        "smc": SMC(2, block, 1, threshold=1.0),
        "smc, adaptive": SMC(2, block, 1, threshold=0.8),
        "smc, value": SMC(2, 1, value=length_value, threshold=0.9),
    }


def proposed(block: int) -> dict[str, Sampler]:
    """Samplers that draw from a proposal: ETS-IS and its kin."""
    return {
        "independent": Independent(2),
        "ets": ETS(2, 1, block),
        "ets, chain only": ETS(2, 1, block, returns="chain"),
        "ets, candidates": ETS(2, 1, block, propose_candidates=True),
        "ets, candidates, tempered, chain": ETS(2, 1, block, propose_candidates=True, temper=0.7, returns="chain"),
        "ets, candidates, value": ETS(2, 1, 1, propose_candidates=True, value=length_value),
        "smc": SMC(2, block, 1, threshold=1.0),
        "smc, value": SMC(2, 1, value=length_value, threshold=0.9),
    }


def check(sampler: Sampler, toy: Toy) -> None:
    assert distance(expected_weights(sampler, toy.target), toy.gamma) < 1e-9 * max(1.0, toy.z)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", plain(2))
def test_autoregressive(name: str, seed: int) -> None:
    check(plain(2)[name], autoregressive(seed, cap=3))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", proposed(2))
def test_autoregressive_with_proposal(name: str, seed: int) -> None:
    check(proposed(2)[name], autoregressive(seed, cap=3, proposal=True))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", plain(2))
def test_masked(name: str, seed: int) -> None:
    order: Order = ("random", "left", "confidence")[seed % 3]
    block = 1 if order == "random" else 2  # six orders of three positions are too many paths
    check(plain(block)[name], masked(seed, length=block + 1, order=order))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", proposed(2))
def test_masked_with_proposal(name: str, seed: int) -> None:
    """Only orders that do not depend on the network: for others p is defined along the proposal's orders."""
    order: Order = ("random", "left")[seed % 2]
    block = 1 if order == "random" else 2
    check(proposed(block)[name], masked(seed, length=block + 1, order=order, proposal=True))


def test_larger_alphabet() -> None:
    check(ETS(2, 1, 1, returns="chain"), autoregressive(3, symbols=3, cap=2))
    check(SMC(2, 1, 1, threshold=1.0), autoregressive(4, symbols=3, cap=2))


def test_hard_constraint_reaches_zero_weight_runs() -> None:
    """A reward of -inf excludes drafts; runs in which everything is excluded count as Ẑ = 0 and keep E[Ẑ] = Z."""
    toy = autoregressive(5, cap=2)
    excluded = {tokens for tokens in toy.gamma if tokens[0] == 0}

    def reward(prompt: str, drafts: list[Draft]) -> list[float]:
        return [float("-inf") if draft.tokens in excluded else 0.5 for draft in drafts]

    target = replace(toy.target, reward=reward)
    assert isinstance(toy.target.engine, TableEngine)
    log_p = toy.target.engine.enumerate()
    wanted = {tokens: 0.0 if tokens in excluded else math.exp(value + 0.5) for tokens, value in log_p.items()}
    for sampler in (Independent(2), ETS(2, 1, 1), ETS(2, 1, 1, returns="chain"), SMC(2, 1, 1, threshold=1.0)):
        assert distance(expected_weights(sampler, target), wanted) < 1e-9
