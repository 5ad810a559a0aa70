"""Rejection: exact, independent draws from π, for rewards with a known upper bound.

y is drawn from p and accepted with probability

    a(y) = exp((r(y) - r_max)/β),     r_max ≥ r(y) for every y.

The accepted drafts are independent draws from π itself. How many draws one acceptance takes is exp(r_max/β)/Z in the mean, so
this is the sampler for rewards that often succeed, and for users who need draws that are exact one by one.

The run ends with the first batch after which `draws` drafts are accepted, or after `limit` draws. Its weights are those of
Girshick, Mosteller and Savage for this rule (`exptilt.samplers.lattice`): properly weighted for γ = p·exp(r/β), where the
plain average over a run that stops at a success is not. Where a single accepted draft ends the run, there is no useful estimate
of Z: then drafts have equal weights, and log Ẑ is None.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from exptilt.blocks import Blocks, as_block, step_needs
from exptilt.core import Target
from exptilt.describe import LATER
from exptilt.draft import Draft, Prompt
from exptilt.errors import AllWeightsZero, RewardError, TargetError
from exptilt.keys import Coin, Floats, Key
from exptilt.populations.population import Population
from exptilt.samplers.abort import check_bounds, drawn_while
from exptilt.samplers.command import Command
from exptilt.samplers.common import at_least_one
from exptilt.samplers.lattice import log_weight


@dataclass(frozen=True)
class Rejection:
    """Draws from p, each accepted with probability exp((r - r_max)/β): exact draws from π.

    draws: how many accepted drafts are wanted.
    limit: how many draws from p are made at the most.
    reward_max: an upper bound of the reward, in its units; a reward above it is an error.
    batch: how many are drawn at once; the run ends between batches.
    block: draw this many decisions, or a step of text (`exptilt.blocks`), at a time, and give a draft up as soon as a bound of
        the reward rules its acceptance out (`exptilt.samplers.abort`); to the end at once where not given.
    """

    draws: int
    limit: int
    reward_max: float
    batch: int = 1
    block: Blocks | None = field(default=None, metadata=LATER)
    command: ClassVar[Command] = Command(
        "rejection",
        "exact draws from π, for rewards with a known upper bound",
        start={"draws": 8, "limit": 256, "reward_max": 1.0},
    )
    weighted: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least_one(self, "draws", "limit", "batch")
        as_block("Rejection", self.block)
        if not math.isfinite(self.reward_max):
            raise ValueError(f"Rejection(reward_max={self.reward_max}): give a finite upper bound of the reward")

    def needs(self, target: Target) -> frozenset[str]:
        """Nothing; "continue" to draw in blocks, "steps" for those of text.

        Raises TargetError for a target with a proposal: acceptance would need a bound of p/q as well.
        """
        if target.proposal is not None:
            raise TargetError("Rejection draws from the engine itself and takes no proposal: leave it out of the target")
        return step_needs(self.block, target.engine.max_tokens)

    def __call__(self, target: Target, prompt: Prompt, key: Key) -> Iterator[Population]:
        drafts: list[Draft] = []
        rewards = np.zeros(0)
        drawn = 0
        while not self.ends(drawn, len(drafts)):
            count = min(self.batch, self.limit - drawn)
            fresh, rated = self._accepted(target, prompt, key, range(drawn, drawn + count))
            drafts, rewards, drawn = drafts + fresh, np.concatenate([rewards, rated]), drawn + count
            if drafts and not self.ends(drawn, len(drafts)):
                yield Population.unweighted(drafts, rewards)  # these are exact draws from π; the estimate of Z comes at the end
        if not drafts:
            raise AllWeightsZero(f"none of {drawn} draws was accepted: raise limit or β, or lower reward_max to the best reward")
        if self.draws == 1:
            yield Population.unweighted(drafts, rewards)
            return
        log_w = log_weight(self.ends, drawn, len(drafts), self.reward_max / target.beta)
        yield Population(drafts, np.full(len(drafts), log_w), rewards)

    def ends(self, drawn: int, accepted: int) -> bool:
        """Whether the run ends with this many accepted of this many drawn."""
        return drawn == self.limit or (accepted >= self.draws and drawn % self.batch == 0)

    def _accepted(self, target: Target, prompt: Prompt, key: Key, numbers: range) -> tuple[list[Draft], Floats]:
        """The accepted ones of a batch of draws, with their rewards."""
        coins = [key.child("accept", number).coin() for number in numbers]
        drafts, lowest = self._drawn(target, prompt, [key.child("draft", number) for number in numbers], coins)
        kept = [row for row, draft in enumerate(drafts) if draft.finish is not None]
        rewards = np.full(len(drafts), -math.inf)  # what was given up is rejected
        rewards[kept] = target.rate(prompt, [drafts[row] for row in kept])
        check_bounds(drafts, rewards, lowest)
        if rewards.max() > self.reward_max:
            raise RewardError(
                f"the reward {rewards.max():g} is above reward_max={self.reward_max:g}, so its draft cannot be accepted as often "
                "as it should: give a true upper bound"
            )
        taken = [row for row in kept if coins[row].below(self._chance(target, float(rewards[row])))]
        return [drafts[row] for row in taken], rewards[taken]

    def _drawn(self, target: Target, prompt: Prompt, keys: list[Key], coins: list[Coin]) -> tuple[list[Draft], Floats]:
        """Draws from p, and what bounds the reward of each; those that were given up on the way are unfinished."""
        starts = [target.engine.start(prompt)] * len(keys)
        if self.block is None:
            return target.engine.extend(starts, keys), np.full(len(keys), math.inf)
        possible = lambda row, _, bound: coins[row].below(self._chance(target, bound))  # noqa: E731
        return drawn_while(target, prompt, starts, keys, self.block, possible)

    def _chance(self, target: Target, reward: float) -> float:
        """The probability with which a draft of this reward is accepted."""
        return math.exp((min(reward, self.reward_max) - self.reward_max) / target.beta)
