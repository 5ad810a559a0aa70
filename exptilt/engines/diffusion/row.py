"""One response in progress: which positions its next step asks about, which of them it decides, and what the network sees.

A row looks at its response as it was before the step (`boundary` decisions), so a draft that was cut in the middle of a
step is continued as if it never had been: the state before the step is restored, and the positions still missing from
that step are decided. A row that is scored takes the same steps, with its order and tokens given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from exptilt.draft import Finish
from exptilt.engines.diffusion.sampling import DiffusionSampling
from exptilt.keys import Floats
from exptilt.usage import Work


@dataclass(frozen=True)
class Path:
    """Decisions in their order: the position of each, and its token."""

    positions: Sequence[int]
    tokens: Sequence[int]


@dataclass(eq=False)
class Row:
    """One response that is being decided, or scored where `given` holds its whole path.

    positions, tokens: the decisions so far.
    boundary: how many of them came before the step under way.
    stop: how many there will be.
    uniforms: the row's own random numbers.
    end: how many there will be after the step, once that is known.
    kept: keys and values of the positions that cached steps do not feed, by whether the prompt was masked.
    cost: evaluations of the network on this row's account, positions fed in them (`prompt`), positions whose keys and values were
        taken from the cache instead (`cached`).
    """

    prompt: tuple[int, ...]
    sampling: DiffusionSampling
    positions: list[int]
    tokens: list[int]
    boundary: int
    stop: int
    uniforms: np.random.Generator
    given: Path | None = None
    asked: list[int] = field(default_factory=list)
    end: int = 0
    logq: list[float] = field(default_factory=list)
    finish: Finish | None = None
    kept: dict[bool, Tensor] = field(default_factory=dict)
    cost: Work = field(default_factory=Work)
    text = None  # it is decoded from the tokens

    @property
    def left(self) -> int:
        """Decisions it has yet to make."""
        return self.stop - len(self.positions)

    @property
    def values(self) -> Floats:
        """The log-probabilities of a row that was scored: float64 [decisions, 1]."""
        return np.array(self.logq, dtype=np.float64)[:, None]

    def sequence(self, mask: int, *, blind: bool = False, count: int | None = None) -> tuple[int, ...]:
        """Prompt and response as the network sees them: after `count` decisions, those before the step where not given.

        blind: with the prompt masked.
        """
        seen = self.boundary if count is None else count
        response = [mask] * self.sampling.max_tokens
        for position, token in zip(self.positions[:seen], self.tokens[:seen], strict=True):
            response[position] = token
        return (*([mask] * len(self.prompt) if blind else self.prompt), *response)

    @property
    def looks(self) -> bool:
        """Whether the network must be asked about every hole of the block before it is known which ones are decided."""
        return self.sampling.threshold is not None or (self.sampling.looks and self.given is None)

    def ask(self) -> None:
        """Begin a step: fill `asked` with the positions whose logits are wanted, in the order they would be decided."""
        if self.looks:
            first, last = self.sampling.span(self.boundary)
            filled = set(self.positions[: self.boundary])
            self.asked = [position for position in range(first, last) if position not in filled]
            return
        self.end = self._end(0)
        count = min(self.end, self.stop) - len(self.positions)
        if self.given is not None:
            self.asked = list(self.given.positions[len(self.positions) :][:count])
            return
        first, last = self.sampling.span(self.boundary)
        filled = set(self.positions)
        holes = [position for position in range(first, last) if position not in filled]
        if self.sampling.order == "random":
            self.asked = [holes.pop(int(self.uniforms.random() * len(holes))) for _ in range(count)]
        else:
            self.asked = holes[:count]

    def choose(self, sureness: Floats) -> list[int]:
        """Which of the asked positions are decided now, as indices into `asked`.

        sureness: float64 [asked], the larger the earlier. None is chosen where a draft that is continued had
        already completed this step: then the boundary moves on.
        """
        if not self.looks:
            return list(range(len(self.asked)))
        self.end = self._end(self._sure(sureness))
        count = max(0, min(self.end, self.stop) - len(self.positions))
        if self.given is not None:
            chosen = [self.asked.index(position) for position in self.given.positions[len(self.positions) :][:count]]
        else:
            filled = set(self.positions)
            left = self.sampling.order == "left"
            ranked = list(range(len(sureness))) if left else np.argsort(-sureness, kind="stable").tolist()
            chosen = [i for i in ranked if self.asked[i] not in filled][:count]
        if not chosen:
            self.boundary = self.end
        return chosen

    def take(self, chosen: Sequence[int], tokens: Sequence[int], logq: Sequence[float], ends: frozenset[int]) -> bool:
        """Add decisions; returns whether the row is done."""
        if not chosen:
            return False
        self.positions += [self.asked[i] for i in chosen]
        self.tokens += tokens
        self.logq += logq
        if len(self.positions) >= self.end:
            self.boundary = self.end
        if self.given is None:
            self.cost.generated += len(chosen)
            self.finish = finish_of(self.sampling, self.tokens, ends)
        return self.finish is not None or len(self.positions) >= self.stop

    def _sure(self, sureness: Floats) -> int:
        """How many of the asked positions are sure enough to be decided together."""
        if self.sampling.threshold is None:
            return 0
        enough = sureness >= self.sampling.threshold
        return int(np.logical_and.accumulate(enough).sum() if self.sampling.order == "left" else enough.sum())

    def _end(self, sure: int) -> int:
        return min(self.boundary + max(self.sampling.per_step, sure), self.sampling.span(self.boundary)[1])


def finish_of(sampling: DiffusionSampling, tokens: Sequence[int], ends: frozenset[int]) -> Finish | None:
    """Whether a response is finished: its last block is complete and holds an end-of-text token, or is the last of all.

    tokens: the decisions in their order; those of one block stand together, whatever the order inside it.
    """
    if not tokens:
        return None
    first, last = sampling.span(len(tokens) - 1)
    if len(tokens) < last:
        return None
    if any(token in ends for token in tokens[first:]):
        return "stop"
    return "length" if last == sampling.max_tokens else None
