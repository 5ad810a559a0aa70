"""Twisted proposals: weights are exact for any value, by enumeration; the true value makes them even; the support is kept."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import exptilt as xt
from exptilt.engines import TableEngine
from exptilt.errors import TargetError
from exptilt.testing import check_engine
from exptilt.train.twisted import TwistedEngine, twist_shares
from tests.train.toys import PROMPT, ones, table

BETA = 0.8


def wild(prefix: tuple[int, ...]) -> list[float]:
    """A value that has nothing to do with the reward, and is 0 for some tokens."""
    noise = np.random.default_rng([len(prefix), *prefix]).normal(0, 3, 3)
    return [-math.inf if number > 3 else number for number in noise]


def true_value(engine: TableEngine) -> Any:
    """log E[exp(r/β) | prefix] of each next token, by enumeration."""
    outcomes = engine.enumerate()
    log_h = {tokens: log_p + ones(PROMPT, [draft_of(tokens)])[0] / BETA for tokens, log_p in outcomes.items()}

    def log_v(prefix: tuple[int, ...]) -> list[float]:
        begun = [(*prefix, token) for token in range(3)]
        return [total(log_h, start) - total(outcomes, start) for start in begun]

    return log_v


def total(logs: dict[tuple[int, ...], float], start: tuple[int, ...]) -> float:
    return float(np.logaddexp.reduce([log for tokens, log in logs.items() if tokens[: len(start)] == start]))


def draft_of(tokens: tuple[int, ...]) -> xt.Draft:
    return xt.Draft(PROMPT, tokens, finish="stop" if tokens[-1] == 2 else "length")


@pytest.mark.parametrize("defence", [0.05, 0.5, 1.0])
def test_weights_are_exact_for_any_value(defence: float) -> None:
    """Σ_y q(y)·p(y)/q(y)·exp(r/β) is Z term by term: q is normalised, draws all that p does, and scores what it draws."""
    engine = table()
    twisted = TwistedEngine(engine, wild, defence)
    inner = twisted.drawing
    assert isinstance(inner, TableEngine)
    outcomes, proposed = engine.enumerate(), inner.enumerate()
    assert outcomes.keys() == proposed.keys()
    assert math.isclose(math.fsum(map(math.exp, proposed.values())), 1.0, rel_tol=1e-12)
    scores = twisted.score([draft_of(tokens) for tokens in outcomes])
    assert [sum(score) for score in scores] == pytest.approx([proposed[tokens] for tokens in outcomes])
    most = max(outcomes[tokens] - proposed[tokens] for tokens in outcomes)
    assert most <= -4 * math.log(defence) + 1e-9  # p/q is at most 1/d to the power of the length


def test_a_population_is_that_of_the_target() -> None:
    """The mean of Ẑ over many runs is Z within 5 standard errors, and the draws are twisted."""
    engine = table()
    target = xt.Target(engine, ones, BETA, proposal=TwistedEngine(engine, wild, 0.2))
    runs = [xt.sample(target, PROMPT, xt.Independent(20), seed=seed).population for seed in range(150)]
    log_gamma = {tokens: log_p + ones(PROMPT, [draft_of(tokens)])[0] / BETA for tokens, log_p in engine.enumerate().items()}
    z = math.exp(total(log_gamma, ()))
    found = np.array([math.exp(run.log_z or 0.0) for run in runs])
    assert abs(found.mean() - z) < 5 * found.std() / math.sqrt(len(found))


def test_the_true_value_makes_weights_even() -> None:
    """With V exact every weight is Z but for the defence; plain draws have an effective sample size of a third."""
    engine = table()
    plain = xt.sample(xt.Target(engine, ones, 0.5), PROMPT, xt.Independent(400)).population
    proposal = TwistedEngine(engine, true_value(engine), 1e-6)
    even = xt.sample(xt.Target(engine, ones, BETA, proposal=proposal), PROMPT, xt.Independent(400)).population
    assert even.ess > 399.9
    assert plain.ess < 300


@pytest.mark.parametrize("sampler", [xt.SMC(particles=4, block=2), xt.ETS(candidates=3, rollouts=2, block=2)])
def test_other_samplers_take_it(sampler: Any) -> None:
    engine = table()
    proposal = TwistedEngine(engine, true_value(engine))
    target = xt.Target(engine, ones, BETA, proposal=proposal)
    assert xt.sample(target, PROMPT, sampler).population.log_z is not None


def test_no_defence_is_refused() -> None:
    for defence in (0.0, -0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match=r"must be above 0 and at most 1.*keeps every response"):
            TwistedEngine(table(), wild, defence)


def test_values_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"give one number below \+inf for each"):
        twist_shares(np.array([0.5, 0.5]), np.array([math.nan, 0.0]), 0.1)
    assert twist_shares(np.array([0.5, 0.5]), np.full(2, -math.inf), 0.1).tolist() == [0.5, 0.5]


def test_a_function_is_for_tables() -> None:
    masked = xt.engines.MaskedTableEngine(lambda state, position: [0.5, 0.5], 2)  # pyright: ignore
    with pytest.raises(TargetError, match="a function, which is for tables"):
        TwistedEngine(masked, wild)


def test_it_is_an_engine() -> None:
    rambling = TwistedEngine(table().with_sampling(max_tokens=8), lambda prefix: [0.5, 0.1 * len(prefix), -2.0])
    assert len(check_engine(rambling, [PROMPT, "something else"], stops=False)) > 5
