"""Exact distributions of samplers: run one again and again until every random path has been taken.

Everything random in exptilt's samplers and table engines is a choice by a key. `paths(run)` hands `run` a key whose
choices follow a script; after each run the last choice that has another outcome takes it, a depth-first walk over all
paths. With the probability of each path known, expectations over the sampler are sums: E[Σ w f] of a whole
population can be compared with Σ γ f to 1e-9, with no statistics at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

import numpy as np

from exptilt.core import Sampler, Target
from exptilt.draft import Prompt
from exptilt.errors import AllWeightsZero
from exptilt.keys import Key
from exptilt.populations.population import Population

T = TypeVar("T")
Law = dict[tuple[int, ...], float]


class _Script:
    """Stands in for a key and its stream: its choices follow a script, and every child is the same script."""

    def __init__(self) -> None:
        self.taken: list[tuple[int, list[int]]] = []  # each choice of this run: the outcome, and all that have mass
        self.planned: list[int] = []
        self.probability = 1.0

    def child(self, *path: int | str) -> _Script:
        return self

    def stream(self) -> _Script:
        return self

    def coin(self) -> _Coin:
        return _Coin(self)

    def choose(self, weights: Sequence[float] | np.ndarray) -> int:
        shares = np.asarray(weights, dtype=np.float64) / np.sum(weights)
        outcomes = np.flatnonzero(shares > 0).tolist()
        depth = len(self.taken)
        outcome = self.planned[depth] if depth < len(self.planned) else outcomes[0]
        self.taken.append((outcome, outcomes))
        self.probability *= float(shares[outcome])
        return outcome

    def advance(self) -> bool:
        """Plan the next path; False when all have been taken."""
        taken = self.taken
        while taken:
            outcome, outcomes = taken.pop()
            later = [other for other in outcomes if other > outcome]
            if later:
                self.planned = [done for done, _ in taken] + [later[0]]
                self.taken, self.probability = [], 1.0
                return True
        return False


class _Coin:
    """A uniform number of which only what its thresholds ask is decided: P(u < b | u < a) = b/a."""

    def __init__(self, script: _Script) -> None:
        self._script, self._under = script, 1.0

    def below(self, threshold: float) -> bool:
        share = min(1.0, threshold / self._under)
        self._under = threshold
        return self._script.choose([1.0 - share, share]) == 1


def paths(run: Callable[[Key], T], limit: int = 400_000) -> Iterator[tuple[float, T]]:
    """Every random path of `run(key)`: its probability and what it returned."""
    script = _Script()
    for _ in range(limit):
        value = run(cast(Key, script))
        yield script.probability, value
        if not script.advance():
            return
    raise AssertionError(f"more than {limit} paths: enumerate something smaller")


def final(sampler: Sampler, target: Target, key: Key, prompt: Prompt = "x") -> Population | None:
    """The sampler's last population; None for a run of weight zero, which counts as zero in every expectation."""
    try:
        *_, population = sampler(target, prompt, key)
    except AllWeightsZero:
        return None
    return population


def expected_weights(sampler: Sampler, target: Target) -> Law:
    """E[Σ_i w_i 1[y_i = y]] for every y, over all random paths of the sampler."""
    return _expected(sampler, target, lambda population: np.exp(population.log_w))


def draw_law(sampler: Sampler, target: Target) -> Law:
    """The distribution of one draft picked from the sampler's last population by its weights, runs of weight zero left out."""
    return _expected(sampler, target, lambda population: population.weights)


def _expected(sampler: Sampler, target: Target, weigh: Callable[[Population], np.ndarray]) -> Law:
    """The weight of each response in the sampler's last population, in the mean over all random paths."""
    total: Law = {}
    for probability, population in paths(lambda key: final(sampler, target, key)):
        if population is not None:
            for draft, weight in zip(population.drafts, weigh(population).tolist(), strict=True):
                total[draft.tokens] = total.get(draft.tokens, 0.0) + probability * weight
    return total


def gamma(log_p: Mapping[tuple[int, ...], float], reward: Callable[[tuple[int, ...]], float], beta: float) -> Law:
    """γ(y) = p(y)·exp(r(y)/β) of every response."""
    return {tokens: math.exp(value + reward(tokens) / beta) for tokens, value in log_p.items()}


def distance(one: Mapping[Any, float], other: Mapping[Any, float]) -> float:
    """The largest absolute difference between two tables, missing entries zero."""
    return max(abs(one.get(name, 0.0) - other.get(name, 0.0)) for name in {*one, *other})


def total_variation(one: Mapping[Any, float], other: Mapping[Any, float]) -> float:
    """Half the summed absolute difference of two distributions, each normalised."""
    mass, others = sum(one.values()), sum(other.values())
    return 0.5 * sum(abs(one.get(name, 0.0) / mass - other.get(name, 0.0) / others) for name in {*one, *other})
