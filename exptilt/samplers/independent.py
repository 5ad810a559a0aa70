"""Independent draws, importance-weighted: the plainest sampler.

`Independent(n)` draws y_1..y_n from q, the proposal if the target has one and p itself otherwise, with weights

    w_i = (1/n)·exp(r(y_i)/β)·p(y_i)/q(y_i),

properly weighted for γ = p·exp(r/β) at every n. With the selects of `exptilt.populations.select` this one sampler is
importance sampling, best-of-n (`best`), soft best-of-n (`draw`: Verdun et al., 2505.03156), majority and weighted votes
(`vote`) and MBR (`mbr`). Its draw tends to π with KL(π‖p_n) ≤ log(1 + χ²/n), where χ² = Var_p(exp(r/β))/Z².
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from exptilt.core import Target
from exptilt.draft import Draft
from exptilt.keys import Key
from exptilt.populations.population import Population
from exptilt.samplers.command import Command
from exptilt.samplers.common import at_least_one, log_ratio


@dataclass(frozen=True)
class Independent:
    """n independent responses, importance-weighted; the plainest sampler, and the base of all comparisons.

    n: how many responses.
    batch: how many to draw before each population is yielded; all at once where not given.

    While all drawn so far have weight zero nothing is yielded: Ẑ = 0 counts as such until a draft is allowed.
    Raises AllWeightsZero where none of the n is.
    """

    n: int
    batch: int | None = None
    weighted: ClassVar[bool] = True
    command: ClassVar[Command] = Command(
        "independent", "n independent responses, importance-weighted: best-of-n, votes, MBR", start={"n": 16}
    )

    def __post_init__(self) -> None:
        at_least_one(self, "n", "batch")

    def needs(self, target: Target) -> frozenset[str]:
        """Nothing; "score" where there is a proposal."""
        return frozenset() if target.proposal is None else frozenset({"score"})

    def __call__(self, target: Target, prompt: str, key: Key) -> Iterator[Population]:
        drafts: list[Draft] = []
        log_h, rewards = np.zeros(0), np.zeros(0)
        while len(drafts) < self.n:
            count = min(self.batch or self.n, self.n - len(drafts))
            keys = [key.child("draft", len(drafts) + i) for i in range(count)]
            fresh = target.law.extend([target.law.start(prompt)] * count, keys)
            rated = target.rate(prompt, fresh)
            drafts += fresh
            rewards = np.concatenate([rewards, rated])
            log_h = np.concatenate([log_h, rated / target.beta + log_ratio(target, fresh, [0] * count)])
            if len(drafts) == self.n or log_h.max() > -math.inf:
                yield Population(drafts, log_h - math.log(len(drafts)), rewards)
