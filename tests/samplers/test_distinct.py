"""Distinct weights: each different response counts once, by the probability that n draws find it."""

from __future__ import annotations

import math

import numpy as np
import pytest

import exptilt as xt
from exptilt.describe import describe
from exptilt.errors import CapabilityError, TargetError
from exptilt.keys import Key
from exptilt.samplers.independent import Independent, log_found
from exptilt.testing import autoregressive, check_sampler, constrained, distance, expected_weights, masked
from exptilt.testing.toys import random_table


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["autoregressive", "proposal", "masked", "masked, proposal", "constrained"])
def test_by_enumeration(kind: str, seed: int, n: int) -> None:
    toy = {
        "autoregressive": lambda: autoregressive(seed, cap=2),
        "proposal": lambda: autoregressive(seed, cap=2, proposal=True),
        "masked": lambda: masked(seed, length=2, order=("left", "confidence")[seed % 2]),
        "masked, proposal": lambda: masked(seed, length=2, order="left", proposal=True),
        "constrained": lambda: constrained(autoregressive(seed, cap=2), lambda tokens: tokens[-1] == 0),
    }[kind]()
    found = expected_weights(Independent(n, weights="distinct"), toy.target)
    assert distance(found, toy.gamma) < 1e-9


def test_the_contract() -> None:
    assert check_sampler(Independent(2, weights="distinct")) == 6  # all but the masked model with a random order
    assert check_sampler(Independent(3, batch=2, weights="distinct")) == 6


def test_a_random_order_is_refused() -> None:
    """Its drafts' log-probabilities are those of a path given its order: E[Ẑ] came out up to twice too small."""
    with pytest.raises(TargetError, match="in a random order, whose probability is not known"):
        Independent(2, weights="distinct").needs(masked(1, length=2, order="random").target)


def test_each_response_is_there_once() -> None:
    toy = autoregressive(1, cap=3)
    *_, population = Independent(64, weights="distinct")(toy.target, "x", Key(0))
    assert len({draft.tokens for draft in population.drafts}) == len(population) < 64
    *_, draws = Independent(64)(toy.target, "x", Key(0))
    assert {draft.tokens for draft in population.drafts} == {draft.tokens for draft in draws.drafts}


def test_without_repeats_the_weights_are_those_of_the_draws() -> None:
    """Where q is small, 1 - (1-q)^n is n·q, and each response weighs h/n as ever."""
    engine = xt.engines.TableEngine(random_table(1, 8), 12, 7)
    target = xt.Target(engine, lambda prompt, drafts: [0.1 * sum(draft.tokens) for draft in drafts], 1.0)
    *_, distinct = Independent(16, weights="distinct")(target, "x", Key(0))
    *_, draws = Independent(16)(target, "x", Key(0))
    small = [row for row, draft in enumerate(distinct.drafts) if math.fsum(draft.logq or ()) < -16]
    assert len(small) > 4
    by_tokens = {draft.tokens: float(log_w) for draft, log_w in zip(draws.drafts, draws.log_w, strict=True)}
    for row in small:
        assert distinct.log_w[row] == pytest.approx(by_tokens[distinct.drafts[row].tokens], abs=1e-5)


def test_the_probability_of_being_found_at_its_ends() -> None:
    """q = 1 is found for sure; a q too small for a float is found n times as likely as by one draw."""
    found = log_found(np.array([0.0, math.log(0.5), -800.0, -41.0, 1e-12]), 4)
    assert found[[0, 4]].tolist() == [0.0, 0.0]
    assert found[1] == pytest.approx(math.log(1 - 0.5**4))
    assert found[2:4] == pytest.approx([-800 + math.log(4), -41 + math.log(4)])
    near = log_found(np.array([-40.0 - 1e-9, -40.0 + 1e-9]), 10_000)
    assert near[0] == pytest.approx(near[1], abs=1e-8)


def test_votes_vary_less_where_responses_repeat() -> None:
    """Six responses and eight draws: the squared error of an answer's probability falls to less than half."""
    engine = xt.engines.TableEngine(random_table(3, 2), 3, 1)
    target = xt.Target(engine, lambda prompt, drafts: [0.0] * len(drafts), 1.0)
    p = {tokens: math.exp(value) for tokens, value in engine.enumerate().items()}
    truth = sum(value for tokens, value in p.items() if tokens[0] == 0)

    def error(weights: str) -> float:
        shares = []
        for seed in range(400):
            *_, population = Independent(8, weights=weights)(target, "x", Key(seed))  # type: ignore[arg-type]
            heads = np.array([draft.tokens[0] == 0 for draft in population.drafts])
            shares.append(float(population.weights @ heads))
        return float(np.mean((np.array(shares) - truth) ** 2))

    assert error("distinct") < 0.5 * error("draws")


def test_an_engine_without_log_probabilities_is_refused() -> None:
    class Silent(xt.engines.TableEngine):
        can = xt.engines.TableEngine.can - {"logq"}

    target = xt.Target(Silent(random_table(1, 2), 2, 1), lambda prompt, drafts: [0.0] * len(drafts), 1.0)
    with pytest.raises(CapabilityError, match="logq"):
        xt.sample(target, "x", Independent(2, weights="distinct"))


def test_a_field_that_came_later_does_not_part_old_files() -> None:
    """Settings of a run with the default are those that files hold which were written before the field existed."""
    assert describe(Independent(4)) == {"type": "Independent", "n": 4, "batch": None}
    assert describe(Independent(4, weights="distinct")) == {"type": "Independent", "n": 4, "batch": None, "weights": "distinct"}
