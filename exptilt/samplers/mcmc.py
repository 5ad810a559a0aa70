"""Markov chains whose stationary distribution is π: QAlign's suffix redraw, and any weighted sampler made exact.

`SuffixMCMC` is QAlign (Faria and Smith, "Sample, Don't Search", 2504.03790). The state is a response y of n tokens,
end of text counted. An index i is uniform on {0..n-1}, y_<i is kept, the rest is redrawn from p to the same total cap,
and y' is accepted with probability min(1, exp((r(y') - r(y))/β)·n/n'): p cancels, only n/n' of the choice of i remains.
With `power` α the stationary distribution is p^α·exp(r/β)/Z (power sampling where r is constant): the exponent gains
(α-1)·(log p(y') - log p(y)), sums over tokens, so log-probabilities are needed.

`Metropolised(sampler, steps)` is particle-independent Metropolis-Hastings (Andrieu, Doucet and Holenstein, 2010): an
independent run of any properly weighted sampler proposes y' with its estimate Ẑ', accepted with min(1, Ẑ'/Ẑ). π is the
stationary distribution of y for every size of that sampler.

A rejected proposal repeats the state, and the population holds every state with its repeats. With `recycle` it holds what each
move chose between instead: the proposal with the chance α of its acceptance as its weight, the state before with 1 - α. That is
the mean of the next state over the coin of the move, so averages have the same expectation and less variance (Frenkel, 2004),
and proposals that were paid for and rejected are not lost to votes. Populations are yielded
at each of the first steps, then whenever the chain has grown by about a sixteenth, so that long chains stay cheap.

π gives no mass to what the reward excludes (-inf), so such states have weight zero. A chain may start at one (its first
draft is one of p, or its first inner run has Ẑ = 0); it then takes every move until it meets an allowed state, and never
leaves the allowed ones again. Nothing is yielded before the first allowed state, and chains that have not met one do not
count; where none has, AllWeightsZero is raised. The acceptance is that of the moves made from allowed states, and R̂ is that of
the states since the last chain met its first allowed one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from exptilt.blocks import Blocks, as_block, step_needs
from exptilt.core import Sampler, Target
from exptilt.describe import LATER
from exptilt.draft import Draft, Prompt, known_logq
from exptilt.errors import AllWeightsZero, TargetError
from exptilt.keys import Key
from exptilt.populations.population import Population
from exptilt.samplers.abort import check_bounds, drawn_while
from exptilt.samplers.chain import Path, State, accept, chance, due
from exptilt.samplers.command import Command
from exptilt.samplers.common import at_least_one


@dataclass(frozen=True)
class SuffixMCMC:
    """Redraw a random suffix, accept by the reward; sequential, and cheap in tokens: half a response per step.

    steps: moves of each chain.
    chains: independent chains, advanced together.
    burn_in: leading states to leave out of the population.
    power: exponent α of the power target p^α·exp(r/β); 1 for the ordinary target.
    block: draw suffixes this many decisions, or a step of text (`exptilt.blocks`), at a time, and give one up as soon as a bound
        of the reward rules its acceptance out (`exptilt.samplers.abort`): exp((bound - r)/β)·n/(decided so far) is below the
        uniform number that decides. To the end at once where not given.
    recycle: count what each move chose between by its chances, proposals that were rejected included, instead of what it chose.
    """

    steps: int
    chains: int = 1
    burn_in: int = 0
    power: float = 1.0
    block: Blocks | None = field(default=None, metadata=LATER)
    recycle: bool = field(default=False, metadata=LATER)
    weighted: ClassVar[bool] = False
    command: ClassVar[Command] = Command(
        "mcmc", "redraw a random suffix, accept by the reward (QAlign): few tokens per step", start={"steps": 32}
    )

    def __post_init__(self) -> None:
        at_least_one(self, "steps", "chains")
        as_block("SuffixMCMC", self.block)
        if not 0 <= self.burn_in <= self.steps:
            raise ValueError(f"SuffixMCMC(burn_in={self.burn_in}): leave out between 0 and steps={self.steps} states")
        if not 0 < self.power < math.inf:
            raise ValueError(f"SuffixMCMC(power={self.power}): give a positive power; 1 is the ordinary target")
        if self.recycle and self.block is not None:
            raise ValueError(
                "SuffixMCMC(recycle=True) weighs proposals by their chance of acceptance, which is not known of those that "
                "block gives up: leave one of the two out"
            )

    def needs(self, target: Target) -> frozenset[str]:
        """ "continue"; "steps" for blocks of text, "logq" for a power target."""
        if target.proposal is not None:
            raise TargetError("SuffixMCMC redraws from the engine itself and takes no proposal: leave it out of the target")
        more = step_needs(self.block, target.engine.max_tokens) | {"continue"}
        return more if self.power == 1 else more | {"logq"}

    def __call__(self, target: Target, prompt: Prompt, key: Key) -> Iterator[Population]:
        empty = [target.engine.start(prompt)] * self.chains
        drafts = target.engine.extend(empty, [key.child("chain", chain, "first") for chain in range(self.chains)])
        path = Path([self._states(target, prompt, drafts)])
        for step in range(self.steps + 1):
            if step:
                keys = [key.child("chain", chain, step) for chain in range(self.chains)]
                self._advance(target, prompt, path, keys)
            if step >= self.burn_in and due(step, self.steps):
                population = path.recycled(self.burn_in) if self.recycle else path.population(self.burn_in)
                if population is not None:
                    yield population
        if not any(state.allowed for state in path.rows[-1]):
            raise AllWeightsZero(
                f"none of {self.chains} chains met a draft that the reward allows in {self.steps} steps: take more steps or "
                "chains, or let the reward fall to a finite value instead of -inf"
            )

    def _advance(self, target: Target, prompt: Prompt, path: Path, keys: list[Key]) -> None:
        """Add one move of each chain to the path, and what it proposed where that counts too."""
        if not self.recycle:
            path.add(self.transition(target, prompt, path.rows[-1], keys))
            return
        proposed = self.proposals(target, prompt, path.rows[-1], keys)
        path.proposed.append(proposed)
        path.add(_decided(proposed, path.rows[-1], keys))

    def transition(self, target: Target, prompt: Prompt, states: list[State], keys: list[Key]) -> list[State]:
        """One Metropolis-Hastings move of each chain; a rejected chain returns the same state object."""
        if self.block is not None:
            return self._bounded_transition(target, prompt, states, _cut(states, keys), keys, self.block)
        return _decided(self.proposals(target, prompt, states, keys), states, keys)

    def proposals(self, target: Target, prompt: Prompt, states: list[State], keys: list[Key]) -> list[State]:
        """Each state with a suffix drawn anew."""
        redrawn = target.engine.extend(_cut(states, keys), [key.child("suffix") for key in keys])
        return self._states(target, prompt, redrawn)

    def _bounded_transition(
        self, target: Target, prompt: Prompt, states: list[State], kept: list[Draft], keys: list[Key], block: Blocks
    ) -> list[State]:
        """The same move with its suffix drawn in blocks: what is given up on the way is rejected."""
        coins = [key.child("accept").coin() for key in keys]

        def possible(row: int, draft: Draft, bound: float) -> bool:
            return coins[row].below(chance(self._highest(target, draft, bound), states[row].log_density))

        redrawn, lowest = drawn_while(target, prompt, kept, [key.child("suffix") for key in keys], block, possible)
        ended = [row for row, draft in enumerate(redrawn) if draft.finish is not None]
        proposed = dict(zip(ended, self._states(target, prompt, [redrawn[row] for row in ended]), strict=True))
        rewards = np.array([proposed[row].reward for row in ended])
        check_bounds([redrawn[row] for row in ended], rewards, lowest[ended])
        return [
            proposed[row] if row in proposed and coins[row].below(chance(proposed[row].log_density, old.log_density)) else old
            for row, old in enumerate(states)
        ]

    def _highest(self, target: Target, draft: Draft, bound: float) -> float:
        """An upper bound of the log density of what an unfinished draft can become; +inf where nothing is known."""
        if bound == math.inf or self.power < 1:  # tokens to come may make p^(α-1) as large as they like
            return math.inf
        so_far = (self.power - 1) * math.fsum(known_logq(draft)) if self.power != 1 else 0.0
        return float(target.tilt(np.array([bound]))[0]) - math.log(max(1, draft.decided)) + so_far

    def _states(self, target: Target, prompt: Prompt, drafts: list[Draft]) -> list[State]:
        """Log density relative to p, less log n: the position of the cut is uniform over the n tokens."""
        states, rewards = [], target.rate(prompt, drafts)
        for draft, reward, tilt in zip(drafts, rewards.tolist(), target.tilt(rewards).tolist(), strict=True):
            tilt -= math.log(draft.decided)
            if self.power != 1:
                tilt += (self.power - 1) * math.fsum(known_logq(draft))
            states.append(State(draft, reward, tilt))
        return states


def _cut(states: list[State], keys: list[Key]) -> list[Draft]:
    """The beginning of each state, up to a place that is uniform over its tokens."""
    places = [key.child("place").choose(np.ones(state.draft.decided)) for state, key in zip(states, keys, strict=True)]
    return [state.draft.cut(place) for state, place in zip(states, places, strict=True)]


def _decided(proposed: list[State], states: list[State], keys: list[Key]) -> list[State]:
    """The proposals where they are accepted, else the states before."""
    return [new if accept(new, old, key.child("accept")) else old for new, old, key in zip(proposed, states, keys, strict=True)]


@dataclass(frozen=True)
class Metropolised:
    """Independent runs of `sampler` as proposals of a Markov chain on π (PIMH).

    sampler: any sampler with proper weights, whose runs are the chain's proposals.
    steps: moves after the first run, so `steps` + 1 runs are made.
    """

    sampler: Sampler
    steps: int
    weighted: ClassVar[bool] = False
    command: ClassVar[Command] = Command(
        "metropolised",
        "a Markov chain of runs of another sampler (--inner), exact in the limit",
        start={"sampler": "ets", "steps": 32},
    )

    def __post_init__(self) -> None:
        at_least_one(self, "steps")
        if not self.sampler.weighted:
            raise ValueError(
                f"Metropolised needs a sampler with proper weights; {type(self.sampler).__name__} is a Markov chain or a search"
            )

    def needs(self, target: Target) -> frozenset[str]:
        """What the inner sampler needs."""
        return self.sampler.needs(target)

    def __call__(self, target: Target, prompt: Prompt, key: Key) -> Iterator[Population]:
        path = Path([[self.propose(target, prompt, key.child("run", 0))]], runs=True)
        for step in range(self.steps + 1):
            if step:
                path.add([self.transition(target, prompt, path.rows[-1][0], key.child("run", step))])
            if due(step, self.steps) and (population := path.population()):
                yield population
        if not path.rows[-1][0].allowed:
            raise AllWeightsZero(
                f"each of the {self.steps + 1} runs of {type(self.sampler).__name__} has weight zero: take more steps, or draw "
                "more in each, or let the reward fall to a finite value instead of -inf"
            )

    def propose(self, target: Target, prompt: Prompt, key: Key) -> State:
        """One run of the inner sampler: a draft drawn by its weights, and the run's log Ẑ as the density.

        A run whose weights are all zero has Ẑ = 0: an empty draft of density zero stands for it.
        """
        try:
            *_, population = self.sampler(target, prompt, key)
        except AllWeightsZero:
            return State(target.engine.start(prompt), -math.inf, -math.inf)
        if population.log_z is None:
            raise TargetError(f"{self.sampler!r} gives no estimate of Z, by which Metropolised accepts: give one that does")
        row = key.child("draw").choose(population.weights)
        return State(population.drafts[row], float(population.rewards[row]), population.log_z)

    def transition(self, target: Target, prompt: Prompt, state: State, key: Key) -> State:
        """One move; a run of weight zero is a rejected proposal, unless the state is one as well."""
        proposed = self.propose(target, prompt, key)
        return proposed if accept(proposed, state, key.child("accept")) else state
