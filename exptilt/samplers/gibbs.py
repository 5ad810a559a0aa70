"""Particle Gibbs: a Markov chain on π whose moves are particle filters that keep the chain's state among their particles.

The state is a finished response y with the steps in which it came about. A move runs `SMC` given y (conditional SMC): the first
particle takes the steps of y again, has new rollouts, and is always copied to itself; every other particle is drawn and copied
as ever, its parent independently with the probabilities P of all N. At the end one particle is drawn by the weights g·exp(r/β),
and is the next state.

π is the stationary distribution for every N ≥ 2, potential, floor and threshold. The weight of particle k at the end is the
density of an extended target, in which y_k has distribution π and all else is drawn as the filter draws it given y_k, over the
density of the filter itself; a move draws all else given y, then k given all, which are two steps of a Gibbs sampler (Andrieu,
Doucet and Holenstein, "Particle Markov chain Monte Carlo methods", 2010). Unlike a move of `Metropolised(SMC(...))`, which is
lost as a whole where it is rejected, a move keeps what it can of y: few particles do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from exptilt.core import Sampler, Target
from exptilt.draft import Draft, Prompt
from exptilt.errors import AllWeightsZero
from exptilt.keys import Key
from exptilt.populations.diagnostics import log_shares
from exptilt.populations.population import Population
from exptilt.samplers.chain import Path, State, due
from exptilt.samplers.command import Command
from exptilt.samplers.common import at_least_one
from exptilt.samplers.smc import SMC


class Held(NamedTuple):
    """The state of the chain, with its drafts after each step, the empty one first; those of an excluded state are not used."""

    state: State
    steps: tuple[Draft, ...]


@dataclass(frozen=True)
class ParticleGibbs:
    """A chain of particle filters, each of which keeps the state before among its particles.

    sampler: an SMC of 2 or more particles, without rejuvenation.
    steps: moves after the first filter; `steps` + 1 filters are paid for.
    """

    sampler: Sampler
    steps: int
    weighted: ClassVar[bool] = False
    command: ClassVar[Command] = Command(
        "gibbs",
        "a Markov chain of particle filters that keep its state among their particles (particle Gibbs)",
        start={"sampler": "smc", "steps": 8},
    )

    def __post_init__(self) -> None:
        at_least_one(self, "steps")
        if not isinstance(self.sampler, SMC):
            raise ValueError(f"ParticleGibbs(sampler={self.sampler!r:.80}): give an SMC, whose steps it can keep")
        if self.sampler.particles < 2:
            raise ValueError("ParticleGibbs with one particle would keep its state forever: give an SMC of 2 particles or more")
        if self.sampler.rejuvenate:
            raise ValueError("ParticleGibbs keeps the steps of its state, which rejuvenation would move: give rejuvenate=0")

    def needs(self, target: Target) -> frozenset[str]:
        """What the particle filter needs."""
        return self._filter.needs(target)

    def __call__(self, target: Target, prompt: Prompt, key: Key) -> Iterator[Population]:
        held = self.transition(target, prompt, None, key.child("run", 0))
        path = Path([[held.state]], runs=True)
        for step in range(self.steps + 1):
            if step:
                held = self.transition(target, prompt, held, key.child("run", step))
                path.add([held.state])
            if due(step, self.steps) and (population := path.population()):
                yield population
        if not held.state.allowed:
            raise AllWeightsZero(
                f"none of the particles of {self.steps + 1} filters has any weight: take more steps or particles, or let the "
                "reward fall to a finite value instead of -inf"
            )

    def transition(self, target: Target, prompt: Prompt, held: Held | None, key: Key) -> Held:
        """One move; without a state that the target allows a filter of its own, the first of which may find one."""
        kept = held.steps if held is not None and held.state.allowed else None
        particles, _ = self._filter.filter(target, prompt, key, kept, history=True)
        log_w = particles.log_w
        if not (log_w > -math.inf).any():
            return Held(State(target.engine.start(prompt), -math.inf, -math.inf), ())
        row = key.child("draw").choose(np.exp(log_shares(log_w)))
        if held is not None and particles.paths[row] == held.steps:
            return held
        return Held(State(particles.drafts[row], float(particles.rewards[row]), 0.0), particles.paths[row])

    @property
    def _filter(self) -> SMC:
        assert isinstance(self.sampler, SMC)
        return self.sampler
