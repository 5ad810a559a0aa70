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

Copies of one particle are alike until they grow apart. `rejuvenate` moves every unfinished particle after each step: its first
s steps are kept, s uniform, the others are drawn anew, and the new particle x' with a potential V' of its own takes the place of
x with probability min(1, l'V'/(lV)), where l is p/q. On unfinished drafts of V > 0 this leaves p·V invariant, and it leaves all
others where they are; a particle keeps g·V, so its weight becomes g·V/V'. The moves are made whether particles were resampled
or not: moves that depended on that would bias Ẑ, because what invites them depends on the particles that they move. (Gilks and
Berzuini's resample-move, 2001; with rollouts it is a pseudo-marginal move.)

Particles are resampled systematically, when the effective sample size of P falls below `threshold`·N. Del Moral, Doucet and
Jasra, "Sequential Monte Carlo samplers", 2006; weights by the probability used as in the auxiliary particle filter of Pitt
and Shephard, 1999; for language models Lew et al., 2306.03081.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from exptilt.blocks import Blocks, BlockSize, as_block, schedule, step_needs
from exptilt.core import Target, rate
from exptilt.describe import LATER
from exptilt.draft import Draft, Prompt
from exptilt.keys import Floats, Key
from exptilt.populations.population import Population
from exptilt.populations.resampling import systematic
from exptilt.samplers.command import Command
from exptilt.samplers.common import Value, at_least_one, log_ratio, look_ahead, metropolis
from exptilt.samplers.particles import Particles
from exptilt.samplers.picks import FLOOR, check_floor, log_picks
from exptilt.samplers.trace import Generations
from exptilt.watching import grow


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
    rejuvenate: how many times each particle is moved after every step: its later steps are drawn anew, and that is accepted by
        the potentials. Copies part again, at the cost of about half a particle and its rollouts for each move.
    """

    particles: int
    block: Blocks | None = None
    rollouts: int = 1
    value: Value | None = None
    threshold: float = 0.5
    floor: float = FLOOR
    rejuvenate: int = field(default=0, metadata=LATER)
    weighted: ClassVar[bool] = True
    command: ClassVar[Command] = Command("smc", "a particle filter over partial responses", start={"particles": 16, "block": 32})

    def __post_init__(self) -> None:
        at_least_one(self, "particles", "rollouts")
        as_block("SMC", self.block)
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"SMC(threshold={self.threshold}): give a share of the particles between 0 and 1")
        check_floor(self, self.floor)
        if not (type(self.rejuvenate) is int and self.rejuvenate >= 0):
            raise ValueError(f"SMC(rejuvenate={self.rejuvenate!r}): give a number of moves of 0 or more")

    def needs(self, target: Target) -> frozenset[str]:
        """ "continue" for more than one step, "steps" for those of text; "score" where there is a proposal."""
        more = step_needs(self.block, target.engine.max_tokens)
        return more if target.proposal is None else more | {"score"}

    def __call__(self, target: Target, prompt: Prompt, key: Key) -> Iterator[Population]:
        particles, trace = self.filter(target, prompt, key)
        yield Population(particles.drafts, particles.log_w, particles.rewards, trace=trace)

    def filter(
        self, target: Target, prompt: Prompt, key: Key, kept: Sequence[Draft] | None = None, *, history: bool = False
    ) -> tuple[Particles, Generations]:
        """The particles after the last step.

        kept: the steps of a finished response that the first particle takes again (conditional SMC,
            `exptilt.samplers.gibbs`); the others are then copied independently of each other.
        history: whether the particles are to know all of their steps.
        """
        particles = Particles.start(target.law.start(prompt), self.particles, history or self.rejuvenate > 0)
        parents, trace = None, Generations()
        blocks = schedule(self.block, target.engine.max_tokens)
        for step, block in enumerate(blocks):
            here = key.child("step", step)
            drafts, lengths = self._drawn(target, particles, block, kept, step, here)
            log_v, rewards = self._potentials(target, prompt, drafts, particles.log_v, particles.rewards, lengths, here)
            particles = particles.grown(drafts, log_ratio(target, drafts, lengths), log_v, rewards)
            trace = trace.grown(drafts, parents, particles.log_w, log_v)
            grow(self, trace)
            unfinished = particles.unfinished
            if not unfinished.any():
                break
            log_p = log_picks(particles.log_w, unfinished & (particles.log_g > -math.inf), self.floor)
            if log_p is None:
                break  # unfinished particles have p = 0 and finished ones are excluded: all weights are zero
            shares, parents = np.exp(log_p), None
            if 1.0 / np.sum(shares**2) < self.threshold * self.particles:
                parents = self._parents(shares, kept is not None, here)
                particles = particles.copied(parents, log_p)
            for move in range(self.rejuvenate):
                particles = self.moved(target, prompt, particles, blocks[: step + 1], here.child("move", move))
        return particles, trace

    def _drawn(
        self, target: Target, particles: Particles, block: BlockSize | None, kept: Sequence[Draft] | None, step: int, key: Key
    ) -> tuple[list[Draft], list[int]]:
        """The particles one step further, the first one along the path that is kept; and how long they were before."""
        before = particles.drafts
        first = [] if kept is None else [kept[min(step + 1, len(kept) - 1)]]
        numbers = range(len(first), self.particles)
        drawn = target.law.extend(
            [before[number] for number in numbers], [key.child("extend", number) for number in numbers], block
        )
        return first + drawn, [draft.decided for draft in before]

    def _parents(self, shares: Floats, conditional: bool, key: Key) -> list[int]:
        """Which particles are copied: systematically, or given that the first one is a copy of the first."""
        if not conditional:
            return systematic(shares, self.particles, key.child("resample"))
        return [0, *(key.child("parent", number).choose(shares) for number in range(1, self.particles))]

    def moved(
        self, target: Target, prompt: Prompt, particles: Particles, blocks: Sequence[BlockSize | None], key: Key
    ) -> Particles:
        """One Metropolis-Hastings move of each unfinished particle: all but its first s steps are drawn anew, s uniform."""
        movable = particles.unfinished & (particles.log_w > -math.inf)
        rows = np.flatnonzero(movable).tolist()
        kept = {row: key.child(row, "kept").choose(np.ones(len(blocks))) for row in rows}
        paths = {row: particles.paths[row][: kept[row] + 1] for row in rows}
        log_l = {row: particles.log_l[row][: kept[row]] for row in rows}
        for step, block in enumerate(blocks):
            growing = [row for row in rows if kept[row] <= step and paths[row][-1].finish is None]
            before = [paths[row][-1] for row in growing]
            drafts = target.law.extend(before, [key.child(row, "redraw", step) for row in growing], block)
            ratios = log_ratio(target, drafts, [draft.decided for draft in before])
            for row, draft, ratio in zip(growing, drafts, ratios.tolist(), strict=True):
                paths[row], log_l[row] = (*paths[row], draft), (*log_l[row], ratio)
        rows = [row for row in rows if paths[row][-1].finish is None]  # a particle that finished would not move back
        drafts, zeros = [paths[row][-1] for row in rows], np.zeros(len(rows))
        log_v, _ = self._potentials(target, prompt, drafts, zeros, zeros, [-1] * len(rows), key)
        for row, new in zip(rows, log_v.tolist(), strict=True):
            old = particles.log_v[row] + math.fsum(particles.log_l[row])
            if metropolis(new + math.fsum(log_l[row]) - old, key.child(row, "accept")):
                particles = particles.moved(row, paths[row], log_l[row], new)
        return particles

    def _potentials(
        self, target: Target, prompt: Prompt, drafts: list[Draft], log_v: Floats, rewards: Floats, lengths: list[int], key: Key
    ) -> tuple[Floats, Floats]:
        """log V and the reward of each particle (0 while unfinished); particles finished before keep theirs."""
        log_v, rewards = log_v.copy(), rewards.copy()
        moved = [row for row, draft in enumerate(drafts) if draft.decided > lengths[row]]
        rated = moved if self.value is None else [row for row in moved if drafts[row].finish is not None]
        ahead = look_ahead(target, prompt, [drafts[row] for row in rated], self.rollouts, key.child("rollout"))
        log_v[rated] = ahead.log_energies(len(rated))
        own = {place: row for place, row in enumerate(rated) if drafts[row].finish is not None}  # each is its only rollout
        rewards[[*own.values()]] = ahead.rewards[np.searchsorted(ahead.owner, [*own])]
        if self.value is not None:
            guessed = [row for row in moved if drafts[row].finish is None]
            log_v[guessed] = target.tilt(rate(self.value, prompt, [drafts[row] for row in guessed]))
        return log_v, rewards
