"""The pilot: what is drawn and rated before a long run, to find its β, sampler and cost.

For each prompt n independent responses y_1..y_n are drawn from p and rated. Where the engine can continue drafts, the
first half of them is used again, to learn what their prefixes say about their rewards:

    moves   each is cut at a uniform position and redrawn from there, as `SuffixMCMC` does;
    forks   each is cut at a quarter, a half and three quarters of the prompt's mean length and finished once more.

A response and its fork are two independent completions of one prefix, so the covariance of anything between the two
is the variance that the prefix explains. Together they cost about as much as the n draws.

`Pilot` is a sampler, so `exptilt.running.run` serves many prompts at once, binds rewards, counts tokens and respects budgets.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from exptilt.core import Target
from exptilt.draft import Draft, Prompt
from exptilt.keys import Floats, Key
from exptilt.populations.population import Population
from exptilt.running.result import Result
from exptilt.samplers.common import at_least_one

PLACES = (0.25, 0.5, 0.75)  # where drafts are forked, in mean lengths


@dataclass(frozen=True)
class Pilot:
    """n draws from p with equal weights; moves and forks in the trace, `Piloted`.

    draws: n, two or more.
    batch: how many are drawn before a budget is asked again; all at once where not given.
    """

    draws: int = 32
    batch: int | None = None
    weighted: ClassVar[bool] = False

    def __post_init__(self) -> None:
        at_least_one(self, "draws", "batch")
        if self.draws < 2:
            raise ValueError(f"Pilot(draws={self.draws}): one draw shows no spread, give 2 or more")

    def needs(self, target: Target) -> frozenset[str]:
        """Nothing: without "continue" there are no moves and forks."""
        return frozenset()

    def __call__(self, target: Target, prompt: Prompt, key: Key) -> Iterator[Population]:
        desk = _Desk(target, prompt)
        drafts: list[Draft] = []
        rewards = np.zeros(0)
        while len(drafts) < self.draws:
            count = min(self.batch or self.draws, self.draws - len(drafts))
            keys = [key.child("draft", len(drafts) + number) for number in range(count)]
            fresh, rated = desk.finish([target.engine.start(prompt)] * count, keys)
            drafts, rewards = drafts + fresh, np.concatenate([rewards, rated])
            yield desk.population(drafts, rewards)
        if "continue" not in target.engine.can:
            return
        half = drafts[: max(2, self.draws // 2)]
        places = [key.child("place", number).choose(np.ones(draft.decided)) for number, draft in enumerate(half)]
        moves = desk.redraw(half, places, key.child("move"))
        desk.trace = replace(desk.trace, moves=moves)
        yield desk.population(drafts, rewards)
        mean = float(np.mean([draft.decided for draft in drafts]))
        for number, place in enumerate(PLACES):
            at = max(1, round(place * mean))
            fork = desk.fork(half, at, key.child("fork", number))
            desk.trace = replace(desk.trace, forks=(*desk.trace.forks, fork))
            yield desk.population(drafts, rewards)


@dataclass(frozen=True, eq=False)
class Branches:
    """The first drafts of a prompt, cut and finished once more. All float64 [half of the draws].

    kept: tokens before the cut, the whole draft's where it had ended by then.
    rewards, lengths (tokens): of the new responses.
    bounds: the highest reward that forks could still get one token after the cut, by the reward's `bound`; +inf where it tells
        none, and for moves.
    """

    kept: Floats
    rewards: Floats
    lengths: Floats
    bounds: Floats

    def take(self, rows: np.ndarray) -> Branches:
        return Branches(self.kept[rows], self.rewards[rows], self.lengths[rows], self.bounds[rows])


@dataclass(frozen=True, eq=False)
class Piloted:
    """The trace of a pilot. drawing, rating: seconds of both. drawn: tokens drawn. moves, forks: as in `Sounding`."""

    drawing: float = 0.0
    rating: float = 0.0
    drawn: int = 0
    moves: Branches | None = None
    forks: tuple[Branches, ...] = ()


@dataclass
class _Desk:
    """Finishes and rates the drafts of one prompt, and records the cost in `trace`."""

    target: Target
    prompt: Prompt
    trace: Piloted = field(default_factory=Piloted)

    def finish(self, drafts: Sequence[Draft], keys: Sequence[Key]) -> tuple[list[Draft], Floats]:
        finished = self.draw(drafts, keys)
        began = time.monotonic()
        rewards = self.target.rate(self.prompt, finished)
        self.trace = replace(self.trace, rating=self.trace.rating + time.monotonic() - began)
        return finished, rewards

    def draw(self, drafts: Sequence[Draft], keys: Sequence[Key], tokens: int | None = None) -> list[Draft]:
        began = time.monotonic()
        grown = self.target.engine.extend(drafts, keys, tokens)
        seconds, drawn = time.monotonic() - began, sum(new.decided - old.decided for new, old in zip(grown, drafts, strict=True))
        self.trace = replace(self.trace, drawing=self.trace.drawing + seconds, drawn=self.trace.drawn + drawn)
        return grown

    def redraw(self, drafts: Sequence[Draft], places: Sequence[int], key: Key) -> Branches:
        kept = [draft.cut(place) for draft, place in zip(drafts, places, strict=True)]
        finished, rewards = self.finish(kept, [key.child(number) for number in range(len(kept))])
        return self._branches(kept, finished, rewards, np.full(len(kept), math.inf))

    def fork(self, drafts: Sequence[Draft], at: int, key: Key) -> Branches:
        """Redrawn from the same place, with bounds. What is only cut has no text, so that they are asked one token later."""
        kept = [draft.cut(at) for draft in drafts]
        begun = self.draw(kept, [key.child("first", number) for number in range(len(kept))], 1)
        finished, rewards = self.finish(begun, [key.child(number) for number in range(len(kept))])
        still = [row for row, draft in enumerate(begun) if draft.finish is None]
        bounds = rewards.copy()  # what has ended has its reward
        bounds[still] = self.target.bounds(self.prompt, [begun[row] for row in still])
        return self._branches(kept, finished, rewards, bounds)

    def _branches(self, kept: list[Draft], finished: list[Draft], rewards: Floats, bounds: Floats) -> Branches:
        before, after = (np.array([draft.decided for draft in some], dtype=np.float64) for some in (kept, finished))
        return Branches(before, rewards, after, bounds)

    def population(self, drafts: Sequence[Draft], rewards: Floats) -> Population:
        return Population.unweighted(drafts, rewards, self.trace)


# ------------------------------------------------------------------------------------------------- what came of it


def piloted(result: Result) -> Piloted:
    """The trace of a run of `Pilot`."""
    trace = result.population.trace
    if not isinstance(trace, Piloted):
        raise TypeError(f"the trace {type(trace).__name__} is not a pilot's: give the result of a run of Pilot")
    return trace


@dataclass(frozen=True, eq=False)
class Sounding:
    """What the pilot found for one prompt. rewards, lengths (tokens): of the draws, float64 [n].

    moves: redrawn from uniform positions.
    forks: from each of `PLACES`; both empty where the engine cannot continue drafts, or the budget ended before.
    """

    rewards: Floats
    lengths: Floats
    moves: Branches | None = None
    forks: tuple[Branches, ...] = ()

    @classmethod
    def of(cls, result: Result) -> Sounding:
        """From the result of a run of `Pilot`."""
        population, trace = result.population, piloted(result)
        lengths = np.array([draft.decided for draft in population.drafts], dtype=np.float64)
        return cls(population.rewards, lengths, trace.moves, trace.forks)

    @property
    def varies(self) -> bool:
        """Whether the draws differ in reward, and not all are excluded: only then can tilting gain anything."""
        return float(self.rewards.max()) > float(self.rewards.min())

    def resampled(self, generator: np.random.Generator) -> Sounding:
        """Draws with replacement, each with its moves and forks: for the bootstrap of a single prompt."""
        half = 0 if self.moves is None else len(self.moves.rewards)
        front, back = (
            generator.integers(0, max(1, half), half),
            generator.integers(half, len(self.rewards), len(self.rewards) - half),
        )
        rows = np.concatenate([front, back])
        moves = None if self.moves is None else self.moves.take(front)
        return Sounding(self.rewards[rows], self.lengths[rows], moves, tuple(fork.take(front) for fork in self.forks))
