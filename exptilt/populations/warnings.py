"""Reasons not to trust a population, in plain words, each with its cure."""

from __future__ import annotations

import math

from exptilt.populations.diagnostics import is_heavy, k_limit
from exptilt.populations.population import Population


def warnings(population: Population, beta: float, *, has_reward: bool = True) -> list[str]:
    """Reasons not to trust this population at this β, one sentence each with its cure; empty if there are none.

    All: every draft with the same reward; more than half of the drafts with weight zero; energies that were all alike at more
    than half of the steps, whose share a trace may tell as `alike`. Weighted populations: ESS below 10 and below half of the
    drafts; one draft with more than half of the weight; k̂ above min(1 - 1/log10 n, 0.7) where the tail can be fitted (tied
    weights, as of a reward of few values, leave no tail to fit). Markov chains: acceptance below 0.05, R̂ above 1.05, as found
    in the population's `stats`. A search, whose drafts stand for no distribution: its trace tells why as `no_target`. A
    population of one draft has its trace alone to judge by: less than two effective candidates at a step of a guided chain
    (`effective`). Without a reward (`rewards.Zero`) equal rewards are as they should be.
    """
    if not 0 < beta < math.inf:
        raise ValueError(f"beta={beta} must be a positive finite number")
    weighted = population.proper or not population.even  # a stop rule leaves weights that are no longer proper
    found = [*(_weight_warnings(population, beta) if weighted else ()), *_chain_warnings(population, beta)]
    flat = _flat_warning(population) if has_reward else None
    no_target: str | None = getattr(population.trace, "no_target", None)
    alike = None if flat else _alike_warning(population, beta)
    return [
        each
        for each in (flat, _excluded_warning(population), alike, *found, _narrow_warning(population, beta), no_target)
        if each
    ]


def _excluded_warning(population: Population) -> str | None:
    if population.excluded <= 0.5:
        return None
    return (
        f"{population.excluded:.0%} of the {len(population)} drafts have weight zero (the reward excludes them), so the answer "
        "rests on few: draw more, ask in the prompt for what is allowed, or let the reward fall to a finite value instead."
    )


def _alike_warning(population: Population, beta: float) -> str | None:
    share: float | None = getattr(population.trace, "alike", None)
    if share is None or share <= 0.5:
        return None
    return (
        f"At {share:.0%} of the steps all energies were equal or nearly so, and guidance chose at random: take more rollouts or "
        f"longer blocks, lower beta={beta:g}, or give a reward that distinguishes better from worse before the end."
    )


def _narrow_warning(population: Population, beta: float) -> str | None:
    if len(population) > 1:
        return None
    effective: float | None = getattr(population.trace, "effective", None)
    if effective is None or effective >= 2:
        return None
    return (
        f"At one step only {effective:.1f} candidates counted, so this draft alone is far from a draw from π: take more "
        f"candidates, raise beta={beta:g}, or let the rollouts and their weights answer."
    )


def _flat_warning(population: Population) -> str | None:
    first = float(population.rewards[0])
    if len(population) == 1 or (population.rewards != first).any():
        return None
    return (
        f"All {len(population)} drafts have the reward {first:g}, so it guided nothing: draw more, raise the temperature, "
        "or let the reward distinguish better from worse among such answers."
    )


def _weight_warnings(population: Population, beta: float) -> list[str | None]:
    count, ess, share = len(population), population.ess, population.max_share
    if count == 1:
        return []
    shape, limit = population.k_hat, k_limit(count)
    cure = f"draw more (n, candidates or rollouts) or raise beta={beta:g}"
    return [
        f"The effective sample size is {ess:.1f} of {count} drafts, so averages and votes are noisy: {cure}."
        if ess < min(10.0, count / 2)
        else None,
        f"One draft holds {share:.0%} of the weight and decides nearly alone: {cure}." if share > 0.5 else None,
        f"The tail of the weights is heavy: k̂ = {shape:.2f} (limit {limit:.2f}), so log Ẑ and averages cannot be trusted: {cure}."
        if is_heavy(shape, count)
        else None,
    ]


def _chain_warnings(population: Population, beta: float) -> list[str | None]:
    stats = population.stats
    acceptance, mixing = stats.get("acceptance"), stats.get("r_hat")
    return [
        f"The chain accepted {acceptance:.1%} of its moves and hardly left its start: take more steps or raise beta={beta:g}."
        if acceptance is not None and acceptance < 0.05
        else None,
        f"R̂ is {mixing:.2f} (limit 1.05), so the chains have not reached the same distribution: take more steps, drop more of "
        f"the start (burn_in) or raise beta={beta:g}."
        if mixing is not None and mixing > 1.05
        else None,
    ]
