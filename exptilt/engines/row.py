"""One response that is drawn token by token, from its draft and key to the longer draft.

What an engine keeps of it besides, such as key-values, is the engine's own matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from exptilt.draft import Draft, Finish
from exptilt.engines.ledger import Cost
from exptilt.engines.sampling import Sampling
from exptilt.engines.text import Text
from exptilt.keys import Key


class Context(NamedTuple):
    """A prompt's token ids, and all token ids so far, the prompt's included."""

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]


@dataclass(eq=False)
class Row:
    """One response that is being drawn: where it starts, its law, one uniform for each token it may draw."""

    context: Context
    sampling: Sampling
    uniforms: list[float]
    tokens: list[int] = field(default_factory=list)  # drawn so far
    logq: list[float] = field(default_factory=list)
    finish: Finish | None = None
    cost: Cost = field(default_factory=Cost)

    @property
    def left(self) -> int:
        """Tokens it may yet draw."""
        return len(self.uniforms) - len(self.tokens)

    @property
    def done(self) -> bool:
        return self.finish is not None or not self.left

    @property
    def last(self) -> int:
        """The token to be fed now: the latest one."""
        return self.tokens[-1] if self.tokens else self.context.tokens[-1]

    @property
    def fed(self) -> tuple[int, ...]:
        """All tokens evaluated so far, where at least one was drawn."""
        return (*self.context.tokens, *self.tokens[:-1])

    @property
    def response(self) -> list[int]:
        """All tokens after the prompt."""
        return [*self.context.tokens[len(self.context.prompt) :], *self.tokens]

    def take(self, token: int, logq: float, text: Text) -> None:
        """Add a drawn token, which took one evaluation."""
        self.cost.forwards += 1
        self.tokens.append(token)
        self.logq.append(logq)
        length = len(self.context.tokens) - len(self.context.prompt) + len(self.tokens)
        if token in text.ends or (self.sampling.stop and text.stops(self.response, self.sampling.stop)):
            self.finish = "stop"
        elif length >= self.sampling.max_tokens:
            self.finish = "length"


def begun(draft: Draft, prompt: tuple[int, ...], sampling: Sampling, key: Key, tokens: int | None) -> Row:
    """The row that draws up to `tokens` more tokens of an unfinished draft, None for all it may have.

    prompt: the draft's prompt as token ids. Token t is drawn with the t-th uniform of the key's generator.
    """
    left = max(0, sampling.max_tokens - len(draft.tokens))
    uniforms = key.rng().random(left if tokens is None else min(left, tokens)).tolist()
    return Row(Context(prompt, prompt + draft.tokens), sampling, uniforms, finish=None if left else "length")


def extended(drafts: Sequence[Draft], rows: Sequence[Row | None], text: Text) -> list[Draft]:
    """Each draft with what its row drew, itself where it has none; without log-probabilities where it had none before."""
    texts = iter(text.decode([row.response for row in rows if row is not None]))
    return [
        draft if row is None else _extended(draft, row, row.sampling.before_stop(next(texts)))
        for draft, row in zip(drafts, rows, strict=True)
    ]


def _extended(draft: Draft, row: Row, text: str) -> Draft:
    logq = None if draft.logq is None else (*draft.logq, *row.logq)
    return Draft(draft.prompt, (*draft.tokens, *row.tokens), logq, text, row.finish)
