"""What a sampler may cost, known before anything is drawn: it runs on a stand-in whose drafts all reach their cap.

The stand-in has the engine's caps and prompts and no model: every draft grows as far as it may, every reward is the same, and
every choice falls on the first thing there is, so that a chain redraws whole responses.
Where a sampler's cost grows with the length of its drafts, as that of all samplers here does, no real run costs more. What a
reward draws or scores itself is not known here and not included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any, cast

import numpy as np

from exptilt.blocks import BlockSize
from exptilt.core import Engine, PromptReward, Sampler, Target
from exptilt.draft import MASK, Draft, Prompt
from exptilt.errors import AllWeightsZero
from exptilt.keys import Coin, Floats, Key, Stream
from exptilt.rating import told_maximum
from exptilt.usage import Usage, Work

_ENDLESS = 10_000_000  # tokens after which a sampler counts as one that does not end on constant rewards


@dataclass(frozen=True)
class Foreseen:
    """The most tokens that a run may generate and score. first: until its first population. whole: in all."""

    first: int
    whole: int


class _Endless(Exception):
    """The sampler goes on for longer than is looked at."""


def foresee(target: Target, prompt: Prompt, sampler: Sampler, *, whole: bool = True) -> Foreseen | None:
    """What a run on this prompt may cost at the most; None where the sampler cannot run on the stand-in.

    whole: False to look at the first population alone, which `Foreseen.whole` then tells as well.
    """
    usage = Usage()
    proposal = None if target.proposal is None else _Longest(target.proposal, usage.proposal)
    engine, reward = _Longest(target.engine, usage.reference), _Level.of(target.reward)
    stand_in = replace(target, engine=engine, proposal=proposal, reward=reward)
    first = None
    try:
        for _ in sampler(stand_in, prompt, cast(Key, _First(Key(0, "foresight")))):
            first = first or usage.tokens
            if not whole:
                break
    except AllWeightsZero:
        first = first or usage.tokens  # nothing was accepted, which is what costs the most
    except Exception:  # noqa: BLE001 - a sampler of somebody else's that reads texts, of which there are none here
        return None
    return None if first is None else Foreseen(first, usage.tokens)


def longest(draft: Draft, cap: int, tokens: BlockSize | None) -> int:
    """How many tokens one call may decide of a draft."""
    most = tokens if isinstance(tokens, int) or tokens is None else tokens.tokens
    room = 0 if draft.finish is not None else max(0, cap - draft.decided)
    return room if most is None else min(room, most)


def unscored(drafts: Sequence[Draft], starts: Sequence[int] | None) -> list[int]:
    """How many tokens of each draft one call scores, from decision `starts[i]` on; all where that is None."""
    return [max(0, draft.decided - start) for draft, start in zip(drafts, starts or [0] * len(drafts), strict=True)]


@dataclass(frozen=True)
class _Level:
    """A reward that is the same for all drafts: the highest there can be, where the reward tells it."""

    reward_max: float | None

    @classmethod
    def of(cls, reward: object) -> _Level:
        return cls(None if isinstance(reward, PromptReward) else told_maximum(reward))

    def __call__(self, prompt: Any, drafts: Sequence[Draft]) -> list[float]:
        return [self.reward_max or 0.0] * len(drafts)


@dataclass(frozen=True)
class _First:
    """A key whose choices fall on the first thing of positive weight: what a `Key` can, for a sampler."""

    key: Key

    def child(self, *path: int | str) -> _First:
        return _First(self.key.child(*path))

    def choose(self, weights: Sequence[float] | Floats) -> int:
        return int(np.argmax(np.asarray(weights) > 0))

    def coin(self) -> Coin:
        return Coin(cast(Key, self))

    def rng(self) -> np.random.Generator:
        return self.key.rng()

    def stream(self) -> Stream:
        return self.key.stream()


@dataclass(frozen=True)
class _Longest:
    """An engine whose drafts reach the cap, each with tokens of its own, and which counts in `work`."""

    engine: Engine
    work: Work
    others: tuple[Work, ...] = field(default=())

    @property
    def name(self) -> str:
        return self.engine.name

    @property
    def can(self) -> frozenset[str]:
        return self.engine.can

    @property
    def max_tokens(self) -> int:
        return self.engine.max_tokens

    @property
    def alphabet(self) -> str:
        return self.engine.alphabet

    @property
    def settings(self) -> Mapping[str, Any]:
        return self.engine.settings

    def with_sampling(self, **changes: Any) -> _Longest:
        return replace(self, engine=self.engine.with_sampling(**changes))

    def metered(self, work: Work) -> _Longest:
        return replace(self, others=(*self.others, work))

    def prompt_tokens(self, prompt: Prompt) -> tuple[int, ...]:
        return self.engine.prompt_tokens(prompt)

    def start(self, prompt: Prompt) -> Draft:
        return self.engine.start(prompt)

    def extend(self, drafts: Sequence[Draft], keys: Sequence[Key], tokens: BlockSize | None = None) -> list[Draft]:
        counts = [longest(draft, self.max_tokens, tokens) for draft in drafts]
        first = self.work.generated  # no two drafts are equal: some samplers keep one of those that are
        self._count(generated=sum(counts))
        ends = [first + end for end in accumulate(counts)]
        new = [range(end - count, end) for end, count in zip(ends, counts, strict=True)]
        return [_grown(draft, some, self.max_tokens) for draft, some in zip(drafts, new, strict=True)]

    def score(self, drafts: Sequence[Draft], starts: Sequence[int] | None = None) -> list[Floats]:
        sizes = unscored(drafts, starts)
        self._count(scored=sum(sizes))
        return [np.zeros(size) for size in sizes]

    def _count(self, **counts: int) -> None:
        for work in (self.work, *self.others):
            work.add(**counts)
        if self.work.generated + self.work.scored > _ENDLESS:
            raise _Endless


def _grown(draft: Draft, new: Sequence[int], cap: int) -> Draft:
    if draft.finish is not None:
        return draft
    logq = None if draft.logq is None else (*draft.logq, *(0.0,) * len(new))
    finish = "length" if draft.decided + len(new) >= cap else None
    if draft.order is None:
        return Draft(draft.prompt, (*draft.tokens, *new), logq, finish=finish)
    holes = [place for place, token in enumerate(draft.tokens) if token == MASK]
    filled = dict(zip(holes, new, strict=False))
    tokens = tuple(filled.get(place, token) for place, token in enumerate(draft.tokens))
    return Draft(draft.prompt, tokens, logq, finish=finish, order=(*draft.order, *filled))
