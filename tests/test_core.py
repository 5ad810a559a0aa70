"""Keys, drafts, budgets and targets: what they promise and what they refuse."""

from __future__ import annotations

import math
from dataclasses import replace
from hashlib import blake2b

import numpy as np
import pytest

from exptilt.core import Engine, Sampler, Target, check_capabilities
from exptilt.draft import MASK, Draft
from exptilt.engines.table import TableEngine
from exptilt.errors import CapabilityError, RewardError, TargetError
from exptilt.keys import Key
from exptilt.rating import rate
from exptilt.samplers import ETS, SMC, Independent, SuffixMCMC
from exptilt.testing.toys import autoregressive, random_table
from exptilt.usage import Budget, Usage


def test_same_key_same_stream_and_children_differ() -> None:
    assert Key(1, "a").rng().random() == Key(1).child("a").rng().random()
    streams = {Key(seed, *path).rng().random() for seed in (0, 1) for path in ((), ("a",), ("a", 1), ("a", "1"), (1, "a"))}
    assert len(streams) == 10


def test_streams_are_philox_keyed_by_a_digest() -> None:
    """What was drawn from a key yesterday is drawn from it today: results files are resumed on the strength of that."""
    digest = blake2b(b"(7, ('a', 2))", digest_size=16).digest()
    plain = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
    np.testing.assert_array_equal(Key(7, "a", 2).rng().random(8), plain.random(8))


def test_choices_follow_their_weights() -> None:
    """Chi-square of 20,000 choices with unequal, unnormalised weights, one of them zero."""
    weights = np.array([0.0, 3.0, 1.0, 0.5, 0.0])
    stream = Key(3).stream()
    counts = np.bincount([stream.choose(weights) for _ in range(20_000)], minlength=5)
    expected = 20_000 * weights / weights.sum()
    assert counts[0] == counts[4] == 0
    held = expected > 0
    chi_square = float(np.sum((counts[held] - expected[held]) ** 2 / expected[held]))
    assert chi_square < 2 + 5 * math.sqrt(2 * 2)  # mean 2 and variance 4 at two degrees of freedom


@pytest.mark.parametrize("weights", [[0.0, 0.0], [math.nan, 1.0], [math.inf, 1.0]])
def test_choices_refuse_weights_without_a_law(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="cannot choose"):
        Key(0).choose(weights)


def test_cut_keeps_decisions_in_their_order() -> None:
    draft = Draft("x", (5, 6, 7), (-1.0, -2.0, -3.0), "abc", "stop")
    assert draft.cut(3) is draft
    assert draft.cut(2) == Draft("x", (5, 6), (-1.0, -2.0))
    filled = Draft("x", (5, 6, 7), (-1.0, -2.0, -3.0), "abc", "length", order=(2, 0, 1))
    assert filled.cut(1) == Draft("x", (MASK, MASK, 7), (-1.0,), order=(2,))
    assert filled.cut(1).decided == 1
    with pytest.raises(ValueError, match="cannot keep -1"):
        draft.cut(-1)


def test_budget_names_the_limit_that_is_reached() -> None:
    usage = Usage(reward_calls=3)
    usage.reference.add(generated=60)
    usage.proposal.add(scored=40)
    assert Budget(tokens=101).spent(usage) is None
    assert Budget(tokens=100).spent(usage) == "tokens: 100 of 100"
    assert Budget(reward_calls=3, tokens=1000).spent(usage) == "reward_calls: 3 of 3"
    with pytest.raises(ValueError, match="tokens=0"):
        Budget(tokens=0)


@pytest.mark.parametrize("beta", [0, -0.1, math.nan, math.inf, "0.1"])
def test_target_refuses_beta(beta: float) -> None:
    with pytest.raises(TargetError, match="positive finite"):
        replace(autoregressive(0).target, beta=beta)


def test_target_refuses_a_reward_that_is_no_function() -> None:
    with pytest.raises(TargetError, match="not callable"):
        replace(autoregressive(0).target, reward=0.5)


def test_target_refuses_a_proposal_over_other_tokens() -> None:
    target = autoregressive(0).target
    with pytest.raises(TargetError, match="alphabet"):
        replace(target, proposal=TableEngine(random_table(1, 3), 3, 2))
    with pytest.raises(TargetError, match="max_tokens"):
        replace(target, proposal=target.engine.with_sampling(max_tokens=2))


@pytest.mark.parametrize("sampler", [Independent(2), ETS(2, 1, 1), SMC(2, 1), SuffixMCMC(2)])
def test_rewards_beyond_floats_beside_beta_are_named(sampler: Sampler) -> None:
    """1e300/1e-20 is inf: weights of inf or NaN, or of zero for -1e300, which only -inf itself should be."""
    toy = autoregressive(0)
    for reward in (1e300, -1e300):
        target = replace(toy.target, reward=lambda prompt, drafts, reward=reward: [reward for _ in drafts], beta=1e-20)
        with pytest.raises(RewardError, match="beyond the range of floats"):
            list(sampler(target, "x", Key(0)))
    assert target.tilt(np.array([-math.inf, 1e-20])).tolist() == [-math.inf, 1.0]


@pytest.mark.parametrize(
    ("values", "message"),
    [([math.nan], "returned nan"), ([math.inf], "returned inf"), ([], "shape"), ([1.0, 2.0], "shape"), ([[1.0]], "shape")],
)
def test_bad_rewards_are_errors_that_name_the_reward(values: list[float], message: str) -> None:
    def my_reward(prompt: str, drafts: list[Draft]) -> list[float]:
        return values

    with pytest.raises(RewardError, match=message) as caught:
        rate(my_reward, "x", [Draft("x")])
    assert "my_reward" in str(caught.value)


def test_a_reward_that_raises_is_an_error_that_names_it() -> None:
    def broken(prompt: str, drafts: list[Draft]) -> list[float]:
        raise KeyError("colour")

    with pytest.raises(RewardError, match="broken raised KeyError: 'colour'"):
        rate(broken, "x", [Draft("x")])
    assert rate(broken, "x", []).shape == (0,)


class Mute(TableEngine):
    """An engine that can only draw whole responses."""

    can = frozenset[str]()


def test_capabilities_are_checked_with_both_sides_printed() -> None:
    target = Target(Mute(random_table(1, 2), 3, 1), lambda _, drafts: [0.0] * len(drafts), 1.0)
    check_capabilities(Independent(3), target)
    check_capabilities(ETS(3), target)  # one block to the end continues nothing
    for sampler in (ETS(3, 1, 1), SuffixMCMC(3)):
        with pytest.raises(CapabilityError, match=r"needs \['continue'\].*can \[\].*Independent"):
            check_capabilities(sampler, target)
    good = autoregressive(0).target
    with pytest.raises(CapabilityError, match="logq"):
        check_capabilities(Independent(3), replace(good, proposal=Mute(random_table(1, 2), 3, 1)))


def test_table_engine_is_an_engine() -> None:
    assert isinstance(autoregressive(0).target.engine, Engine)
