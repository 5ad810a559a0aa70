"""SMC: a particle filter over partial drafts, with look-ahead rollouts or a value model as its potential.

N particles grow block by block from p (or the proposal q). Each has a weight g, the product of p/q over its tokens, 1/N
at the start, and a potential V, an estimate of its energy E_p[exp(r/β) | draft]: the mean of exp(r/β) over K look-ahead
rollouts, or exp(value/β); V = exp(r/β) for a finished one. Potentials steer and are not part of g: when the particles are
resampled, particle j with probability P(j) ∝ g_j·V_j, each copy of it goes on with

    g_j/(N·P(j)),

which divides out the effect of the potential. (Keeping V in the weight counts the past again at each step: a known
bug elsewhere.) At the end the weights g·exp(r/β) are proper for γ = p·exp(r/β) at every N and with any potential, rollout
noise included, as long as P(j) > 0 for every particle that can still lead to a response with γ > 0. A floor under the
unfinished ones ensures that (`exptilt.samplers.picks`); a finished particle that the reward excludes is never resampled,
and where all are finished and excluded AllWeightsZero is raised.

Particles are resampled systematically, when the effective sample size of P falls below `threshold`·N. Del Moral, Doucet and
Jasra, "Sequential Monte Carlo samplers", 2006; weights by the probability used as in the auxiliary particle filter of Pitt
and Shephard, 1999; for language models Lew et al., 2306.03081.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from exptilt.blocks import Blocks, as_block, schedule, step_needs
from exptilt.core import Target, rate
from exptilt.draft import Draft, Prompt
from exptilt.keys import Floats, Key
from exptilt.populations.population import Population, systematic
from exptilt.samplers.command import Command
from exptilt.samplers.common import Value, at_least_one, log_ratio, look_ahead
from exptilt.samplers.picks import FLOOR, check_floor, log_picks
from exptilt.samplers.trace import Generations


@dataclass(frozen=True)
class SMC:
    """N particles, resampled when few of them carry the weight.

    particles: how many particles (N).
    block: tokens per step, or the text that ends a step, such as a newline (`exptilt.blocks`); None for one step to the end.
    rollouts: how many look-ahead rollouts per particle (K).
    value: an estimate of the final reward of partial drafts, used instead of rollouts.
    threshold: resample when ESS < threshold·N; 0 never, 1 at every step.
    floor: the share δ of the resampling that unfinished particles have whatever their potentials, above 0 and below 1. It
        keeps weights proper under hard constraints; the default is near the best by measured variance (`reproduce/floors.py`).
    """

    particles: int
    block: Blocks | None = None
    rollouts: int = 1
    value: Value | None = None
    threshold: float = 0.5
    floor: float = FLOOR
    weighted: ClassVar[bool] = True
    command: ClassVar[Command] = Command("smc", "a particle filter over partial responses", start={"particles": 16, "block": 32})

    def __post_init__(self) -> None:
        at_least_one(self, "particles", "rollouts")
        as_block("SMC", self.block)
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"SMC(threshold={self.threshold}): give a share of the particles between 0 and 1")
        check_floor(self, self.floor)

    def needs(self, target: Target) -> frozenset[str]:
        """ "continue" for more than one step, "steps" for those of text; "score" where there is a proposal."""
        more = step_needs(self.block, target.engine.max_tokens)
        return more if target.proposal is None else more | {"score"}

    def __call__(self, target: Target, prompt: Prompt, key: Key) -> Iterator[Population]:
        drafts = [target.law.start(prompt)] * self.particles
        log_g, log_v = np.full(self.particles, -math.log(self.particles)), np.zeros(self.particles)
        rewards, parents, trace = np.zeros(self.particles), None, Generations()
        for step, block in enumerate(schedule(self.block, target.engine.max_tokens)):
            here = key.child("step", step)
            lengths = [draft.decided for draft in drafts]
            drafts = target.law.extend(drafts, [here.child("extend", number) for number in range(self.particles)], block)
            log_v, rewards = self._potentials(target, prompt, drafts, log_v, rewards, lengths, here)
            log_g = log_g + log_ratio(target, drafts, lengths)
            trace = trace.grown(drafts, parents, log_g + log_v, log_v)
            unfinished = np.array([draft.finish is None for draft in drafts])
            if not unfinished.any():
                break
            log_p = log_picks(log_g + log_v, unfinished & (log_g > -math.inf), self.floor)
            if log_p is None:
                break  # unfinished particles have p = 0 and finished ones are excluded: all weights are zero
            shares, parents = np.exp(log_p), None
            if 1.0 / np.sum(shares**2) < self.threshold * self.particles:
                parents = systematic(shares, self.particles, here.child("resample"))
                log_g = log_copies(log_g, log_p, parents)
                drafts, log_v, rewards = [drafts[row] for row in parents], log_v[parents], rewards[parents]
        yield Population(drafts, log_g + log_v, rewards, trace=trace)

    def _potentials(
        self, target: Target, prompt: Prompt, drafts: list[Draft], log_v: Floats, rewards: Floats, lengths: list[int], key: Key
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
            log_v[guessed] = target.tilt(rate(self.value, prompt, [drafts[row] for row in guessed]))
        return log_v, rewards


def log_copies(log_g: Floats, log_p: Floats, parents: list[int]) -> Floats:
    """log g/(N·P) of the copies, float64 [N]: particle j has N·P(j) of them in expectation, which together weigh g_j."""
    return log_g[parents] - log_p[parents] - math.log(len(parents))
