"""Drafts: responses, finished or not, as engines draw them and rewards read them. Log-probabilities are in nats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Finish = Literal["stop", "length"]
MASK = -1  # the token of an undecided position in a masked-diffusion draft


@dataclass(frozen=True)
class Draft:
    """A response, finished or not. Its identity is the prompt and the token ids; it holds no tensors and no caches.

    tokens: the response's token ids, the end-of-text token included where it was drawn. A masked-diffusion draft
        always has its full length, with MASK where nothing has been decided.
    logq: log-probability (nats) of each decision under the law it was drawn from, after temperature and truncation;
        None where the engine cannot tell. One per decision, in the order of the decisions.
    text: the decoded response without end-of-text and stop string. Empty after `cut`, until an engine extends it.
    finish: None while unfinished; "stop" for end of text or a stop string, "length" at the token cap.
    order: the positions in the order they were decided; None means left to right.
    """

    prompt: str
    tokens: tuple[int, ...] = ()
    logq: tuple[float, ...] | None = ()
    text: str = ""
    finish: Finish | None = None
    order: tuple[int, ...] | None = None

    @property
    def decided(self) -> int:
        """How many tokens have been decided."""
        return len(self.tokens) if self.order is None else len(self.order)

    def cut(self, count: int) -> Draft:
        """The draft as it was after its first `count` decisions; itself where it has no more than that."""
        if not count >= 0:
            raise ValueError(f"cannot keep {count} tokens of a draft: give a count of 0 or more")
        if count >= self.decided:
            return self
        logq = None if self.logq is None else self.logq[:count]
        if self.order is None:
            return Draft(self.prompt, self.tokens[:count], logq)
        kept = set(self.order[:count])
        tokens = tuple(token if place in kept else MASK for place, token in enumerate(self.tokens))
        return Draft(self.prompt, tokens, logq, order=self.order[:count])
