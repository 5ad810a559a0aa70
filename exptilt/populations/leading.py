"""How many independent draws a population is worth, and how sure that makes its leading answer."""

from __future__ import annotations

import math
from collections.abc import Callable

from exptilt.keys import Floats
from exptilt.populations.population import Population


def leading(population: Population, answer: Callable[[str], str | None], draws: Floats) -> tuple[str | None, float, float]:
    """The leading answer, and how many draws it and the next one count for; None where no draft has an answer.

    draws: how many independent draws each row counts for, float64 [n].
    """
    counts: dict[str, float] = {}
    for row, share in enumerate(draws.tolist()):
        if share > 0 and (found := answer(population.drafts[row].text)) is not None:
            counts[found] = counts.get(found, 0.0) + share
    if not counts:
        return None, 0.0, 0.0
    leader = max(counts, key=lambda name: counts[name])
    return leader, counts[leader], max((count for name, count in counts.items() if name != leader), default=0.0)


def leads(first: float, second: float) -> float:
    """P(share > 1/2) for share ~ Beta(first + 1, second + 1), with first ≥ second ≥ 0.

    The complement is the incomplete beta function I_½(a, b), by its series Σ_n Π_{j<n} (a+b+j)/(a+1+j)·2^-n: all terms are
    positive, and for a ≥ b they fall.
    """
    a, b = first + 1.0, second + 1.0
    term = total = 1.0
    number = 0
    while term > 1e-17 * total:
        term *= (a + b + number) / (2.0 * (a + 1.0 + number))
        total, number = total + term, number + 1
    log_front = -(a + b) * math.log(2.0) - math.log(a) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return 1.0 - math.exp(log_front) * total


def independent_draws(population: Population) -> float:
    """The effective sample size, but no more than there are different draws: a chain's repeats are not draws."""
    return min(population.ess, float(different_draws(population)))


def different_draws(population: Population) -> int:
    """How many draws the rows hold: a chain repeats the very same object, where independent draws are equal at the most."""
    return len({id(draft) for draft, held in zip(population.drafts, population.log_w > -math.inf, strict=True) if held})
