"""Independent draws and look-ahead rollouts: the two ways of finishing drafts that every sampler builds on.

`Independent(n)` draws y_1..y_n from q, the proposal if the target has one and p itself otherwise, with weights

    w_i = (1/n)·exp(r(y_i)/β)·p(y_i)/q(y_i),

properly weighted for γ = p·exp(r/β) at every n. With the selects of `exptilt.select` this one sampler is importance
sampling, best-of-n (`best`), soft best-of-n (`draw`: Verdun et al., 2505.03156), majority and weighted votes (`vote`)
and MBR (`mbr`). Its draw tends to π with KL(π‖p_n) ≤ log(1 + χ²/n), where χ² = Var_p(exp(r/β))/Z².

`look_ahead` finishes partial drafts K times each. exp(r/β)·p/q averaged over the rollouts of a draft is an unbiased
estimate of its energy E_p[exp(r/β) | draft], the quantity that ETS selects by and that SMC uses as a potential.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from exptilt.core import Draft, Target
from exptilt.diagnostics import log_sum
from exptilt.keys import Floats, Key
from exptilt.population import Population


@dataclass(frozen=True)
class Independent:
    """n independent responses, importance-weighted; the plainest sampler, and the base of all comparisons.

    n: how many responses. batch: how many to draw before each population is yielded; all at once where not given.
    """

    n: int
    batch: int | None = None
    weighted: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least_one(self, "n", "batch")

    def needs(self, target: Target) -> frozenset[str]:
        """Nothing; "score" where there is a proposal."""
        return frozenset() if target.proposal is None else frozenset({"score"})

    def __call__(self, target: Target, prompt: str, key: Key) -> Iterator[Population]:
        law = target.engine if target.proposal is None else target.proposal
        drafts: list[Draft] = []
        log_h, rewards = np.zeros(0), np.zeros(0)
        while len(drafts) < self.n:
            count = min(self.batch or self.n, self.n - len(drafts))
            keys = [key.child("draft", len(drafts) + i) for i in range(count)]
            fresh = law.extend([law.start(prompt)] * count, keys)
            rated = target.rate(prompt, fresh)
            drafts += fresh
            rewards = np.concatenate([rewards, rated])
            log_h = np.concatenate([log_h, rated / target.beta + log_ratio(target, fresh, [0] * count)])
            yield Population(drafts, log_h - math.log(len(drafts)), rewards)


@dataclass(frozen=True, eq=False)
class LookAhead:
    """Completions of some drafts. Row k completes draft `owner[k]`; a finished draft has itself as its only row.

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
        return np.array([log_sum((self.log_h + self.log_share)[self.owner == draft]) for draft in range(count)])


def look_ahead(target: Target, prompt: str, drafts: Sequence[Draft], rollouts: int, key: Key) -> LookAhead:
    """Finish each unfinished draft `rollouts` times, by the proposal if there is one; finished drafts are only rated."""
    owner: list[int] = []
    keys: list[Key] = []
    for number, draft in enumerate(drafts):
        copies = rollouts if draft.finish is None else 1
        owner += [number] * copies
        keys += [key.child(number, copy) for copy in range(copies)]
    law = target.engine if target.proposal is None else target.proposal
    finished = law.extend([drafts[number] for number in owner], keys)
    rewards = target.rate(prompt, finished)
    log_h = rewards / target.beta + log_ratio(target, finished, [drafts[number].decided for number in owner])
    owners = np.array(owner, dtype=np.intp)
    return LookAhead(finished, owners, rewards, log_h, -np.log(np.bincount(owners, minlength=len(drafts))[owners]))


def log_ratio(target: Target, drafts: Sequence[Draft], starts: Sequence[int]) -> Floats:
    """log p/q of the decisions of each draft from number `starts[i]` on, which the proposal drew; zeros without one."""
    ratios = np.zeros(len(drafts))
    drawn = [row for row, (draft, start) in enumerate(zip(drafts, starts, strict=True)) if draft.decided > start]
    if target.proposal is None or not drawn:
        return ratios
    scores = target.engine.score([drafts[row] for row in drawn], [starts[row] for row in drawn])
    for row, score in zip(drawn, scores, strict=True):
        ratios[row] = np.sum(score) - math.fsum(known_logq(drafts[row])[starts[row] :])
    return ratios


def known_logq(draft: Draft) -> tuple[float, ...]:
    """The draft's log-probabilities, where an engine that claims "logq" has told them."""
    if draft.logq is None:
        raise ValueError(f"the draft {draft.text[:60]!r} carries no log-probabilities although its engine can give them")
    return draft.logq


def at_least_one(record: object, *names: str) -> None:
    """Check at construction that the named counts are whole numbers of 1 or more; None stands for "not given"."""
    for name in names:
        value = getattr(record, name)
        if value is not None and not (isinstance(value, int) and value >= 1):
            raise ValueError(f"{type(record).__name__}({name}={value!r}): give a whole number of 1 or more")
