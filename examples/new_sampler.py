"""A new sampler in one file: draw until enough responses reach a reward, and stay exact.

    exptilt sample tiny "Ann has 3 pens and buys 4 more. How many pens has Ann?" --reward arithmetic --beta 0.1 \\
        --sampler examples/new_sampler.py:Inverse --reach 1

The number of draws follows the luck of each prompt: an easy one stops early, a hard one goes on to the cap. To stop at
a success and average over all draws would be biased, because the last draw is a success for certain. The cure is
Haldane's (1945): leave out the draw that stops the sampler. Of T draws, the last of which is the k-th success, the
T-1 others are k-1 successes and T-k failures in any order, and E[(k-1)/(T-1)] is the probability of a success: so

    w_i = (1/(T-1))·exp(r(y_i)/β)   for the T-1 draws before it,

and w_i = (1/n)·exp(r(y_i)/β) where all n draws are made, are properly weighted for γ = p·exp(r/β): the target is π
itself, whatever `reach` is, and E[Ẑ] = Z. What it costs is one draw in T that is paid for and not used.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

import exptilt as xt
from exptilt.draft import Prompt
from exptilt.samplers import Command


@dataclass(frozen=True)
class Inverse:
    """Independent draws until some of them reach a reward (inverse sampling), properly weighted.

    reach: a draw is a success where its reward is at least this.
    successes: how many of them stop the sampler (k), 2 or more; the last one is left out.
    most: draws after which it stops in any case (n).
    """

    reach: float
    successes: int = 2
    most: int = 64
    weighted: ClassVar[bool] = True
    command: ClassVar[Command] = Command("inverse", "independent draws until two of them reach a reward", start={"reach": 1.0})

    def __post_init__(self) -> None:
        if self.successes < 2:
            raise ValueError(f"Inverse(successes={self.successes}): give 2 or more, because the last success is left out")
        if self.most < 1:
            raise ValueError(f"Inverse(most={self.most}): give a whole number of 1 or more")

    def needs(self, target: xt.Target) -> frozenset[str]:
        """Nothing of the engine; a proposal is not drawn from."""
        if target.proposal is not None:
            raise xt.TargetError("Inverse draws from the model itself and takes no proposal: leave it out of the target")
        return frozenset()

    def __call__(self, target: xt.Target, prompt: Prompt, key: xt.Key) -> Iterator[xt.Population]:
        """One population, at the end: what was drawn by an earlier point depends on where the sampler stopped."""
        drafts: list[xt.Draft] = []
        rewards: list[float] = []
        start = target.engine.start(prompt)
        while len(drafts) < self.most:
            (draft,) = target.engine.extend([start], [key.child("draft", len(drafts))])
            (reward,) = target.rate(prompt, [draft])
            is_last = reward >= self.reach and sum(each >= self.reach for each in rewards) == self.successes - 1
            if is_last:
                break
            drafts.append(draft)
            rewards.append(float(reward))
        rated = np.array(rewards)
        yield xt.Population(drafts, rated / target.beta - math.log(len(drafts)), rated)
