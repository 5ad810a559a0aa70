"""Distinct responses: each different one once, weighted by the probability that n draws find it.

Of n independent draws from q let D be the different responses. With g(y) = p(y)·exp(r(y)/β),

    w(y) = g(y)/(1 - (1 - q(y))^n),     y in D,

is properly weighted, since 1 - (1-q)^n is the probability that y is in D. Where responses repeat, sums over such a population
vary only with what was not seen; where none repeats nothing changes. In logarithms the denominator is
log(-expm1(n·log1p(-q))). Horvitz and Thompson, "A generalization of sampling without replacement from a finite universe", 1952.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from exptilt.draft import Draft, known_logq
from exptilt.keys import Floats


def distinct_rows(drafts: Sequence[Draft]) -> list[int]:
    """The first row of each different response: one is its tokens and, in masked models, the order of its decisions."""
    first = {(draft.tokens, draft.order): row for row, draft in reversed([*enumerate(drafts)])}
    return sorted(first.values())


def log_distinct(drafts: Sequence[Draft], log_draws: Floats, draws: int) -> Floats:
    """log w of different responses, float64 [n], nats. log_draws: log g/q of each; draws: how many there were in all."""
    log_q = np.array([math.fsum(known_logq(draft)) for draft in drafts])
    return log_draws + log_q - log_found(log_q, draws)


def log_found(log_q: Floats, draws: int) -> Floats:
    """log(1 - (1-q)^n), the probability that n draws find a response of probability q: float64 [responses], nats."""
    with np.errstate(divide="ignore"):  # at q = 1, log1p(-1) = -inf: it is found with probability 1
        found = np.log(-np.expm1(draws * np.log1p(-np.exp(np.minimum(log_q, 0.0)))))
    return np.where(log_q < -40.0, math.log(draws) + log_q, found)  # n·q is exact to the last digit here
