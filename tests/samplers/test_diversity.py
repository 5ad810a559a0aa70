"""SMC that keeps its diversity: rejuvenation keeps weights proper, and conditional SMC leaves π as it is, both enumerated."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest

import exptilt as xt
from exptilt.blocks import Block, Blocks, schedule
from exptilt.core import Target
from exptilt.draft import Draft
from exptilt.engines import MaskedTableEngine, TableEngine
from exptilt.errors import AllWeightsZero
from exptilt.keys import Key
from exptilt.samplers import SMC, Independent, ParticleGibbs, SuffixMCMC
from exptilt.samplers.chain import Path, State
from exptilt.samplers.gibbs import Held
from exptilt.samplers.particles import Particles
from exptilt.testing.enumeration import distance, expected_weights, paths
from exptilt.testing.toys import Toy, autoregressive, constrained, masked, reward_of
from tests.samplers.test_mcmc import suffix_states
from tests.samplers.test_steps import lined, lines_value


def value(prompt: str, drafts: list[Draft]) -> list[float]:
    return [0.3 * draft.decided - 0.7 * sum(draft.tokens) for draft in drafts]


def hopeless(prompt: str, drafts: list[Draft]) -> list[float]:
    """Gives up every draft that begins with a 1, which the target does not."""
    return [-math.inf if draft.tokens[0] else 0.4 * draft.decided for draft in drafts]


def steep(prompt: str, drafts: list[Draft]) -> list[float]:
    """So that two different beginnings are resampled and two equal ones are not."""
    return [3.0 * draft.tokens[0] for draft in drafts]


def even_length(tokens: tuple[int, ...]) -> bool:
    return len(tokens) % 2 == 0


# ------------------------------------------------------------------------------------------------------- rejuvenation

# Three symbols, so that unfinished drafts differ: with two, the last of which ends the text, every move leads to where it began.
REJUVENATED: dict[str, tuple[SMC, Toy]] = {
    "a value": (SMC(2, 1, value=value, threshold=0.9, rejuvenate=1), autoregressive(1, symbols=3, cap=2)),
    "a steep value": (SMC(2, 1, value=steep, threshold=0.9, rejuvenate=1), autoregressive(13, symbols=3, cap=2)),
    "one particle, two steps": (SMC(1, 1, value=value, threshold=0.9, rejuvenate=1), autoregressive(2, symbols=3, cap=3)),
    "two moves": (SMC(1, 1, value=value, rejuvenate=2), autoregressive(2, symbols=3, cap=2)),
    "rollouts": (SMC(1, 1, 1, threshold=0.9, rejuvenate=1), autoregressive(3, symbols=3, cap=2)),
    "two symbols": (SMC(2, 1, value=value, threshold=0.9, rejuvenate=1), autoregressive(1, cap=3)),
    "never resampled": (SMC(2, 1, value=value, threshold=0.0, rejuvenate=1), autoregressive(5, symbols=3, cap=2)),
    "a proposal": (SMC(1, 1, value=value, rejuvenate=1), autoregressive(6, symbols=3, cap=3, proposal=True)),
    "a proposal, rollouts": (SMC(1, 1, 1, rejuvenate=1), autoregressive(7, symbols=3, cap=2, proposal=True)),
    "masked": (SMC(2, 1, value=value, threshold=0.9, rejuvenate=1), masked(8, length=2, order="left")),
    "a constraint": (SMC(1, 1, 1, rejuvenate=1), constrained(autoregressive(9, symbols=3, cap=2), even_length)),
    "a value that gives up": (SMC(2, 1, value=hopeless, threshold=0.9, rejuvenate=1), autoregressive(10, symbols=3, cap=2)),
    "lines": (SMC(1, "\n", value=lines_value, rejuvenate=1), lined(autoregressive(11, symbols=3, cap=3), ("a", "\n", ""))),
}


@pytest.mark.parametrize("case", REJUVENATED)
def test_rejuvenation_keeps_weights_proper(case: str) -> None:
    sampler, toy = REJUVENATED[case]
    assert distance(expected_weights(sampler, toy.target), toy.gamma) < 1e-9 * max(1.0, toy.z)


def prefixes(engine: Any, length: int) -> dict[tuple[int, ...], float]:
    """p of every beginning that is unfinished after `length` tokens."""
    found: Counter[tuple[int, ...]] = Counter()
    for tokens, log_p in engine.enumerate().items():
        if len(tokens) > length or (len(tokens) == length and tokens[-1] != engine.end and length < engine.max_tokens):
            found[tokens[:length]] += math.exp(log_p)  # type: ignore[assignment]
    return dict(found)


@pytest.mark.parametrize("proposal", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_a_move_leaves_p_times_v_as_it_is(seed: int, proposal: bool) -> None:
    """The transition matrix of one move over the unfinished drafts of two steps: (pV)K = pV to 1e-12, and in detailed balance."""
    toy = autoregressive(seed, symbols=3, cap=3, proposal=proposal)
    engine, law = toy.target.engine, toy.target.law
    assert isinstance(engine, TableEngine)
    assert isinstance(law, TableEngine)
    sampler, blocks = SMC(1, 1, value=value, rejuvenate=1), schedule(1, 3)[:2]
    names = {tokens: number for number, tokens in enumerate(prefixes(engine, 2))}
    weight = np.array([p * math.exp(value("x", [Draft("x", tokens)])[0]) for tokens, p in prefixes(engine, 2).items()])
    table = np.zeros((len(names), len(names)))
    for tokens, row in names.items():
        drafts = [Draft("x", tokens[:count], tuple(map(float, law.score([Draft("x", tokens[:count])])[0]))) for count in range(3)]
        p, q = engine.score(drafts[-1:])[0], law.score(drafts[-1:])[0]
        log_v = np.array(value("x", drafts[-1:]))
        start = Particles((tuple(drafts),), (tuple((p - q).tolist()),), np.array([p.sum() - q.sum()]), log_v, np.zeros(1))
        for probability, moved in paths(lambda key, start=start: sampler.moved(toy.target, "x", start, blocks, key)):
            [path] = moved.paths
            table[row, names[path[-1].tokens]] += probability
            np.testing.assert_allclose(moved.log_w, start.log_w, atol=1e-12)
            ratio = engine.score([path[-1]])[0] - law.score([path[-1]])[0]
            np.testing.assert_allclose(moved.log_l[0], ratio, atol=1e-12)
    np.testing.assert_allclose(table.sum(axis=1), 1.0, atol=1e-12)
    np.testing.assert_allclose(weight @ table, weight, atol=1e-12)
    flow = weight[:, None] * table
    np.testing.assert_allclose(flow, flow.T, atol=1e-12)
    assert np.diag(table).max() < 1.0


def test_moves_part_copies() -> None:
    """After resampling at every step few beginnings are left; each move makes more of them differ."""
    engine = TableEngine(lambda prefix: [0.33, 0.33, 0.33, 0.01], 10, 3)

    def noise(prompt: str, drafts: list[Draft]) -> list[float]:
        return [reward_of(1, draft.tokens) for draft in drafts]

    target, beginnings = Target(engine, noise, 1.0), []
    for moves in (0, 1, 3):
        found = [
            next(iter(SMC(12, 1, value=noise, threshold=1.0, rejuvenate=moves)(target, "x", Key(seed)))) for seed in range(20)
        ]
        beginnings.append(np.mean([len({draft.tokens[:3] for draft in population.drafts}) for population in found]))
    assert beginnings[0] + 1 < beginnings[1] < beginnings[2]


def test_steps_are_kept_only_where_they_are_used() -> None:
    """All drafts of all steps take memory that grows with the square of their number: 1 GB for 64 particles of 1,024 tokens."""
    toy = autoregressive(3, symbols=3, cap=4)
    for sampler, history, steps in ((SMC(3, 1), False, 1), (SMC(3, 1), True, 5), (SMC(3, 1, rejuvenate=1), False, 5)):
        particles, _ = sampler.filter(toy.target, "x", Key(2), history=history)
        assert max(map(len, particles.paths)) == steps
        assert max(map(len, particles.log_l)) == steps - 1


# ------------------------------------------------------------------------------------------------------ particle Gibbs


def held(toy: Toy, block: Blocks | None, tokens: tuple[int, ...]) -> Held:
    """The state of a response: its steps by this block, with log-probabilities of what draws."""
    law = toy.target.law
    order = tuple(range(len(tokens))) if isinstance(law, MaskedTableEngine) else None
    steps = [law.start("x")]
    whole = Draft("x", tokens, None, "", "stop", order)
    for extent in schedule(block, law.max_tokens):
        before = steps[-1].decided
        end = (
            len(tokens)
            if extent is None
            else next((n for n in range(before + 1, len(tokens)) if _ends(law, extent, tokens, before, n)), len(tokens))
        )
        draft = whole.cut(end)
        text = "".join((getattr(law, "symbols", None) or "." * 9)[token] for token in draft.tokens)
        steps.append(Draft("x", draft.tokens, tuple(law.score([draft])[0].tolist()), text, draft.finish, draft.order))
        if end == len(tokens):
            break
    return Held(State(steps[-1], float(toy.target.rate("x", [whole])[0]), 0.0), tuple(steps))


def _ends(law: Any, extent: int | Block, tokens: tuple[int, ...], before: int, now: int) -> bool:
    if isinstance(extent, int):
        return now == before + extent
    texts = ["".join(law.symbols[token] for token in tokens[:count]) for count in (before, now)]
    return extent.ends_in(*texts)


GIBBS: dict[str, tuple[SMC, Toy]] = {
    "a value": (SMC(2, 1, value=value, threshold=1.0), autoregressive(1, symbols=3, cap=2)),
    "a value, adaptive": (SMC(2, 1, value=value, threshold=0.8), autoregressive(2, symbols=3, cap=2)),
    "two steps": (SMC(2, 1, value=value, threshold=1.0), autoregressive(1, cap=4)),
    "three particles": (SMC(3, 1, value=value, threshold=0.9), autoregressive(3, cap=2)),
    "never resampled": (SMC(2, 1, value=value, threshold=0.0), autoregressive(4, symbols=3, cap=2)),
    "rollouts": (SMC(2, 1, 1, threshold=1.0), autoregressive(5, symbols=3, cap=2)),
    "rollouts, a proposal": (SMC(2, 1, 1, threshold=0.9), autoregressive(6, cap=2, proposal=True)),
    "a value, a proposal": (SMC(2, 1, value=value, threshold=0.9), autoregressive(7, symbols=3, cap=2, proposal=True)),
    "masked": (SMC(2, 1, value=value, threshold=1.0), masked(8, length=3, order="left")),
    "a constraint": (SMC(2, 1, 1, threshold=1.0), constrained(autoregressive(9, cap=2), even_length)),
    "a value that gives up": (SMC(2, 1, value=hopeless, threshold=0.9), autoregressive(10, symbols=3, cap=2)),
    "lines": (SMC(2, "\n", value=lines_value, threshold=0.9), lined(autoregressive(11, symbols=3, cap=2), ("a", "\n", ""))),
    "long lines": (SMC(2, "\n\n", value=lines_value, threshold=0.9), lined(autoregressive(11, cap=4), ("\n", ""))),
    "one step": (SMC(3), autoregressive(12, cap=3)),
}


@pytest.mark.parametrize("case", GIBBS)
def test_conditional_smc_leaves_the_target_as_it_is(case: str) -> None:
    """πP = π to 1e-12 on responses, and the chain reaches all of them."""
    smc, toy = GIBBS[case]
    sampler = ParticleGibbs(smc, 1)
    law = {tokens: share for tokens, share in toy.pi.items() if share > 0}
    names = {tokens: number for number, tokens in enumerate(law)}
    table = np.zeros((len(law), len(law)))
    for tokens, row in names.items():
        state = held(toy, smc.block, tokens)
        for probability, new in paths(lambda key, state=state: sampler.transition(toy.target, "x", state, key)):
            table[row, names[new.state.draft.tokens]] += probability
    pi = np.array(list(law.values()))
    np.testing.assert_allclose(table.sum(axis=1), 1.0, atol=1e-12)
    np.testing.assert_allclose(pi @ table, pi, atol=1e-12)
    assert (np.linalg.matrix_power(table, 4) > 0).all()


def test_the_chain_tends_to_the_target() -> None:
    """A long run from its own start: the frequencies of states are π within five standard errors of a few seeds."""
    toy = autoregressive(3, cap=3, beta=0.5)
    shares = []
    for seed in range(12):
        *_, population = ParticleGibbs(SMC(3, 1, value=value), 150)(toy.target, "x", Key(seed))
        assert len(population) == 151
        assert population.log_z is None
        assert 0 < population.stats["acceptance"] < 1
        shares.append([sum(draft.tokens == tokens for draft in population.drafts) / 151 for tokens in toy.pi])
    found, error = np.mean(shares, axis=0), np.std(shares, axis=0, ddof=1) / math.sqrt(len(shares))
    assert (abs(found - np.array(list(toy.pi.values()))) < 5 * error + 1e-9).all()


def test_a_chain_without_an_allowed_state_searches_on() -> None:
    engine = TableEngine(lambda prefix: [0.05, 0.95], 1, 1)
    target = Target(engine, lambda prompt, drafts: [0.0 if draft.tokens == (0,) else -math.inf for draft in drafts], 1.0)
    populations, dead = [], 0
    for seed in range(12):
        try:
            populations.append(list(ParticleGibbs(SMC(2), 10)(target, "x", Key(seed)))[-1])
        except AllWeightsZero:
            dead += 1
    assert dead > 0
    assert len(populations) > 3
    for population in populations:
        assert all(population.drafts[row].tokens == (0,) for row in np.flatnonzero(population.weights > 0).tolist())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ParticleGibbs(Independent(3), 2), "give an SMC"),
        (lambda: ParticleGibbs(SMC(1), 2), "2 particles or more"),
        (lambda: ParticleGibbs(SMC(2, rejuvenate=1), 2), "rejuvenate=0"),
        (lambda: ParticleGibbs(SMC(2), 0), "whole number of 1 or more"),
        (lambda: SMC(2, rejuvenate=-1), "0 or more"),
        (lambda: SMC(2, rejuvenate=1.5), "0 or more"),  # type: ignore[arg-type]
    ],
)
def test_bad_parameters_are_refused(make: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


def test_a_power_of_p_by_a_particle_filter() -> None:
    """Power-SMC: Power(α) as the reward, the engine at temperature 1/α as proposal, the power of the beginning as the value.

    Weights are proper for p^α; with these potentials and this proposal all of Σ p^α is found with little variance.
    """
    alpha = 2.5
    engine = autoregressive(4, symbols=3, cap=4).target.engine
    assert isinstance(engine, TableEngine)
    target = Target(engine, xt.rewards.Power(alpha), 1.0, engine.with_sampling(temperature=1 / alpha)).bind("x", Key(0))

    def powers(prompt: str, drafts: list[Draft]) -> list[float]:
        return [(alpha - 1) * float(score.sum()) for score in engine.score(drafts)]

    wanted = {tokens: math.exp(alpha * log_p) for tokens, log_p in engine.enumerate().items()}
    z = sum(wanted.values())
    spread = {}
    for name, sampler in {"power-SMC": SMC(8, 1, value=powers), "independent": Independent(8)}.items():
        plain = target if name == "power-SMC" else Target(engine, target.reward, 1.0)
        found = [next(iter(sampler(plain, "x", Key(seed)))) for seed in range(400)]
        ratios = np.exp([population.log_z for population in found]) / z
        assert abs(ratios.mean() - 1) < 5 * ratios.std(ddof=1) / 20
        spread[name] = ratios.std(ddof=1)
        if name == "power-SMC":
            pooled: Counter[tuple[int, ...]] = Counter()
            for population in found:
                for draft, log_w in zip(population.drafts, population.log_w, strict=True):
                    pooled[draft.tokens] += math.exp(log_w) / 400  # type: ignore[assignment]
            assert distance(pooled, wanted) < 0.05 * z
    assert spread["power-SMC"] < 0.6 * spread["independent"]


def test_power_smc_is_proper_by_enumeration() -> None:
    engine = autoregressive(5, cap=3).target.engine
    assert isinstance(engine, TableEngine)
    target = Target(engine, xt.rewards.Power(2.0), 1.0, engine.with_sampling(temperature=0.5)).bind("x", Key(0))

    def powers(prompt: str, drafts: list[Draft]) -> list[float]:
        return [float(score.sum()) for score in engine.score(drafts)]

    wanted = {tokens: math.exp(2 * log_p) for tokens, log_p in engine.enumerate().items()}
    assert distance(expected_weights(SMC(2, 1, value=powers, threshold=0.9), target), wanted) < 1e-9


# ----------------------------------------------------------------------------------------------------------- recycling


@pytest.mark.parametrize("power", [1.0, 2.0])
@pytest.mark.parametrize("seed", range(6))
def test_recycled_moves_keep_the_target_and_lose_variance(seed: int, power: float) -> None:
    """From π, the proposal with weight α and the state before with 1 - α have expectation π, over all moves, to 1e-12.

    Given the proposal the recycled weights are the mean of the plain ones over the coin: the variance of every share is smaller.
    """
    toy = autoregressive(seed, symbols=3, cap=3)
    sampler = SuffixMCMC(1, power=power, recycle=True)
    log_p = np.array(list(toy.target.engine.enumerate().values()))  # type: ignore[attr-defined]
    law = np.array(list(toy.gamma.values())) * np.exp((power - 1) * log_p)
    states, law = suffix_states(sampler, toy), law / law.sum()
    means, squares = np.zeros((2, len(states))), np.zeros((2, len(states)))
    names = {state.draft.tokens: number for number, state in enumerate(states)}
    for share, start in zip(law, states, strict=True):

        def moved(key: Key, start: State = start) -> Path:
            path = Path([[start]])
            sampler._advance(toy.target, "x", path, [key])
            return path

        for probability, path in paths(moved):
            for number, population in enumerate((path.population(1), path.recycled(0))):
                assert population is not None
                found = np.zeros(len(states))
                for draft, weight in zip(population.drafts, population.weights, strict=True):
                    found[names[draft.tokens]] += weight
                if number:
                    found = 2 * found - np.eye(len(states))[names[start.draft.tokens]]  # less the first state, half of the weight
                means[number] += share * probability * found
                squares[number] += share * probability * found**2
    np.testing.assert_allclose(means, [law, law], atol=1e-12)
    assert (squares[1] <= squares[0] + 1e-12).all()
    assert squares[1].sum() < squares[0].sum() - 1e-3


def test_recycled_populations_of_a_run() -> None:
    toy = constrained(autoregressive(2, symbols=3, cap=3), lambda tokens: tokens[0] == 0)
    plain = list(SuffixMCMC(40, chains=2, burn_in=5)(toy.target, "x", Key(3)))
    recycled = list(SuffixMCMC(40, chains=2, burn_in=5, recycle=True)(toy.target, "x", Key(3)))
    assert len(plain) == len(recycled)
    last = recycled[-1]
    assert last.log_z is None
    assert math.isclose(float(np.exp(last.log_w).sum()), 1.0)
    held = {draft.tokens for draft, weight in zip(plain[-1].drafts, plain[-1].weights, strict=True) if weight > 0}
    assert len(held) > 1
    assert held <= {draft.tokens for draft in last.drafts}
    assert len(last) > len(plain[-1])
    assert all(draft.tokens[0] == 0 for draft in last.drafts)
    assert last.stats["acceptance"] == plain[-1].stats["acceptance"]
    with pytest.raises(ValueError, match="leave one of the two out"):
        SuffixMCMC(3, recycle=True, block=2)
