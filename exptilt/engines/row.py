"""Responses that are drawn or rated, from drafts to rows and back, for models that write from left to right.

A backend may keep more for a row, such as key-values.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from exptilt.blocks import Block, BlockSize
from exptilt.draft import MASK, Draft, Finish
from exptilt.engines.adjustments import Before
from exptilt.engines.sampling import Sampling
from exptilt.engines.text import Text
from exptilt.keys import Floats, Key
from exptilt.usage import Work

UNIFORMS = 64  # random numbers that a row takes from its generator at a time
Measure = Literal["logq", "certainty"]
"""What is asked of given tokens: their log-probabilities, or the three measurements of `exptilt.engines.certainty.Certainty`."""


class Context(NamedTuple):
    """A prompt's token ids, and all token ids so far, the prompt's included."""

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]


@dataclass(eq=False)
class Row:
    """One response that is being drawn: where it starts, its sampling parameters, its key, and how many tokens it may draw.

    prior_text: the text of the response before, where the draft carries it.
    step: the step of text that it draws; None where it is drawn until it ends or has no room.
    tokens: those drawn so far.
    logq: their log-probabilities (nats) under the distribution drawn from; None where the backend cannot tell.
    finish: how the response ended.
    paused: whether its step has ended, and the response has not.
    text: the whole response as text, where the backend tells it; None where it is to be decoded.
    cost: what it took.
    """

    context: Context
    sampling: Sampling
    key: Key
    room: int
    prior_text: str = ""
    step: Block | None = None
    tokens: list[int] = field(default_factory=list)
    logq: list[float] | None = field(default_factory=list)
    finish: Finish | None = None
    paused: bool = False
    text: str | None = None
    cost: Work = field(default_factory=Work)
    _uniforms: list[float] = field(default_factory=list)

    @cached_property
    def _generator(self) -> np.random.Generator:
        return self.key.rng()

    @property
    def uniform(self) -> float:
        """The number that decides its next token. The generator of its key has one for each token that it may draw.

        They are taken some at a time: a cap far beyond any response would fill the memory otherwise.
        """
        drawn = len(self.tokens)
        while len(self._uniforms) <= drawn:
            self._uniforms += self._generator.random(UNIFORMS).tolist()
        return self._uniforms[drawn]

    @property
    def left(self) -> int:
        """Tokens it may yet draw."""
        return self.room - len(self.tokens)

    @property
    def done(self) -> bool:
        return self.finish is not None or self.paused or not self.left

    @property
    def last(self) -> int:
        """The token to be fed now: the latest one."""
        return self.tokens[-1] if self.tokens else self.context.tokens[-1]

    @property
    def fed(self) -> tuple[int, ...]:
        """All tokens evaluated so far, where at least one was drawn."""
        return (*self.context.tokens, *self.tokens[:-1])

    @property
    def prior(self) -> tuple[int, ...]:
        """The tokens of the response before this row draws."""
        return self.context.tokens[len(self.context.prompt) :]

    @property
    def before(self) -> Before:
        """What its next token comes after."""
        return Before(self.sampling, len(self.context.prompt), [*self.context.tokens, *self.tokens])

    @property
    def response(self) -> list[int]:
        """All tokens after the prompt."""
        return [*self.prior, *self.tokens]

    def take(self, token: int, logq: float, text: Text, *, forwards: int = 1) -> None:
        """Add a token that was drawn with this log-probability (nats), and see whether it ends the response.

        forwards: how many evaluations it cost; 0 where another row of equal tokens pays for it.
        """
        assert self.logq is not None
        self.cost.forwards += forwards
        self.cost.generated += 1
        self.tokens.append(token)
        self.logq.append(logq)
        self.look(text)

    def look(self, text: Text) -> None:
        """See whether the latest token ends the response, or the step."""
        token = self.tokens[-1]
        if (
            token in text.ends
            or token in self.sampling.stop_token_ids
            or (self.sampling.stop and text.stops(self.response, self.sampling.stop))
        ):
            self.finish = "stop"
        elif len(self.context.tokens) - len(self.context.prompt) + len(self.tokens) >= self.sampling.max_tokens:
            self.finish = "length"
        elif self.step is not None:
            self.paused = text.ends_step(self.step, self.prior, self.tokens)


@dataclass(eq=False)
class Rated:
    """Given tokens, one at least, whose distributions are measured. The rows of one call share `sampling` and `measure`.

    context: what comes before the first of them.
    values: float64 [tokens, 1 or 3], by `measure`.
    cost: what it took.
    """

    context: Context
    targets: tuple[int, ...]
    sampling: Sampling
    measure: Measure
    values: Floats | None = None
    cost: Work = field(default_factory=Work)

    def before(self, index: int) -> Before:
        """What target number `index` comes after."""
        return Before(self.sampling, len(self.context.prompt), [*self.context.tokens, *self.targets[:index]])


class LeftToRight:
    """The layout of drafts that grow at their end (`exptilt.engines.backend.Layout`)."""

    def alphabet(self, vocabulary: str, sampling: Sampling) -> str:
        return vocabulary

    def start(self, prompt: str, sampling: Sampling) -> Draft:
        return Draft(prompt)

    def row(self, draft: Draft, prompt: tuple[int, ...], sampling: Sampling, key: Key, tokens: BlockSize | None) -> Row:
        left = max(0, sampling.max_tokens - len(draft.tokens))
        step, most = (tokens, tokens.tokens) if isinstance(tokens, Block) else (None, tokens)
        room = left if most is None else min(left, most)
        return Row(_context(draft, prompt), sampling, key, room, draft.text, step, finish=None if left else "length")

    def response(self, row: Row, ends: frozenset[int]) -> list[int]:
        stopped = row.finish == "stop" and row.tokens and row.tokens[-1] in row.sampling.stop_token_ids
        return row.response[:-1] if stopped else row.response

    def extended(self, draft: Draft, row: Row, text: str) -> Draft:
        logq = None if draft.logq is None or row.logq is None else (*draft.logq, *row.logq)
        return Draft(draft.prompt, (*draft.tokens, *row.tokens), logq, row.sampling.before_stop(text), row.finish)

    def rated(self, draft: Draft, prompt: tuple[int, ...], sampling: Sampling, start: int, measure: Measure) -> list[Rated]:
        return [Rated(_context(draft, prompt, start), draft.tokens[start:], sampling, measure)]


def _context(draft: Draft, prompt: tuple[int, ...], count: int | None = None) -> Context:
    """The prompt and the first `count` tokens of the response, all of them where None."""
    if MASK in draft.tokens:
        raise ValueError("a draft has masked positions: give drafts of engines with the same alphabet")
    return Context(prompt, prompt + draft.tokens[:count])
