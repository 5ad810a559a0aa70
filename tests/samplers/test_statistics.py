"""Laws too large to enumerate path by path: E[Ẑ] = Z and weighted averages within five standard errors.

Fixed seeds; every tolerance is five standard errors of the runs themselves. β is mild: where exp(r/β) has a heavy
tail, Ẑ looks low in most runs and five standard errors mean little.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from exptilt.core import Sampler
from exptilt.keys import Key
from exptilt.populations.population import Population
from exptilt.samplers import ETS, SMC, Independent, Metropolised, SuffixMCMC
from exptilt.testing.enumeration import Law, final, total_variation
from exptilt.testing.toys import Toy, autoregressive, masked, reward_of

RUNS = 300
TOYS: dict[str, Callable[[bool], Toy]] = {
    "autoregressive": lambda proposal: autoregressive(40, symbols=4, cap=5, beta=1.5, proposal=proposal, concentration=2.0),
    "masked": lambda proposal: masked(41, symbols=3, length=4, beta=1.5, proposal=proposal),
    "masked, confidence": lambda _: masked(42, symbols=3, length=4, order="confidence", beta=1.5),
}
SAMPLERS: dict[str, Sampler] = {
    "independent": Independent(8),
    "ets": ETS(4, 2, 2),
    "ets, chain only": ETS(4, 2, 2, returns="chain"),
    "ets, tempered": ETS(4, 2, 1, temper=0.6, returns="chain"),
    "ets, step weights": ETS(3, 2, 3, step_weights=(3.0, 1.0)),
    "smc": SMC(8, 2, 2),
    "ets-is": ETS(4, 2, 2),
    "ets-is, candidates": ETS(4, 2, 2, propose_candidates=True),
    "smc, proposal": SMC(8, 2, 2),
}


def within_five_errors(values: np.ndarray, wanted: float) -> bool:
    return abs(values.mean() - wanted) < 5 * values.std(ddof=1) / math.sqrt(len(values))


@pytest.mark.parametrize("kind", TOYS)
@pytest.mark.parametrize("name", SAMPLERS)
def test_log_z_and_averages(name: str, kind: str) -> None:
    """E[Σ w f] = Σ γ f for f = 1, the length and an indicator of a set of responses."""
    proposal = "is" in name or "proposal" in name
    toy, sampler = TOYS[kind](proposal), SAMPLERS[name]
    questions: list[Callable[[tuple[int, ...]], float]] = [
        lambda tokens: 1.0,
        lambda tokens: float(tokens[0] == 0),
        lambda tokens: float(sum(tokens) % 2),
    ]
    found = np.zeros((len(questions), RUNS))
    for run in range(RUNS):
        population = final(sampler, toy.target, Key(run, name))
        assert population is not None
        for row, question in enumerate(questions):
            values = np.array([question(draft.tokens) for draft in population.drafts])
            found[row, run] = float(np.sum(np.exp(population.log_w) * values))
    for row, question in enumerate(questions):
        wanted = sum(mass * question(tokens) for tokens, mass in toy.gamma.items())
        assert within_five_errors(found[row], wanted)


def pooled(populations: list[Population], weighted: bool) -> Law:
    law: Law = {}
    for population in populations:
        for draft, weight in zip(population.drafts, np.exp(population.log_w), strict=True):
            law[draft.tokens] = law.get(draft.tokens, 0.0) + (float(weight) if weighted else 1.0)
    return law


def test_weights_remove_the_bias_of_the_raw_chain() -> None:
    """The published chain has a bias of order 1/M; its weight removes it, down to the noise of as many exact draws."""
    toy = autoregressive(43, symbols=4, cap=4, beta=0.5, concentration=2.0)
    sampler = ETS(2, 1, 2, returns="chain")
    populations = [population for run in range(4000) if (population := final(sampler, toy.target, Key(run))) is not None]
    raw, weighted = total_variation(pooled(populations, False), toy.pi), total_variation(pooled(populations, True), toy.pi)
    merged = Population.merge(populations)
    exact = np.random.default_rng(0).multinomial(int(merged.ess), list(toy.pi.values()), size=200) / int(merged.ess)
    floor = 0.5 * np.abs(exact - np.array(list(toy.pi.values()))).sum(axis=1)
    assert raw > 2 * weighted
    assert weighted < floor.mean() + 5 * floor.std()


@pytest.mark.parametrize("sampler", [SuffixMCMC(4000, chains=2, burn_in=100), Metropolised(ETS(3, 1, 2), 2000)])
def test_chain_averages(sampler: SuffixMCMC | Metropolised) -> None:
    """Long-run averages of a chain; the standard error comes from the means of 40 batches of its states."""
    toy = autoregressive(44, symbols=4, cap=4, beta=0.7, concentration=2.0)
    populations = sampler(toy.target, "x", Key(5))
    *_, population = populations
    states = len(population) // 40 * 40
    batches = population.rewards[:states].reshape(40, -1).mean(axis=1)
    wanted = sum(mass * reward_of(44, tokens) for tokens, mass in toy.pi.items())
    assert within_five_errors(batches, wanted)
