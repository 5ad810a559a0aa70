"""Markov chains: the exact transition matrix, enumerated, leaves π as it is and is in detailed balance, to 1e-12."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import pytest

from exptilt.core import Sampler, Target
from exptilt.draft import Draft
from exptilt.engines.masked_table import MaskedTableEngine
from exptilt.engines.table import TableEngine
from exptilt.errors import AllWeightsZero, TargetError
from exptilt.keys import Key
from exptilt.populations.diagnostics import r_hat
from exptilt.populations.population import Population
from exptilt.samplers import ETS, SMC, Independent, Metropolised, SuffixMCMC
from exptilt.samplers.chain import Path, State
from exptilt.testing.enumeration import distance, final, paths
from exptilt.testing.toys import Toy, autoregressive, masked

SEEDS = range(20)


def suffix_states(sampler: SuffixMCMC, toy: Toy) -> list[State]:
    """A chain state for every response; the table engine tells each one's log-probability."""
    engine = toy.target.engine
    drafts = []
    for tokens in toy.gamma:
        draft = Draft(
            "x", tokens, None, finish="stop", order=(0, 1, 2)[: len(tokens)] if isinstance(engine, MaskedTableEngine) else None
        )
        drafts.append(Draft("x", tokens, tuple(engine.score([draft])[0]), "", draft.finish, draft.order))
    return sampler._states(toy.target, "x", drafts)


def matrix(sampler: SuffixMCMC | Metropolised, target: Target, states: list[State], name: Any) -> np.ndarray:
    """P[a, b]: the probability that one transition leads from state a to state b, over all random paths."""
    numbers = {name(state): number for number, state in enumerate(states)}
    table = np.zeros((len(states), len(states)))
    for number, state in enumerate(states):
        if isinstance(sampler, SuffixMCMC):
            moves = paths(lambda key, state=state: sampler.transition(target, "x", [state], [key])[0])
        else:
            moves = paths(lambda key, state=state: sampler.transition(target, "x", state, key))
        for probability, new in moves:
            table[number, numbers[name(new)]] += probability
    return table


def assert_stationary(table: np.ndarray, law: np.ndarray) -> None:
    np.testing.assert_allclose(table.sum(axis=1), 1.0, atol=1e-12)
    np.testing.assert_allclose(law @ table, law, atol=1e-12)
    flow = law[:, None] * table
    np.testing.assert_allclose(flow, flow.T, atol=1e-12)


@pytest.mark.parametrize("power", [1.0, 2.5])
@pytest.mark.parametrize("seed", SEEDS)
def test_suffix_redraw_leaves_the_target_invariant(seed: int, power: float) -> None:
    """Responses of 1 to 4 tokens, some ended and some capped; with a power the law is p^α·exp(r/β)."""
    toy = autoregressive(seed, symbols=3, cap=3) if seed % 2 else autoregressive(seed, symbols=2, cap=4)
    log_p = np.array(list(toy.target.engine.enumerate().values()))  # type: ignore[attr-defined]
    law = np.array(list(toy.gamma.values())) * np.exp((power - 1) * log_p)
    sampler = SuffixMCMC(1, power=power)
    states = suffix_states(sampler, toy)
    assert_stationary(matrix(sampler, toy.target, states, lambda state: state.draft.tokens), law / law.sum())


@pytest.mark.parametrize("seed", SEEDS)
def test_suffix_redraw_of_masked_drafts(seed: int) -> None:
    toy = masked(seed, symbols=2, length=3, order="left")
    law = np.array(list(toy.gamma.values()))
    sampler = SuffixMCMC(1)
    states = suffix_states(sampler, toy)
    assert_stationary(matrix(sampler, toy.target, states, lambda state: state.draft.tokens), law / law.sum())


@dataclass(frozen=True)
class Recorded:
    """Draws one of the recorded runs of another sampler: its exact law, without its many random paths."""

    masses: np.ndarray
    states: list[State]
    weighted: ClassVar[bool] = True

    def needs(self, target: Target) -> frozenset[str]:
        return frozenset()

    def __call__(self, target: Target, prompt: str, key: Key) -> Iterator[Population]:
        state = self.states[key.choose(self.masses)]
        yield Population([state.draft], np.array([state.log_density]), np.array([state.reward]))


def where(state: State) -> tuple[Any, ...]:
    return (state.draft.tokens, round(state.log_density, 9))


def runs_of(inner: Sampler, toy: Toy) -> tuple[tuple[float, State], ...]:
    """The law of (y, Ẑ) that one run of a sampler proposes, over all its random paths."""
    mass: dict[tuple[Any, ...], float] = {}
    states: dict[tuple[Any, ...], State] = {}
    for probability, state in paths(lambda key: Metropolised(inner, 1).propose(toy.target, "x", key)):
        mass[where(state)] = mass.get(where(state), 0.0) + probability
        states.setdefault(where(state), state)
    return tuple((mass[name], states[name]) for name in mass)


INNER: list[Sampler] = [Independent(2), ETS(2, 1, 1), ETS(2, 1, 1, returns="chain"), SMC(2, 1, threshold=1.0)]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("inner", INNER, ids=["independent", "ets", "ets chain", "smc"])
def test_metropolised_leaves_the_extended_target_invariant(inner: Sampler, seed: int) -> None:
    """On states (y, Ẑ) the invariant law is P(y, Ẑ)·Ẑ/Z, and its law of y alone is π."""
    toy = autoregressive(seed, cap=2) if seed % 2 else masked(seed, length=2, order="left")
    runs = runs_of(inner, toy)
    law = np.array([probability * math.exp(state.log_density) / toy.z for probability, state in runs])
    marginal: dict[tuple[int, ...], float] = {}
    for share, (_, state) in zip(law, runs, strict=True):
        marginal[state.draft.tokens] = marginal.get(state.draft.tokens, 0.0) + share
    assert distance(marginal, toy.pi) < 1e-9

    # The inner sampler itself where it has few random paths, its recorded law where it has many.
    states = [state for _, state in runs]
    recorded = Recorded(np.array([probability for probability, _ in runs]), states)
    sampler = Metropolised(inner if isinstance(inner, Independent) else recorded, 1)
    assert_stationary(matrix(sampler, toy.target, states, where), law / law.sum())


def test_population_holds_repeats_with_equal_weights() -> None:
    toy = autoregressive(1, cap=4, beta=0.3)
    populations = list(SuffixMCMC(50, chains=2, burn_in=10)(toy.target, "x", Key(3)))
    assert 20 < len(populations) <= 41
    last = populations[-1]
    assert len(last) == 2 * 41
    assert last.log_z is None
    assert math.isclose(float(np.exp(last.log_w).sum()), 1.0)
    assert 0 < last.stats["acceptance"] < 1


def test_a_start_of_density_zero_is_left() -> None:
    """A first draft that the reward excludes must not hold the chain: NaN acceptance ratios are not moves."""
    toy = autoregressive(2, cap=3)
    (allowed, *_) = sorted(toy.pi, key=lambda tokens: -toy.pi[tokens])[1:]

    def only_one(prompt: str, drafts: list[Draft]) -> list[float]:
        return [0.0 if draft.tokens == allowed else float("-inf") for draft in drafts]

    *_, population = SuffixMCMC(300)(replace(toy.target, reward=only_one), "x", Key(0))
    assert population.drafts[-1].tokens == allowed


def constrained(share: float = 0.5) -> Target:
    """One token, allowed with probability `share`: every draft of a longer text would be one more step of the same."""
    engine = TableEngine(lambda prefix: [share, 1 - share], 1, 1)
    return Target(engine, lambda prompt, drafts: [0.0 if draft.tokens == (0,) else -math.inf for draft in drafts], 1.0)


@dataclass(frozen=True)
class Runs:
    """An inner sampler that plays given runs in their order: log Ẑ of each, None for one of weight zero."""

    log_zs: list[float | None]
    weighted: ClassVar[bool] = True

    def needs(self, target: Target) -> frozenset[str]:
        return frozenset()

    def __call__(self, target: Target, prompt: str, key: Key) -> Iterator[Population]:
        number = int(key.path[-1])
        log_z = self.log_zs[number]
        if log_z is None:
            raise AllWeightsZero("this run")
        yield Population([Draft("x", (number,))], np.array([log_z]), np.array([float(number)]))


def test_excluded_states_have_weight_zero() -> None:
    """States with r = -inf kept their share: 158 of 300 answers broke a constraint although 213 chains had met a right one."""
    toy = autoregressive(3, symbols=3, cap=5)

    def two_zeros(prompt: str, drafts: list[Draft]) -> list[float]:
        return [0.0 if draft.tokens.count(0) == 2 else -math.inf for draft in drafts]

    target, late, dead = replace(toy.target, reward=two_zeros), 0, 0
    for seed in range(40):
        populations: list[Population] = []
        try:
            populations += SuffixMCMC(3, chains=2)(target, "x", Key(seed))
        except AllWeightsZero:
            dead += 1
        late += 0 < len(populations) < 4
        for population in populations:
            held = population.weights > 0
            assert all(population.drafts[row].tokens.count(0) == 2 for row in np.flatnonzero(held).tolist())
            np.testing.assert_allclose(population.weights[held], 1 / held.sum())
            assert population.mean_reward == 0.0
    assert late > 5
    assert dead > 0


def test_chains_not_yet_entered_contribute_nothing() -> None:
    """The law of the states of two chains, enumerated: nothing but the allowed token ever has weight."""
    target, mass = constrained(0.3), 0.0
    for probability, population in paths(lambda key: final(SuffixMCMC(1, chains=2), target, key)):
        if population is None:
            mass += probability
        else:
            assert {draft.tokens for draft, w in zip(population.drafts, population.weights, strict=True) if w > 0} == {(0,)}
    assert math.isclose(mass, 0.7**4)


@pytest.mark.parametrize("sampler", [SuffixMCMC(5, chains=3), Metropolised(Independent(2), 5)])
def test_chains_that_meet_nothing_allowed_say_so(sampler: Sampler) -> None:
    with pytest.raises(AllWeightsZero, match="take more steps"):
        list(sampler(constrained(1e-12), "x", Key(0)))


def test_acceptance_is_a_share_of_the_moves_from_allowed_states() -> None:
    """With several chains the accepted moves were once divided by the steps alone; moves among excluded drafts are not moves."""
    toy = autoregressive(1, cap=4, beta=1e12)  # every move is accepted but for the ratio of lengths
    for chains in (1, 4):
        *_, population = SuffixMCMC(60, chains=chains)(toy.target, "x", Key(3))
        rows = [population.drafts[step * chains : (step + 1) * chains] for step in range(61)]
        moved = [new is not old for before, after in pairwise(rows) for new, old in zip(after, before, strict=True)]
        assert math.isclose(population.stats["acceptance"], np.mean(moved))
        assert 0.5 < population.stats["acceptance"] <= 1

    *_, population = SuffixMCMC(40)(constrained(0.3), "x", Key(6))
    first = int(np.argmax(population.weights > 0))
    assert first > 0
    states = population.drafts[first:]
    assert math.isclose(population.stats["acceptance"], np.mean([new is not old for old, new in pairwise(states)]))


EXCLUDED = State(Draft("x"), -math.inf, -math.inf)


def chains(*rewards: list[float | None]) -> Path:
    """Chains with these rewards, step by step; None for a state that the reward excludes."""
    states = [[EXCLUDED if r is None else State(Draft("x", (int(10 * r),)), r, r) for r in chain] for chain in rewards]
    path = Path([[chain[0] for chain in states]])
    for row in zip(*(chain[1:] for chain in states), strict=True):
        path.add(list(row))
    return path


def told(path: Path, burn_in: int = 0) -> float | None:
    population = path.population(burn_in)
    assert population is not None
    return population.stats["r_hat"]


def test_r_hat_is_of_the_states_since_the_last_entry() -> None:
    """Excluded states counted as the lowest reward, so that chains that agree had a high R̂ for as long as they had searched."""
    waves: list[list[float | None]] = [[0.1, 0.5, 0.3, 0.9, 0.2, 0.6, 0.4, 0.8], [0.5, 0.2, 0.8, 0.3, 0.6, 0.1, 0.9, 0.4]]
    plain = r_hat(np.array(waves, dtype=np.float64))
    assert plain is not None
    assert plain < 1.2
    late = chains([0.7] * 6 + waves[0], [None] * 6 + waves[1])
    assert told(late) == plain
    assert told(late, burn_in=3) == plain
    assert told(late, burn_in=8) == r_hat(np.array([wave[2:] for wave in waves], dtype=np.float64))
    assert told(chains([None] * 20 + waves[0])) == r_hat(np.array(waves[:1], dtype=np.float64))
    assert told(chains(waves[0], [None] * 8, waves[1])) == plain, "a chain that met nothing allowed does not count"
    assert told(chains(waves[0], [None] * 6 + waves[1][:2])) is None, "two states are too few"
    apart = chains([None, 0.1, 0.2, 0.1, 0.2, 0.1, 0.2], [None, 5.1, 5.2, 5.1, 5.2, 5.1, 5.2])
    value = told(apart)
    assert value is not None
    assert value > 1.5, "chains that disagree are still found"


def test_r_hat_of_a_run_under_a_constraint() -> None:
    def two_zeros(prompt: str, drafts: list[Draft]) -> list[float]:
        return [float(sum(draft.tokens)) if draft.tokens.count(0) == 2 else -math.inf for draft in drafts]

    target, values = replace(autoregressive(3, symbols=3, cap=5).target, reward=two_zeros), []
    for seed in range(20):
        *_, population = SuffixMCMC(30, chains=3)(target, "x", Key(seed))
        allowed = (population.weights > 0).reshape(-1, 3)
        entered = allowed[-1]
        rows = population.rewards.reshape(-1, 3)[allowed[:, entered].all(axis=1)][:, entered]
        assert np.isfinite(rows).all()
        assert population.stats["r_hat"] == r_hat(rows.T)
        values.append(population.stats["r_hat"])
    assert sum(value is not None for value in values) > 10


def test_metropolised_over_runs_of_weight_zero() -> None:
    """The first run may be dead: the chain then takes the first that is not. A dead run later is a rejected move."""
    target = constrained()
    populations = list(Metropolised(Runs([None, None, 0.0, None, 50.0]), 4)(target, "x", Key(0)))
    assert [len(population) for population in populations] == [3, 4, 5]
    assert [draft.tokens for draft in populations[-1].drafts] == [(), (), (2,), (2,), (4,)]
    np.testing.assert_allclose(populations[-1].weights, [0, 0, 1 / 3, 1 / 3, 1 / 3])
    assert populations[-1].stats["acceptance"] == 0.5


def test_refusals() -> None:
    with pytest.raises(TargetError, match="takes no proposal"):
        SuffixMCMC(3).needs(autoregressive(0, proposal=True).target)
    with pytest.raises(ValueError, match="Markov chain"):
        Metropolised(SuffixMCMC(3), 2)
