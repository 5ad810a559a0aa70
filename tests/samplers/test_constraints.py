"""Hard constraints, enumerated: E[Σ w f] = Σ γ f to 1e-9 where the reward excludes responses (-inf), for every sampler.

A draft whose rollouts all happened to be excluded once had score 0 for ever, although its energy is positive: under a
constraint that 2.2 % of responses meet, E[Ẑ]/Z was 0.01. Tests whose constraint is decided by the first token cannot see
that: such drafts are excluded rightly. So the constraints here are decided by the last token, in the middle, or by the
length, and once by a reward that is finite but underflows beside the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from exptilt.core import Sampler, Target
from exptilt.draft import Draft
from exptilt.engines.masked_table import Order
from exptilt.errors import AllWeightsZero
from exptilt.keys import Key
from exptilt.populations.population import Population
from exptilt.samplers import ETS, SMC, Independent, Metropolised, Rejection
from exptilt.samplers.picks import log_picks
from exptilt.samplers.trace import Tree
from exptilt.testing.enumeration import Law, distance, draw_law, expected_weights, gamma, paths
from exptilt.testing.toys import Tokens, Toy, autoregressive, masked, reward_of

CONSTRAINTS: dict[str, Callable[[Tokens], bool]] = {
    "last token": lambda tokens: tokens[-1] == 1,
    "middle": lambda tokens: tokens[1:2] == (0,),
    "length": lambda tokens: len(tokens) == 3,
    "parity": lambda tokens: sum(tokens) % 2 == 1,
}


def constrained(toy: Toy, seed: int, allowed: Callable[[Tokens], bool], excluded: float = -math.inf) -> Toy:
    """The toy with its reward where it is allowed, and `excluded` elsewhere."""

    def value(tokens: Tokens) -> float:
        return reward_of(seed, tokens) if allowed(tokens) else excluded

    def reward(prompt: str, drafts: list[Draft]) -> list[float]:
        return [value(draft.tokens) for draft in drafts]

    target = replace(toy.target, reward=reward)
    return Toy(target, gamma(target.engine.enumerate(), value, target.beta))  # type: ignore[attr-defined]


def toy_of(kind: str, seed: int, allowed: Callable[[Tokens], bool], proposal: bool = False) -> tuple[Toy, int]:
    """A constrained toy and a block that takes two steps on it or three."""
    if kind == "autoregressive":
        return constrained(autoregressive(seed, cap=3, proposal=proposal), seed, allowed), 2
    order: Order = ("left", "random")[seed % 2]
    length = 2 if order == "random" else 3  # six orders of three positions are too many paths
    return constrained(masked(seed, length=length, order=order, proposal=proposal), seed, allowed), length - 1


def no_hope(prompt: str, drafts: list[Draft]) -> list[float]:
    """A value that excludes every partial draft, wrongly."""
    return [-math.inf] * len(drafts)


def some_hope(prompt: str, drafts: list[Draft]) -> list[float]:
    """A value that excludes some partial drafts, wrongly, and is far too low for the others."""
    return [-math.inf if sum(draft.tokens) % 2 else -3000.0 * draft.decided for draft in drafts]


def samplers(block: int) -> dict[str, Sampler]:
    return {
        "independent": Independent(2),
        "independent, one": Independent(1),
        "independent in batches": Independent(3, batch=1),
        "ets": ETS(2, 1, block),
        "ets, M = K = 1": ETS(1, 1, 1),
        "ets, K = 2": ETS(1, 2, block),
        "ets, chain only": ETS(2, 1, block, returns="chain"),
        "ets, chain only, M = K = 1": ETS(1, 1, 1, returns="chain"),
        "ets, tempered": ETS(2, 1, block, temper=0.5, returns="chain"),
        "ets, uniform scores": ETS(2, 1, block, temper=0.0, returns="chain"),
        "ets, one block": ETS(2, 1),
        "ets, other floor": ETS(2, 1, block, floor=0.7),
        "ets, value": ETS(2, 1, 1, value=some_hope),
        "ets, hopeless value": ETS(2, 1, 1, value=no_hope, returns="chain"),
        "rejection": Rejection(2, 4, 2.5),
        "smc": SMC(2, block, 1, threshold=1.0),
        "smc, N = 1": SMC(1, 1, 1, threshold=1.0),
        "smc, adaptive": SMC(2, block, 1, threshold=0.7),
        "smc, never resampled": SMC(2, block, 1, threshold=0.0),
        "smc, other floor": SMC(2, block, 1, threshold=1.0, floor=0.7),
        "smc, value": SMC(2, 1, value=some_hope, threshold=1.0),
        "smc, hopeless value": SMC(2, 1, value=no_hope, threshold=1.0),
    }


def proposed(block: int) -> dict[str, Sampler]:
    those = {name: sampler for name, sampler in samplers(block).items() if not isinstance(sampler, Rejection)}
    return those | {
        "ets, candidates": ETS(2, 1, block, propose_candidates=True),
        "ets, candidates, chain": ETS(2, 1, block, propose_candidates=True, temper=0.7, returns="chain"),
        "ets, candidates, value": ETS(2, 1, 1, propose_candidates=True, value=some_hope),
    }


def check(sampler: Sampler, toy: Toy) -> None:
    assert toy.z > 0
    assert distance(expected_weights(sampler, toy.target), toy.gamma) < 1e-9 * max(1.0, toy.z)


def cases(names: dict[str, Sampler]) -> Callable[..., object]:
    """Each sampler on each kind of engine and constraint; a masked response has one length."""
    kinds = [
        (kind, rule) for kind in ("autoregressive", "masked") for rule in CONSTRAINTS if (kind, rule) != ("masked", "length")
    ]
    return pytest.mark.parametrize(("name", "kind", "rule"), [(name, *case) for name in names for case in kinds])


@cases(samplers(2))
def test_constraints(name: str, kind: str, rule: str) -> None:
    toy, block = toy_of(kind, [*CONSTRAINTS].index(rule), CONSTRAINTS[rule])
    check(samplers(block)[name], toy)


@cases(proposed(2))
def test_constraints_with_a_proposal(name: str, kind: str, rule: str) -> None:
    toy, block = toy_of(kind, [*CONSTRAINTS].index(rule), CONSTRAINTS[rule], proposal=True)
    check(proposed(block)[name], toy)


@pytest.mark.parametrize("depth", [-700.0, -1000.0, -1e6])
@pytest.mark.parametrize("name", samplers(2))
def test_underflow(name: str, depth: float) -> None:
    """A finite reward 745 nats below the others: exp(r/β) is 0 in float64, and the draft was lost like an excluded one."""
    check(samplers(2)[name], constrained(autoregressive(3, cap=3), 3, CONSTRAINTS["parity"], depth))


@pytest.mark.parametrize("rule", CONSTRAINTS)
def test_distinct_weights(rule: str) -> None:
    for proposal in (False, True):
        toy = constrained(autoregressive(8, cap=3, proposal=proposal), 8, CONSTRAINTS[rule])
        check(Independent(3, batch=1, weights="distinct"), toy)


def test_a_proposal_may_draw_what_the_reference_cannot() -> None:
    """Candidates and particles with p = 0 have weight zero, unfinished or not: no floor holds them up."""
    base = autoregressive(4, cap=3, proposal=True)
    engine = base.target.engine

    def without_zero_first(prefix: Tokens) -> np.ndarray:
        return np.array([0.0, 1.0]) if prefix == (0,) else np.array([0.4, 0.6])

    target = replace(base.target, engine=replace(engine, next_probs=without_zero_first, _known={}))  # type: ignore[type-var]
    toy = constrained(replace(base, target=target), 4, lambda tokens: tokens != (1,))
    for sampler in (
        Independent(2),
        ETS(2, 1, 2),
        ETS(2, 1, 2, propose_candidates=True),
        ETS(2, 1, 1, propose_candidates=True, temper=0.0, returns="chain"),
        SMC(2, 2, threshold=1.0),
        SMC(2, 1, value=no_hope, threshold=1.0),
    ):
        check(sampler, toy)


# ------------------------------------------------------------------------------------------- every population yielded


def yielded(sampler: Sampler, target: Target, key: Key) -> list[Population]:
    """All populations; those before a run's end with weight zero count as they are."""
    populations: list[Population] = []
    try:
        for population in sampler(target, "x", key):
            populations.append(population)
    except AllWeightsZero:
        assert not populations, "a sampler that has yielded a population has a positive weight to the end"
    return populations


def checkpoints(populations: Sequence[Population], steps: int) -> list[Population | None]:
    """The population after each of `steps` steps of ETS: None before the first positive weight, the last one at all left."""
    if not populations:
        return [None] * steps
    assert isinstance(populations[0].trace, Tree)
    found = [*[None] * (len(populations[0].trace.steps) - 1), *populations]
    return [*found, *[populations[-1]] * (steps - len(found))]


@pytest.mark.parametrize("rule", CONSTRAINTS)
@pytest.mark.parametrize("sampler", [ETS(2, 1, 1, step_weights=(0.5, 0.2, 0.3)), ETS(1, 2, 1), ETS(2, 1, 2), ETS(1, 1, 1)])
def test_ets_is_proper_at_every_step(sampler: ETS, rule: str) -> None:
    """A step's population is held against Σ γ f too, with Ẑ = 0 where nothing is yielded; ETS(2, 1, 1) on two tokens."""
    cap = 2 if sampler.candidates == 2 and sampler.block == 1 else 3
    sampler = sampler if cap == 3 or sampler.step_weights is None else replace(sampler, step_weights=(0.6, 0.4))
    allowed = CONSTRAINTS[rule] if cap == 3 else lambda tokens: tokens[-1] == 1
    toy = constrained(autoregressive(5, cap=cap), 5, allowed)
    steps = sampler.steps(cap)
    totals: list[Law] = [{} for _ in range(steps)]
    for probability, populations in paths(lambda key: yielded(sampler, toy.target, key)):
        for total, population in zip(totals, checkpoints(populations, steps), strict=True):
            add(total, probability, population)
    for total in totals:
        assert distance(total, toy.gamma) < 1e-9


@pytest.mark.parametrize("rule", CONSTRAINTS)
@pytest.mark.parametrize("sampler", [Independent(4, batch=1), Independent(3, batch=2)])
def test_independent_is_proper_after_every_batch(sampler: Independent, rule: str) -> None:
    """It ended with its first excluded batch; and a first population of all zeros must not be yielded."""
    toy = constrained(autoregressive(5, cap=2), 5, CONSTRAINTS[rule] if rule != "length" else lambda tokens: len(tokens) == 1)
    if rule == "middle":
        toy = constrained(autoregressive(5, cap=2), 5, lambda tokens: tokens == (0, 0))
    assert sampler.batch is not None
    sizes = [*range(sampler.batch, sampler.n, sampler.batch), sampler.n]
    totals: dict[int, Law] = {size: {} for size in sizes}
    for probability, populations in paths(lambda key: yielded(sampler, toy.target, key)):
        for population in populations:
            add(totals[len(population)], probability, population)
    for total in totals.values():
        assert distance(total, toy.gamma) < 1e-9


def add(total: Law, probability: float, population: Population | None) -> None:
    if population is not None:
        for draft, log_w in zip(population.drafts, population.log_w, strict=True):
            total[draft.tokens] = total.get(draft.tokens, 0.0) + probability * math.exp(log_w)


# --------------------------------------------------------------------------------------------------- around the samplers


@pytest.mark.parametrize("rule", CONSTRAINTS)
@pytest.mark.parametrize("inner", [Independent(2), ETS(2, 1, 2), ETS(1, 1, 2, returns="chain"), SMC(2, 2, threshold=1.0)])
def test_metropolised_keeps_the_target(inner: Sampler, rule: str) -> None:
    """The law of y that PIMH leaves invariant is that of a draw from the inner sampler, each run weighted by its Ẑ."""
    toy = constrained(autoregressive(6, cap=3), 6, CONSTRAINTS[rule])
    sampler, law = Metropolised(inner, 1), {}
    for probability, state in paths(lambda key: sampler.propose(toy.target, "x", key)):
        share = probability * math.exp(state.log_density) / toy.z
        law[state.draft.tokens] = law.get(state.draft.tokens, 0.0) + share
    assert distance(law, toy.pi) < 1e-9


def test_draws_never_break_the_constraint() -> None:
    for name, sampler in samplers(2).items():
        toy = constrained(autoregressive(7, cap=3), 7, CONSTRAINTS["parity"])
        for tokens, share in draw_law(sampler, toy.target).items():
            assert share == 0 or sum(tokens) % 2 == 1, name


# ------------------------------------------------------------------------------------------------------------- floors


def test_floor_is_shared_by_what_is_not_lost() -> None:
    """P = (1 - δ)·s/Σs + δ/M over all but finished drafts that are excluded, which are never picked."""
    log_s = np.array([math.log(3.0), -math.inf, -math.inf, 0.0])
    unfinished = np.array([True, True, False, False])
    found = log_picks(log_s, unfinished, 0.3)
    assert found is not None
    np.testing.assert_allclose(np.exp(found), [0.7 * 0.75 + 0.1, 0.1, 0.0, 0.7 * 0.25 + 0.1])
    assert found[2] == -math.inf


def test_all_scores_zero() -> None:
    nothing = np.full(3, -math.inf)
    found = log_picks(nothing, np.array([True, False, True]), 0.1)
    assert found is not None
    np.testing.assert_allclose(np.exp(found), [0.5, 0.0, 0.5])
    assert log_picks(nothing, np.zeros(3, dtype=bool), 0.1) is None


def test_equal_scores_stay_equal() -> None:
    """β → ∞ gives p itself only if candidates of the same score are picked alike, finished or not."""
    found = log_picks(np.full(4, -7.0), np.array([True, False, False, True]), 0.25)
    assert found is not None
    np.testing.assert_allclose(np.exp(found), 0.25)


@pytest.mark.parametrize("floor", [0.0, 1.0, -0.1, math.nan])
def test_floors_outside_the_range_are_refused(floor: float) -> None:
    for make in (lambda: ETS(2, floor=floor), lambda: SMC(2, floor=floor)):
        with pytest.raises(ValueError, match="above 0 and below 1"):
            make()
