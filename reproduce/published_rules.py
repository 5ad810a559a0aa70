"""Stop rules for votes as their papers have them, to be compared with `exptilt.until` on the same draws.

    beta(answer, level)         Beta rule of adaptive self-consistency (Aggarwal et al., 2305.11860): P(θ > 1/2) of
                                Beta(v₁+1, v₂+1) for the two leading counts; the rule the authors recommend
    dirichlet(answer, level)    their Dirichlet rule: P(θ₁ is the largest) of Dirichlet(v₁+1, ..., v_m+1) for all answers seen
    window(answer, size)        early-stopping self-consistency (Li et al., 2401.10480): all draws of a window agree

They count draws, each as one, and are asked after every draw (`window` after each whole window). Draws without an answer do not
count. Written from the formulas, without the papers' code.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from exptilt.populations.population import Population

Answer = Callable[[str], str | None]


@dataclass(frozen=True)
class CountRule:
    """Stop once a probability of the counts, largest first, reaches `level`."""

    answer: Answer
    level: float
    probability: Callable[[tuple[int, ...]], float]

    def __call__(self, population: Population) -> bool:
        found = Counter(name for draft in population.drafts if (name := self.answer(draft.text)) is not None)
        counts = tuple(sorted(found.values(), reverse=True))
        return bool(counts) and self.probability(counts) >= self.level


@dataclass(frozen=True)
class Window:
    """Stop once `size` draws in a row, from a multiple of `size` on, have one answer."""

    answer: Answer
    size: int

    def __call__(self, population: Population) -> bool:
        if len(population) % self.size:
            return False
        last = {self.answer(draft.text) for draft in population.drafts[-self.size :]}
        return len(last) == 1 and None not in last


def beta(answer: Answer, level: float) -> CountRule:
    return CountRule(answer, level, leads_of_two)


def dirichlet(answer: Answer, level: float) -> CountRule:
    return CountRule(answer, level, leads_of_all)


def window(answer: Answer, size: int) -> Window:
    return Window(answer, size)


@lru_cache(maxsize=100_000)
def leads_of_two(counts: tuple[int, ...]) -> float:
    """P(θ > 1/2) of Beta(v₁+1, v₂+1), a binomial tail for whole counts."""
    first, second = (*counts, 0)[:2]
    trials = first + second + 1
    return sum(math.comb(trials, hits) for hits in range(first + 1)) / 2.0**trials


@lru_cache(maxsize=100_000)
def leads_of_all(counts: tuple[int, ...]) -> float:
    """P(θ₁ is the largest) of Dirichlet(v+1): ∫ g(x; v₁+1) Π_i G(x; v_i+1) dx with Gamma densities g and distributions G.

    A lone answer has an unseen rival of count 0, as under the Beta rule.
    """
    first, *others = counts if len(counts) > 1 else (*counts, 0)
    x = np.linspace(0.0, first + 12.0 * math.sqrt(first + 1.0) + 30.0, 4001)
    with np.errstate(divide="ignore"):
        log_x = np.log(x)
    density = np.exp(first * log_x - x - math.lgamma(first + 1.0)) if first else np.exp(-x)
    below = np.ones_like(x)
    for count in others:
        terms = [np.exp(number * log_x - x - math.lgamma(number + 1.0)) if number else np.exp(-x) for number in range(count + 1)]
        below *= 1.0 - np.sum(terms, axis=0)
    return float(np.trapezoid(density * below, x))
