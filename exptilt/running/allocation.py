"""Allocation: what more draws are expected to gain for each prompt of a run, and which prompts get them.

A run with `allocate` gives every prompt one run of its sampler, a *part*, and then goes on in rounds (`exptilt.running.rounds`).
Before each round the gain of k more parts is estimated for every prompt, from the rounds before alone:

    "accuracy", a vote    E max(P, 1 - P) after m more draws, less what it is now, where P is the probability that the leading
                          answer is ahead of the second: Beta(v₁+1, v₂+1) of v₁ and v₂ effective draws, as in `until.sure`
    "accuracy", best      the chance m/(n + m) that m more draws hold a higher reward than n did; 0 at the reward's upper bound
    "log_z"               the fall of u/k, the squared relative error of Ẑ by k parts, u that of one part, which few draws tell
                          badly: it is drawn towards the mean over prompts

and parts go where the gain per token is largest. One more draw cannot overtake a leader of four draws to none, but eight can, so
packets of 1, 2, 4, ... 32 parts are compared (Frazier and Powell, "Paradoxes in learning and the marginal value of information",
Decision Analysis 7(4), 2010). Tokens that no prompt is expected to gain from are not spent.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import numpy as np

from exptilt.errors import TargetError
from exptilt.keys import Floats
from exptilt.populations.leading import leading
from exptilt.populations.population import Population
from exptilt.populations.select import Vote, best
from exptilt.usage import Budget

Gain = Literal["accuracy", "log_z"]

PACKETS = (1, 2, 4, 8, 16, 32)  # parts that are given at once
_MOST = 64  # draws that are looked ahead; a lead that only more of them could turn is as good as settled
_PRIOR = 8  # draws that the mean over prompts counts for beside a prompt's own, in its relative variance
_LEAST = 1e-9  # gains below it are rounding
_GRID = (np.arange(512) + 0.5) / 512  # shares of the leading answer among the two

Value = Callable[[int], float]
"""What is expected to be known after so many more parts, in units that are the same for all prompts of a run."""


@dataclass(frozen=True)
class Allocation:
    """How the tokens of a run are shared out among its prompts.

    by: what is to be gained.
    total_tokens: generated and scored for all prompts together.
    prompts: a digest of the list of prompts, on which each result depends.
    """

    by: Gain
    total_tokens: int
    prompts: str

    @property
    def rounds(self) -> int:
        """How many rounds there are at the most, the first one included."""
        return len(SHARES) if self.by == "log_z" else 9

    @property
    def least(self) -> int:
        """The parts that each prompt gets in every round."""
        return 1 if self.by == "log_z" else 0


SHARES = (0.25, 0.75)
"""By "log_z": the weight of each round's mean in Ẑ. It is fixed beforehand, and so Σ s_k·(mean of round k) stays unbiased: the
rounds before decide how many parts a round has, and given them the mean of its parts has the expectation Z."""


def check_allocation(by: object, budget: Budget | None, select: object, until: object, cluster: object, retry: bool) -> int:
    """The tokens to be shared out. Raises TargetError, before any work, for what cannot be allocated."""
    if by not in get_args(Gain):
        raise TargetError(f'allocate={by!r}: give "accuracy" or "log_z"')
    if budget is None or budget.total_tokens is None:
        raise TargetError("allocate shares out the tokens of a whole run: give budget=Budget(total_tokens=...)")
    if (budget.tokens, budget.seconds, budget.reward_calls) != (None, None, None):
        raise TargetError("allocate decides how much each prompt gets: leave the limits of single prompts out of the budget")
    if until is not None:
        raise TargetError("allocate and until would both decide when a prompt has enough: give one of them")
    if cluster is not None:
        raise TargetError("allocate compares the prompts on one machine: leave out cluster")
    if retry:
        raise TargetError("retry=True would change what later rounds were decided from: leave it out, or begin a new file")
    if by == "accuracy" and not (isinstance(select, Vote) or select is best):
        raise TargetError(
            'allocate="accuracy" estimates what a vote, or best, gains from more draws: give select=vote(...) or best, or '
            'allocate="log_z"'
        )
    return budget.total_tokens


# ------------------------------------------------------------------------------------------------------------- gains


def of_accuracy(select: Any, populations: Sequence[Population], dead: int, proved: bool) -> Value:
    """What further parts are worth to the answer of a prompt.

    populations: its parts so far, apart from the `dead`, which had weight zero.
    proved: whether the answer is proved, so that more draws cannot change it.
    """
    if not populations:
        return partial(_found, 0, dead)
    parts, pooled = len(populations) + dead, Population.merge(populations)
    if proved:
        return _nothing
    if isinstance(select, Vote):
        _, first, second = leading(pooled, select.answer, _draws(pooled, select.weighted))
        per_part = (first + second or len(pooled)) / parts
        return partial(_lead, first, second, per_part)
    top = float(pooled.rewards[pooled.log_w > -math.inf].max())
    if pooled.reward_max is not None and top >= pooled.reward_max:
        return _nothing
    return partial(_found, parts, 0)


def _draws(population: Population, weighted: bool) -> Floats:
    """How many independent draws each row counts for; a chain has no more than it has different states.

    States are compared by their tokens and not, as in `until.sure`, by which object they are: a results file keeps equal ones
    once, and a run that is resumed from it must decide the same.
    """
    held = (population.log_w > -math.inf).astype(np.float64)
    different = held.sum() if population.proper else float(len({(each.tokens, each.order) for each in population.drafts}))
    if weighted:
        return population.weights * min(population.ess, different)
    return held * min(1.0, different / held.sum())


def _nothing(parts: int) -> float:
    return 0.0


def _found(seen: int, dead: int, parts: int) -> float:
    """The chance that the best of all is among the new parts; where all are dead, that a part of them is not."""
    return parts / (seen + dead + parts)


def _lead(first: float, second: float, per_part: float, parts: int) -> float:
    draws = min(_MOST, max(1, round(per_part * parts))) if parts else 0
    return expected_lead(first, second, draws)


def expected_lead(first: float, second: float, draws: int) -> float:
    """E max(P, 1 - P) after so many more draws of the two leading answers, which have `first` and `second` now."""
    log_prior = first * np.log(_GRID) + second * np.log1p(-_GRID)
    prior = np.exp(log_prior - log_prior.max())
    hits = np.arange(draws + 1)
    log_ways = np.array([math.lgamma(draws + 1) - math.lgamma(hit + 1) - math.lgamma(draws - hit + 1) for hit in hits])
    chances = np.exp(log_ways[:, None] + hits[:, None] * np.log(_GRID) + (draws - hits)[:, None] * np.log1p(-_GRID))
    joint = chances * (prior / prior.sum())
    middle = len(_GRID) // 2
    return float(np.maximum(joint[:, middle:].sum(axis=1), joint[:, :middle].sum(axis=1)).sum())


def of_log_z(firsts: Sequence[Population | None]) -> list[Value]:
    """What further parts are worth to log Ẑ of each prompt. firsts: its first part, None where that had weight zero.

    The relative variance of a part's Ẑ is (1/ESS - 1/n) by the part's own weights. Of a dead part nothing is known but that
    successes are rare: it counts as 1.
    """
    own = [1.0 if each is None else 1 / each.ess - 1 / len(each) for each in firsts]
    sizes = [1 if each is None else len(each) for each in firsts]
    mean = max(float(np.mean(own)), 1e-6)
    return [partial(_precision, (size * value + _PRIOR * mean) / (size + _PRIOR)) for value, size in zip(own, sizes, strict=True)]


def _precision(variance: float, parts: int) -> float:
    return -variance / parts if parts else -math.inf


# ------------------------------------------------------------------------------------------------------------ choice


@dataclass(frozen=True)
class Candidate:
    """A prompt that may get more: what further parts are worth, and the tokens of one."""

    value: Value
    cost: float


def choose(candidates: Sequence[Candidate], tokens: float, least: int) -> list[int]:
    """How many parts each candidate gets for about so many tokens in all: `least` each, and more by gain per token.

    A packet that does not fit any more is passed over, and its prompt gets no other. Equal gains are served in their order.
    """
    given = [least] * len(candidates)
    left = tokens - sum(least * each.cost for each in candidates)
    heap = [(-rate, row, size) for row, each in enumerate(candidates) for rate, size in [_packet(each, least)] if rate > 0]
    heapq.heapify(heap)
    while heap:
        _, row, size = heapq.heappop(heap)
        each = candidates[row]
        if size * each.cost > left:
            continue
        given[row], left = given[row] + size, left - size * each.cost
        rate, size = _packet(each, given[row])
        if rate > 0:
            heapq.heappush(heap, (-rate, row, size))
    return given


def _packet(candidate: Candidate, given: int) -> tuple[float, int]:
    """The packet with the largest gain per token on top of those given, and that gain."""
    now = candidate.value(given)
    gains = [(candidate.value(given + size) - now, size) for size in PACKETS]
    return max((gain / (size * candidate.cost) if gain > _LEAST else 0.0, size) for gain, size in gains)
