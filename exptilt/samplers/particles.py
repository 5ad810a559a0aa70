"""Particles: partial drafts with weights and potentials, and what becomes of them where they are copied or moved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from exptilt.draft import Draft
from exptilt.keys import Floats


@dataclass(frozen=True, eq=False)
class Particles:
    """N partial drafts, with the steps in which each came about.

    paths: the drafts of each after each of its steps, the empty one first; without `history` the last one alone, because all of
        them take memory that grows with the square of their number.
    log_l: log p/q of each of these steps, in nats; zeros without a proposal.
    log_g: float64 [N], log-weights for p alone, the 1/N inside.
    log_v: float64 [N], log of the potentials, exp(r/β) for a finished draft.
    rewards: float64 [N], 0 while unfinished.
    """

    paths: tuple[tuple[Draft, ...], ...]
    log_l: tuple[tuple[float, ...], ...]
    log_g: Floats
    log_v: Floats
    rewards: Floats
    history: bool = True

    @classmethod
    def start(cls, draft: Draft, count: int, history: bool) -> Particles:
        """`count` copies of the empty draft, each with weight 1/N."""
        log_g, zeros = np.full(count, -math.log(count)), np.zeros(count)
        return cls(((draft,),) * count, ((),) * count, log_g, zeros, zeros, history)

    @property
    def drafts(self) -> list[Draft]:
        return [path[-1] for path in self.paths]

    @property
    def unfinished(self) -> np.ndarray:
        """Which of them can still grow, bool [N]."""
        return np.array([draft.finish is None for draft in self.drafts])

    @property
    def log_w(self) -> Floats:
        """log g·V: the weights for p·V, and for γ once all are finished."""
        return self.log_g + self.log_v

    def grown(self, drafts: Sequence[Draft], log_l: Floats, log_v: Floats, rewards: Floats) -> Particles:
        """One step further, with its log p/q."""
        log_g = self.log_g + log_l
        if not self.history:
            return replace(self, paths=tuple((draft,) for draft in drafts), log_g=log_g, log_v=log_v, rewards=rewards)
        paths = tuple((*path, draft) for path, draft in zip(self.paths, drafts, strict=True))
        ratios = tuple((*steps, ratio) for steps, ratio in zip(self.log_l, log_l.tolist(), strict=True))
        return Particles(paths, ratios, log_g, log_v, rewards)

    def copied(self, parents: Sequence[int], log_p: Floats) -> Particles:
        """Copies of these, drawn with probabilities P: g/(N·P) is the weight of each."""
        rows = list(parents)
        paths, log_l = tuple(self.paths[row] for row in rows), tuple(self.log_l[row] for row in rows)
        log_g = log_copies(self.log_g, log_p, rows)
        return Particles(paths, log_l, log_g, self.log_v[rows], self.rewards[rows], self.history)

    def moved(self, row: int, path: tuple[Draft, ...], log_l: tuple[float, ...], log_v: float) -> Particles:
        """With one particle elsewhere: g·V, its weight for p·V, stays as it is."""
        paths, ratios = list(self.paths), list(self.log_l)
        log_g, potentials = self.log_g.copy(), self.log_v.copy()
        log_g[row] += potentials[row] - log_v
        paths[row], ratios[row], potentials[row] = path, log_l, log_v
        return replace(self, paths=tuple(paths), log_l=tuple(ratios), log_g=log_g, log_v=potentials)


def log_copies(log_g: Floats, log_p: Floats, parents: list[int]) -> Floats:
    """log g/(N·P) of the copies, float64 [N]: particle j has N·P(j) of them in expectation, which together weigh g_j."""
    return log_g[parents] - log_p[parents] - math.log(len(parents))
