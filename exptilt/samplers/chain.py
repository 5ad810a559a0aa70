"""Chains: the states of Markov chains, how a move is accepted, and the population of the states so far."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from exptilt.draft import Draft
from exptilt.keys import Key
from exptilt.populations.diagnostics import log_sum, r_hat
from exptilt.populations.population import Population
from exptilt.samplers.common import metropolis
from exptilt.samplers.trace import Chain


class State(NamedTuple):
    """The state of a chain: its response, the reward, and log of the density by which moves are accepted (-inf: excluded)."""

    draft: Draft
    reward: float
    log_density: float

    @property
    def allowed(self) -> bool:
        """Whether the target gives this state any mass."""
        return self.log_density > -math.inf


@dataclass
class Path:
    """The states of all chains so far, one row for each step, and how their moves went. runs: as in `Chain`.

    proposed: what each move proposed, one row for each step after the first; only where the states are to be recycled.
    """

    rows: list[list[State]]
    runs: bool = False
    proposed: list[list[State]] = field(default_factory=list)
    moves: int = 0
    accepted: int = 0

    def add(self, row: list[State]) -> None:
        """Add one step; a rejected move is the same state object."""
        for new, old in zip(row, self.rows[-1], strict=True):
            self.moves += old.allowed
            self.accepted += old.allowed and new is not old
        self.rows.append(row)

    def population(self, burn_in: int = 0) -> Population | None:
        """The states after the first `burn_in` with equal weights, zero for excluded ones; None where all are excluded."""
        states = [state for row in self.rows[burn_in:] for state in row]
        held = [state.allowed for state in states]
        if not any(held):
            return None
        drafts, rewards = [state.draft for state in states], [state.reward for state in states]
        return Population.unweighted(drafts, rewards, self._trace(burn_in), held)

    def recycled(self, burn_in: int = 0) -> Population | None:
        """The first states kept, and in place of each later one what its move had to choose from: the proposal with the
        probability α that it was accepted with, the state before with 1 - α."""
        parts = [(state, 1.0) for state in self.rows[burn_in]]
        for before, proposals in zip(self.rows[burn_in:-1], self.proposed[burn_in:], strict=True):
            for old, new in zip(before, proposals, strict=True):
                alpha = chance(new.log_density, old.log_density)
                parts += [(old, 1.0 - alpha), (new, alpha)]
        held = [(state, share) for state, share in parts if state.allowed and share > 0]
        if not held:
            return None
        log_w = np.log([share for _, share in held])
        rewards = np.array([state.reward for state, _ in held])
        trace = replace(self._trace(burn_in), recycled=True)
        return Population([state.draft for state, _ in held], log_w - log_sum(log_w), rewards, proper=False, trace=trace)

    def _trace(self, burn_in: int) -> Chain:
        return Chain(self.accepted / max(1, self.moves), self._r_hat(burn_in), len(self.rows[0]), burn_in, self.runs)

    def _r_hat(self, burn_in: int) -> float | None:
        """R̂ of the chains that have met an allowed state, over the steps at which all of them had."""
        rewards = np.array([[state.reward for state in row] for row in self.rows[burn_in:]])
        allowed = np.array([[state.allowed for state in row] for row in self.rows[burn_in:]])
        if allowed.all():
            return r_hat(rewards.T)
        entered = allowed[-1]
        return r_hat(rewards[allowed[:, entered].all(axis=1)][:, entered].T)


def accept(new: State, old: State, key: Key) -> bool:
    """Metropolis acceptance with probability min(1, density'/density); a state of density zero is always left."""
    return new.log_density >= old.log_density or metropolis(new.log_density - old.log_density, key)


def chance(new: float, old: float) -> float:
    """min(1, density'/density) from their logarithms; 1 where the old density is zero."""
    return 1.0 if new >= old else math.exp(new - old)


def due(step: int, steps: int) -> bool:
    """Whether a population is yielded after this step: the work of all of them stays linear in the chain's length."""
    return step == steps or step % max(1, step // 16) == 0
