"""Agreement with other samples: self-consistency as a reward, where no right answers are known.

`Agreement` is the form with a target. Before sampling, n0 pilot responses are drawn from p and their answers counted;
the reward is then a frozen function of (x, y):

    "mode":  r(y) = 1[a(y) = the most frequent pilot answer]
    "log":   r(y) = log((count(a(y)) + c) / (n0 + c·A))

so π ∝ p·exp(r/β) exists, and every sampler is exact for it, given the pilot. `RunningMajority` is what the ETS paper
(Li et al., 2601.21484) used: the majority over everything rated so far, which moves while the sampler runs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from exptilt.core import Engine
from exptilt.draft import Draft, Prompt
from exptilt.keys import Key

Answer = Callable[[str], str | None]


@dataclass(frozen=True)
class Agreement:
    """Reward drafts whose answer is frequent among responses drawn beforehand, and then held fixed.

    answer: reads the canonical answer of a text, None where there is none, such as `exptilt.answers.number`.
    pilot: n0, how many responses are drawn from the engine for each prompt, before and apart from the sampler's own.
    kind: "mode" scores 1.0 for the most frequent answer (the first drawn of equals) and 0.0 for all else; "log" scores
        log((count + c)/(n0 + c·A)) nats, where A counts the distinct pilot answers and one more for all the unseen.
    smoothing: c > 0 of "log"; it bounds the reward of an unseen answer from below.

    A draft without an answer agrees with nothing: it scores like an unseen answer, also where most of the pilot had
    none. With no pilot answer at all the reward is constant and π is p.
    """

    answer: Answer
    pilot: int = 16
    kind: Literal["mode", "log"] = "mode"
    smoothing: float = 1.0
    fixed = True

    def __post_init__(self) -> None:
        if not (isinstance(self.pilot, int) and self.pilot >= 1):
            raise ValueError(f"Agreement(pilot={self.pilot!r}): give a whole number of 1 or more")
        if self.kind not in ("mode", "log"):
            raise ValueError(f'Agreement(kind={self.kind!r}): give "mode" or "log"')
        if not 0 < self.smoothing < math.inf:
            raise ValueError(f"Agreement(smoothing={self.smoothing}): give a positive number, the count lent to every answer")

    def needs(self) -> frozenset[str]:
        """Nothing: the pilot is drawn from the start to the end."""
        return frozenset()

    def bind(self, engine: Engine, prompt: Prompt, key: Key) -> BoundAgreement:
        """Draw the pilot and freeze the reward of `prompt`."""
        keys = [key.child("pilot", number) for number in range(self.pilot)]
        drafts = engine.extend([engine.start(prompt)] * self.pilot, keys)
        answers = [self.answer(draft.text) for draft in drafts]
        counts = Counter(answer for answer in answers if answer is not None)
        if self.kind == "mode":
            values, otherwise = {answer: 1.0 for answer, _ in counts.most_common(1)}, 0.0
        else:
            total = math.log(self.pilot + self.smoothing * (len(counts) + 1))
            values = {answer: math.log(count + self.smoothing) - total for answer, count in counts.items()}
            otherwise = math.log(self.smoothing) - total
        return BoundAgreement(self.answer, dict(counts), values, otherwise)


@dataclass(frozen=True)
class BoundAgreement:
    """The frozen agreement reward of one prompt, a plain function of the draft's answer.

    counts: the pilot's answers.
    values: the reward of each answer.
    otherwise: the reward of any other answer, and of none.
    """

    answer: Answer
    counts: Mapping[str, int]
    values: Mapping[str, float]
    otherwise: float
    reads: ClassVar[str] = "text"

    def __call__(self, prompt: Prompt, drafts: Sequence[Draft]) -> list[float]:
        answers = [self.answer(draft.text) for draft in drafts]
        return [self.otherwise if answer is None else self.values.get(answer, self.otherwise) for answer in answers]


@dataclass(frozen=True)
class RunningMajority:
    """1.0 for drafts that hold the majority answer of all drafts rated so far, these included; else 0.0.

    This reward has NO FIXED TARGET. The score of a draft depends on what was rated before it, so there is no function
    r(x, y), no π and no Z; `fixed` is False, and weights made from it mean nothing. It is here to reproduce the ETS
    paper's experiments. For a target that exists use `Agreement`.

    answer: reads the canonical answer of a text; drafts without one score 0.0 and do not count.
    Each `bind` starts with nothing counted. The first of equally frequent answers to be seen is the majority.
    """

    answer: Answer
    fixed = False

    def needs(self) -> frozenset[str]:
        """Nothing."""
        return frozenset()

    def bind(self, engine: Engine, prompt: Prompt, key: Key) -> BoundMajority:
        """A fresh count for `prompt`."""
        return BoundMajority(self.answer)


@dataclass(eq=False)
class BoundMajority:
    """The running majority of one prompt; `seen` counts the answers so far. Threads must not share it."""

    answer: Answer
    seen: Counter[str] = field(default_factory=Counter)
    reads: ClassVar[str] = "text"

    def __call__(self, prompt: Prompt, drafts: Sequence[Draft]) -> list[float]:
        answers = [self.answer(draft.text) for draft in drafts]
        self.seen.update(answer for answer in answers if answer is not None)
        majority = self.seen.most_common(1)[0][0] if self.seen else None
        return [float(answer is not None and answer == majority) for answer in answers]
