"""SMC: a particle filter over partial drafts, with look-ahead rollouts or a value model as its potential.

N particles grow block by block from p (or the proposal q). Each carries a potential V, an estimate of its energy
E_p[exp(r/β) | draft]: the mean of exp(r/β) over K look-ahead rollouts, or exp(value/β). When a particle grows from y to
y', its weight is multiplied by the *increment*

    [p(y'|y)/q(y'|y)] · V(y')/V(y),     V = 1 for the empty draft, V = exp(r/β) for a finished one,

so that the product over a particle's life telescopes to exp(r/β)·p/q whatever the potentials were: they steer, the
final weights are proper for γ = p·exp(r/β) at every N, with any positive potential, rollout noise included. (Using the
levels V(y') as weights counts the past again at each step: a known bug elsewhere.) When the effective sample size
falls below `threshold`·N the particles are resampled systematically and share their total weight. Del Moral, Doucet
and Jasra, "Sequential Monte Carlo samplers", 2006; for language models Lew et al., 2306.03081.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from exptilt.core import Target, rate
from exptilt.draft import Draft
from exptilt.errors import AllWeightsZero
from exptilt.keys import Floats, Key
from exptilt.populations.diagnostics import log_sum
from exptilt.populations.population import Population, systematic
from exptilt.samplers.command import Command
from exptilt.samplers.common import Value, at_least_one, log_ratio, look_ahead
from exptilt.samplers.trace import Generations


@dataclass(frozen=True)
class SMC:
    """N particles, resampled when few of them carry the weight.

    particles: how many particles (N).
    block: tokens per step; None for one step to the end.
    rollouts: how many look-ahead rollouts per particle (K).
    value: an estimate of the final reward of partial drafts, used instead of rollouts.
    threshold: resample when ESS < threshold·N; 0 never, 1 at every step.
    """

    particles: int
    block: int | None = None
    rollouts: int = 1
    value: Value | None = None
    threshold: float = 0.5
    weighted: ClassVar[bool] = True
    command: ClassVar[Command] = Command("smc", "a particle filter over partial responses", start={"particles": 16, "block": 32})

    def __post_init__(self) -> None:
        at_least_one(self, "particles", "block", "rollouts")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"SMC(threshold={self.threshold}): give a share of the particles between 0 and 1")

    def needs(self, target: Target) -> frozenset[str]:
        """ "continue" for more than one step; "score" where there is a proposal."""
        more = {"continue"} if self.block is not None and self.block < target.engine.max_tokens else set()
        return frozenset(more if target.proposal is None else more | {"score"})

    def __call__(self, target: Target, prompt: str, key: Key) -> Iterator[Population]:
        steps = 1 if self.block is None else math.ceil(target.engine.max_tokens / self.block)
        drafts = [target.law.start(prompt)] * self.particles
        log_w, log_v = np.full(self.particles, -math.log(self.particles)), np.zeros(self.particles)
        rewards, parents, trace = np.zeros(self.particles), None, Generations()
        for step in range(steps):
            here = key.child("step", step)
            lengths, before = [draft.decided for draft in drafts], log_v
            drafts = target.law.extend(drafts, [here.child("extend", number) for number in range(self.particles)], self.block)
            log_v, rewards = self._potentials(target, prompt, drafts, log_v, rewards, lengths, here)
            log_w = log_w + log_ratio(target, drafts, lengths) + log_increment(log_v, before)
            trace = trace.grown(drafts, parents, log_w, log_v)
            if all(draft.finish is not None for draft in drafts):
                break
            weights, parents = _normalise(log_w), None
            if 1.0 / np.sum(weights**2) < self.threshold * self.particles:
                parents = systematic(weights, self.particles, here.child("resample"))
                drafts, log_v, rewards = [drafts[row] for row in parents], log_v[parents], rewards[parents]
                log_w = np.full(self.particles, log_sum(log_w) - math.log(self.particles))
        yield Population(drafts, log_w, rewards, trace=trace)

    def _potentials(
        self, target: Target, prompt: str, drafts: list[Draft], log_v: Floats, rewards: Floats, lengths: list[int], key: Key
    ) -> tuple[Floats, Floats]:
        """log V and the reward of each particle (0 while unfinished); particles finished before keep theirs."""
        log_v, rewards = log_v.copy(), rewards.copy()
        moved = [row for row, draft in enumerate(drafts) if draft.decided > lengths[row]]
        rated = [row for row in moved if self.value is None or drafts[row].finish is not None]
        guessed = [row for row in moved if row not in rated]
        ahead = look_ahead(target, prompt, [drafts[row] for row in rated], self.rollouts, key.child("rollout"))
        log_v[rated] = ahead.log_energies(len(rated))
        for place, row in enumerate(rated):
            if drafts[row].finish is not None:
                rewards[row] = ahead.rewards[ahead.owner == place][0]
        if self.value is not None and guessed:
            log_v[guessed] = rate(self.value, prompt, [drafts[row] for row in guessed]) / target.beta
        return log_v, rewards


def log_increment(after: Floats, before: Floats) -> Floats:
    """log V(y')/V(y), float64 [N]; -inf where V(y) = 0: such a particle has weight zero and keeps it."""
    alive = before > -math.inf
    return np.where(alive, after - np.where(alive, before, 0.0), -math.inf)


def _normalise(log_w: Floats) -> Floats:
    if np.all(log_w == -math.inf):
        raise AllWeightsZero("every particle was excluded by the reward: use more particles or rollouts")
    return np.exp(log_w - log_w.max()) / np.sum(np.exp(log_w - log_w.max()))
