"""Beam search: the best few partial drafts go on, and the others are dropped. A search, not a sampler of π.

At each step every unfinished beam gets `candidates` sampled continuations of one block; equal ones count once, and the `beams`
drafts with the highest scores are kept, finished ones among them. Scores are, as asked for,

    log p(y|x), summed or per token                  the likelihood of what has been decided
    value(y) while unfinished, r(x,y) once finished  a value model or process reward, in units of the reward

Engines give no ranking of all next tokens, so continuations are draws: with block=1 and many candidates this is the usual beam
search, with block="\\n" and a process reward the step-wise search of Snell et al., 2408.03314.

**It has no target.** What is kept is neither drawn from π nor properly weighted for anything: there is no log Ẑ, weights are
equal, β plays no part, and a vote counts beams, which share most of their text. `SMC` with the same value keeps weights proper
at the same cost. Drafts that the score or the reward excludes (-inf) are dropped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from exptilt.blocks import Blocks, as_block, schedule, step_needs
from exptilt.core import Target
from exptilt.draft import Draft, Prompt, known_logq
from exptilt.errors import AllWeightsZero, TargetError
from exptilt.keys import Floats, Key
from exptilt.populations.population import Population
from exptilt.rating import rate
from exptilt.samplers.command import Command
from exptilt.samplers.common import Value, at_least_one
from exptilt.samplers.trace import Beams
from exptilt.watching import grow


@dataclass(frozen=True)
class Beam:
    """Beam search over sampled continuations: the highest scores go on. It has no target and no weights.

    beams: how many drafts are kept at each step.
    candidates: how many continuations of each beam are drawn per step; `beams` times as many of the empty draft.
    block: tokens per step, or the text that ends a step, such as a newline (`exptilt.blocks`); None for one step to the end.
    value: what partial drafts are compared by, such as a process reward; finished ones by their reward. The likelihood of all
        of them where not given.
    per_token: compare likelihoods per token, so that long drafts are not at a disadvantage.
    """

    beams: int
    candidates: int
    block: Blocks | None = None
    value: Value | None = None
    per_token: bool = False
    weighted: ClassVar[bool] = False
    command: ClassVar[Command] = Command(
        "beam", "beam search by likelihood or value: no target, no weights", start={"beams": 4, "candidates": 4, "block": 16}
    )

    def __post_init__(self) -> None:
        at_least_one(self, "beams", "candidates")
        as_block("Beam", self.block)
        if self.per_token and self.value is not None:
            raise ValueError("Beam(per_token=True) is about likelihoods, and value replaces them: leave one of the two out")

    def needs(self, target: Target) -> frozenset[str]:
        """ "continue" for more than one step, "steps" for those of text; "logq" for likelihoods."""
        if target.proposal is not None:
            raise TargetError("Beam draws from the engine itself and takes no proposal: leave it out of the target")
        return step_needs(self.block, target.engine.max_tokens) | ({"logq"} if self.value is None else set())

    def __call__(self, target: Target, prompt: Prompt, key: Key) -> Iterator[Population]:
        beams, trace = [target.engine.start(prompt)], Beams()
        for step, block in enumerate(schedule(self.block, target.engine.max_tokens)):
            if all(draft.finish is not None for draft in beams):
                break
            here = key.child("step", step)
            copies = self.candidates if step else self.beams * self.candidates
            owners = [row for row, draft in enumerate(beams) for _ in range(copies if draft.finish is None else 1)]
            keys = [here.child("extend", number) for number in range(len(owners))]
            drawn = target.engine.extend([beams[row] for row in owners], keys, block)
            grown, parents = _distinct(drawn, owners)
            scores = self._scores(target, prompt, grown)
            order = np.argsort(-scores, kind="stable").tolist()
            best = [row for row in order[: self.beams] if scores[row] > -math.inf]
            if not best:
                raise AllWeightsZero("every continuation of a beam was excluded (-inf): draw more candidates, or more beams")
            beams = [grown[row] for row in best]
            trace = trace.grown(beams, [parents[row] for row in best], scores[best])
            grow(self, trace)
        rewards = target.rate(prompt, beams)
        yield Population.unweighted(beams, rewards, trace, rewards > -math.inf)

    def _scores(self, target: Target, prompt: Prompt, drafts: Sequence[Draft]) -> Floats:
        """What the drafts are compared by, float64 [drafts]."""
        if self.value is None:
            return np.array([math.fsum(known_logq(draft)) / (draft.decided if self.per_token else 1) for draft in drafts])
        scores, done = np.zeros(len(drafts)), np.array([draft.finish is not None for draft in drafts])
        scores[done] = target.rate(prompt, [draft for draft in drafts if draft.finish is not None])
        scores[~done] = rate(self.value, prompt, [draft for draft in drafts if draft.finish is None])
        return scores


def _distinct(drafts: Sequence[Draft], owners: Sequence[int]) -> tuple[list[Draft], list[int]]:
    """The drafts that differ in their tokens, with the beam that each grew from; of equal ones the first."""
    found: dict[object, tuple[Draft, int]] = {}
    for draft, owner in zip(drafts, owners, strict=True):
        found.setdefault((draft.tokens, draft.order), (draft, owner))
    return [draft for draft, _ in found.values()], [owner for _, owner in found.values()]
