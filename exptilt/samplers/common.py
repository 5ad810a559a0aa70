"""What several samplers share: look-ahead rollouts, importance ratios, values of partial drafts, checks of counts.

`look_ahead` finishes partial drafts K times each. exp(r/β)·p/q averaged over the rollouts of a draft is an unbiased
estimate of its energy E_p[exp(r/β) | draft], the quantity that ETS selects by and that SMC uses as a potential.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from exptilt.core import Target
from exptilt.draft import Draft, Prompt, known_logq
from exptilt.keys import Floats, Key

Value = Callable[[Any, list[Draft]], Sequence[float] | Floats]
"""An estimate of the final reward of partial drafts, in units of the reward; the score is exp(value/β).

Weights are proper whatever its values. At -inf the score is zero, and only the sampler's floor can choose the draft."""


@dataclass(frozen=True, eq=False)
class LookAhead:
    """Completions of some drafts. Row k completes draft `owner[k]`; a finished draft has itself as its only row.

    owner: int [rows], ascending, each draft at least once.
    log_h: float64 [rows], log of exp(r/β)·p(rollout)/q(rollout), the ratio over the rollout's own tokens only.
    log_share: float64 [rows], minus log of the number of rows of the same owner.
    """

    drafts: list[Draft]
    owner: np.ndarray
    rewards: Floats
    log_h: Floats
    log_share: Floats

    def log_energies(self, count: int) -> Floats:
        """log Ê of each of the `count` drafts: the log mean of exp(log_h) over its rows."""
        values = self.log_h + self.log_share
        if len(values) == count:
            return values  # one row each
        rows: list[list[float]] = [[] for _ in range(count)]
        for owner, value in zip(self.owner.tolist(), values.tolist(), strict=True):
            rows[owner].append(value)
        return np.array([_log_sum(some) for some in rows])


def _log_sum(values: list[float]) -> float:
    """log Σ exp(values) of a few values: an array of them would take longer."""
    top = max(values)
    return top if top == -math.inf else top + math.log(sum(math.exp(value - top) for value in values))


def look_ahead(target: Target, prompt: Prompt, drafts: Sequence[Draft], rollouts: int, key: Key) -> LookAhead:
    """Finish each unfinished draft `rollouts` times, by the proposal if there is one; finished drafts are only rated."""
    owner: list[int] = []
    log_share: list[float] = []
    keys: list[Key] = []
    for number, draft in enumerate(drafts):
        copies = rollouts if draft.finish is None else 1
        owner += [number] * copies
        log_share += [-math.log(copies)] * copies
        keys += [key.child(number, copy) for copy in range(copies)]
    finished = target.law.extend([drafts[number] for number in owner], keys)
    rewards = target.rate(prompt, finished)
    log_h = target.tilt(rewards) + log_ratio(target, finished, [drafts[number].decided for number in owner])
    return LookAhead(finished, np.array(owner, dtype=np.intp), rewards, log_h, np.array(log_share, dtype=np.float64))


def log_ratio(target: Target, drafts: Sequence[Draft], starts: Sequence[int]) -> Floats:
    """log p/q of the decisions of each draft from number `starts[i]` on, which the proposal drew; zeros without one."""
    ratios = np.zeros(len(drafts))
    if target.proposal is None:
        return ratios
    drawn = [row for row, (draft, start) in enumerate(zip(drafts, starts, strict=True)) if draft.decided > start]
    if not drawn:
        return ratios
    scores = target.engine.score([drafts[row] for row in drawn], [starts[row] for row in drawn])
    for row, score in zip(drawn, scores, strict=True):
        ratios[row] = np.sum(score) - math.fsum(known_logq(drafts[row])[starts[row] :])
    return ratios


def metropolis(log_ratio: float, key: Key) -> bool:
    """Whether a move is accepted: with probability min(1, exp(log_ratio)), +inf for one that is always made."""
    if log_ratio >= 0:
        return True
    return key.choose([1.0 - math.exp(log_ratio), math.exp(log_ratio)]) == 1


def at_least_one(record: object, *names: str) -> None:
    """Check at construction that the named counts are whole numbers of 1 or more; None stands for "not given"."""
    for name in names:
        value = getattr(record, name)
        if value is not None and (isinstance(value, bool) or not (isinstance(value, int) and value >= 1)):
            raise ValueError(f"{type(record).__name__}({name}={value!r}): give a whole number of 1 or more")
