"""Traces: how a sampler reached its population, as frozen records.

A `Population` carries one in `trace`. The results file keeps it, and the report draws it, by the type of record and not
by the sampler's name: another author's sampler that yields a `Tree` is stored and drawn as a tree.

    Tree           a guided chain: the candidates of each step, and which of them was picked (ETS)
    Generations    particles that grow together and are resampled (SMC)
    Beams          the drafts that a beam search kept at each step (Beam)
    Chain          the states of Markov chains, as the rows of the population (SuffixMCMC, Metropolised)

A draft that is a picture stands there as a small PNG, in a data: address instead of its text.

Everything here is texts, counts and log-weights in nats; nothing is needed to compute the population itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from exptilt.draft import Draft
from exptilt.keys import Floats
from exptilt.populations.diagnostics import log_shares

_TIE = 1e-9  # equal scores of unequal sums differ by rounding
_SPREAD = 0.1  # the coefficient of variation of energies up to which a choice by them is nearly one at random

# ------------------------------------------------------------------------------------------------------------- trees


@dataclass(frozen=True)
class Step:
    """One step of a guided chain, with M candidates.

    candidates: the text of each candidate, from the start of the response.
    log_energies: log Ê of each candidate, in nats.
    pick: the number of the candidate that the chain went on with.
    log_weight: log W of the chain after this step.
    rollouts: how many rollouts each candidate has; None where an old results file does not say.
    first: the row of the population that holds the first rollout, the others follow in order; None where it has none.
    """

    candidates: tuple[str, ...]
    log_energies: tuple[float, ...]
    pick: int
    log_weight: float
    rollouts: tuple[int, ...] | None = None
    first: int | None = None


@dataclass(frozen=True)
class Tree:
    """A chain that grows step by step by picking among candidates."""

    steps: tuple[Step, ...] = ()

    def __repr__(self) -> str:
        most = max((len(step.candidates) for step in self.steps), default=0)
        return f"Tree({len(self.steps)} steps of up to {most} candidates)"

    @property
    def alike(self) -> float | None:
        """The share of the steps at which all energies were equal, or within a tenth: there the pick was random."""
        return _share([_alike(step.log_energies) for step in self.steps if len(step.log_energies) > 1])

    @property
    def effective(self) -> float | None:
        """The least effective number of candidates at a step, (Σ Ê)²/Σ Ê²; None where no step has two with an energy above 0.

        The distance of the chain without its weight to π goes about as its inverse, over targets, temperatures and sizes
        (docs/claims.md, open question 1 of the paper).
        """
        return min((_effective(step.log_energies) for step in self.steps if _several(step.log_energies)), default=None)

    def grown(
        self, candidates: Sequence[Draft], log_e: Floats, pick: int, log_w: float, owner: np.ndarray, first: int | None
    ) -> Tree:
        """This tree with one step more. owner: int [rollouts], the candidate that each rollout completes."""
        texts = tuple(draft.glimpse for draft in candidates)
        rollouts = [0] * len(texts)
        for number in owner.tolist():
            rollouts[number] += 1
        return Tree((*self.steps, Step(texts, tuple(log_e.tolist()), pick, float(log_w), tuple(rollouts), first)))


# --------------------------------------------------------------------------------------------------------- particles


@dataclass(frozen=True)
class Generation:
    """N particles after a step.

    texts: the text of each particle.
    parents: the number of the particle in the generation before that each one grew from.
    log_w: log-weight of each particle, in nats.
    log_v: log V of each particle, its potential, in nats.
    """

    texts: tuple[str, ...]
    parents: tuple[int, ...]
    log_w: tuple[float, ...]
    log_v: tuple[float, ...]


@dataclass(frozen=True)
class Generations:
    """Particles that grow in steps. resampled: how often they were resampled between two steps."""

    generations: tuple[Generation, ...] = ()
    resampled: int = 0

    def __repr__(self) -> str:
        return f"Generations({_sizes(self.generations, 'particles')}, resampled {self.resampled} times)"

    @property
    def steps(self) -> int:
        """How many steps the particles took."""
        return len(self.generations)

    @property
    def alike(self) -> float | None:
        """The share of the steps but the last at which all potentials were equal, or within a tenth, and distinguished none."""
        return _share([_alike(each.log_v) for each in self.generations[:-1] if len(each.log_v) > 1])

    def grown(self, drafts: Sequence[Draft], parents: Sequence[int] | None, log_w: Floats, log_v: Floats) -> Generations:
        """These generations and one more. parents: where the particles were resampled; else each grew from its own number."""
        rows = range(len(drafts)) if parents is None else parents
        texts = tuple(draft.glimpse for draft in drafts)
        fresh = Generation(texts, tuple(rows), tuple(log_w.tolist()), tuple(log_v.tolist()))
        return Generations((*self.generations, fresh), self.resampled + (parents is not None))


@dataclass(frozen=True)
class Beams:
    """The drafts that a search kept at each step: equal weights in `log_w`, and in `log_v` the scores by which they were kept."""

    generations: tuple[Generation, ...] = ()

    def __repr__(self) -> str:
        return f"Beams({_sizes(self.generations, 'drafts')})"

    @property
    def alike(self) -> float | None:
        """The share of the steps at which all kept drafts had the same score."""
        return _share([max(each.log_v) <= min(each.log_v) + _TIE for each in self.generations if len(each.log_v) > 1])

    @property
    def no_target(self) -> str:
        """Why nothing that is said of a distribution holds for these drafts."""
        return (
            "Beam search has no target: its drafts are the best it met, neither drawn from π nor weighted, so there is no log Ẑ, "
            "and a vote counts beams, most of which begin alike. Take SMC with the same value for weights that are proper."
        )

    def grown(self, drafts: Sequence[Draft], parents: Sequence[int], scores: Floats) -> Beams:
        """These and one step more. parents: the number of the draft of the step before that each one continues."""
        texts = tuple(draft.glimpse for draft in drafts)
        even = (-math.log(len(texts)),) * len(texts)
        return Beams((*self.generations, Generation(texts, tuple(parents), even, tuple(scores.tolist()))))


# ------------------------------------------------------------------------------------------------------------ chains


@dataclass(frozen=True)
class Chain:
    """States of Markov chains: row i of the population is the state of chain i mod `chains`, step after step.

    acceptance: the share of the moves that were accepted.
    r_hat: rank-normalised split R̂ of the rewards of the states that the target allows; None where there are too few for it.
    chains: how many chains advance together.
    burn_in: leading states left out of the population.
    runs: whether each state comes from a run of another sampler, of which nothing else is kept.
    recycled: whether the rows are weighted states and proposals instead, in no such order.
    """

    acceptance: float
    r_hat: float | None = None
    chains: int = 1
    burn_in: int = 0
    runs: bool = False
    recycled: bool = False


def _several(scores: Sequence[float]) -> bool:
    """Whether there are two scores or more, and one at least is not excluded."""
    return len(scores) > 1 and max(scores) > -math.inf


def _sizes(generations: Sequence[Generation], noun: str) -> str:
    return f"{len(generations)} steps of up to {max((len(each.texts) for each in generations), default=0)} {noun}"


def _alike(log_energies: Sequence[float]) -> bool:
    """Whether energies are all excluded, or vary by a tenth of their mean at the most."""
    if max(log_energies) == -math.inf:
        return True
    return len(log_energies) / _effective(log_energies) - 1.0 <= _SPREAD**2


def _effective(log_energies: Sequence[float]) -> float:
    """(Σ Ê)²/Σ Ê², where one energy at least is above 0."""
    shares = np.exp(log_shares(np.array(log_energies)))
    return float(1.0 / (shares @ shares))


def _share(found: Sequence[bool]) -> float | None:
    """The share of steps of which something was found; None where there is no step."""
    return sum(found) / len(found) if found else None


Trace = Tree | Generations | Beams | Chain
"""The traces of exptilt's own samplers; another sampler may yield these, or a frozen dataclass of its own."""
