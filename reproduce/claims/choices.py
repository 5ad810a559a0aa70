"""Rules that choose among a pool's plain draws of a problem, and what they make of so many of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from reproduce.claims.cells import Cell
from reproduce.claims.pair_runs import BETA
from reproduce.pool import Pool

Rule = Callable[[Pool, int, np.ndarray], int]
"""Of a pool, a problem and the numbers of some of its draws: the draw that is chosen."""


def choose(pool: Pool, rule: Rule, size: int) -> Cell:
    """What a rule makes of `size` draws: each problem's share of right choices, and its tokens, over runs that do not overlap."""
    right, tokens = pool.of_draws(pool.right), pool.of_draws(pool.tokens.astype(float))
    runs = np.arange(pool.draws).reshape(-1, size)
    shares = [float(np.mean([right[problem, rule(pool, problem, run)] for run in runs])) for problem in range(pool.problems)]
    return {"right": shares, "tokens": (size * tokens.mean(axis=1)).tolist()}


def first_draw(pool: Pool, problem: int, draws: np.ndarray) -> int:
    return int(draws[0])


def best(pool: Pool, problem: int, draws: np.ndarray) -> int:
    """The draw that passes most examples, the first of equals."""
    return int(draws[np.argmax(pool.of_draws(pool.checked)[problem, draws])])


def likeliest(pool: Pool, problem: int, draws: np.ndarray) -> int:
    return int(draws[np.argmax(pool.of_draws(pool.log_q)[problem, draws])])


def majority(pool: Pool, problem: int, draws: np.ndarray) -> int:
    return _most(pool, problem, draws, np.ones(len(draws)))


def weighted(pool: Pool, problem: int, draws: np.ndarray) -> int:
    """The vote with weights exp(examples/β)."""
    return _most(pool, problem, draws, np.exp((pool.of_draws(pool.checked)[problem, draws] - 1) / BETA))


def _most(pool: Pool, problem: int, draws: np.ndarray, weights: np.ndarray) -> int:
    """The first draw of the answer with most weight; draws without an answer have no vote while another has one."""
    answers = pool.of_draws(pool.answers)[problem, draws]
    counted = np.where(answers == "", 0.0, weights) if np.any(answers != "") else weights
    totals = [counted[answers == answer].sum() for answer in answers]
    return int(draws[int(np.argmax(totals))])
