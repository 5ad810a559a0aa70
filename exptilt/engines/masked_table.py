"""A masked-diffusion model as a table that can be enumerated: the other exact toy, beside `exptilt.engines.table`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from exptilt.blocks import Block, BlockSize
from exptilt.describe import describe
from exptilt.draft import MASK, Draft, Prompt, check_filled
from exptilt.engines.table import ABILITIES, MOST_PREFIXES, Tokens, check_parameters, log_of, tempered, written
from exptilt.errors import CapabilityError
from exptilt.keys import Floats, Key, Stream
from exptilt.usage import Work

Order = Literal["random", "left", "confidence"]


@dataclass(frozen=True)
class MaskedTableEngine:
    """A masked-diffusion distribution over `length` positions: choose a hole by the order policy, draw its token, repeat.

    probs: maps (partly filled tokens, MASK where undecided; position) to a probability vector over the vocabulary.
    order: "random" takes any hole with equal chance, "left" the first, "confidence" the hole whose likeliest token has
    the highest probability (the first of equals). None of them looks at drawn tokens of the step itself, so the
    probability of a path is the product over its decisions, and the distribution of y is the sum over the paths that lead to it.
    """

    probs: Callable[[Tokens, int], Any]
    length: int
    order: Order = "random"
    temperature: float = 1.0
    symbols: Sequence[str] | None = None
    name: str = "masked-table"
    work: Work = field(default_factory=Work, compare=False, repr=False)
    _known: dict[tuple[Tokens, int], Floats] = field(default_factory=dict, compare=False, repr=False)

    can = ABILITIES

    def __post_init__(self) -> None:
        check_parameters(self.temperature, self.max_tokens)
        if self.order not in ("random", "left", "confidence"):
            raise ValueError(f'order={self.order!r} is unknown: give "random", "left" or "confidence"')

    @property
    def max_tokens(self) -> int:
        return self.length

    @property
    def alphabet(self) -> str:
        return f"masked-table-{len(self._at((MASK,) * self.length, 0))}"

    @property
    def settings(self) -> Mapping[str, Any]:
        return {
            "engine": self.name,
            "probs": describe(self.probs),
            "length": self.length,
            "order": self.order,
            "temperature": self.temperature,
        }

    def with_sampling(self, **changes: Any) -> MaskedTableEngine:
        return replace(self, **changes, _known={})

    def metered(self, work: Work) -> MaskedTableEngine:
        return replace(self, work=work)

    def prompt_tokens(self, prompt: Prompt) -> tuple[int, ...]:
        """None: the prompt does not change the table."""
        return ()

    def start(self, prompt: Prompt) -> Draft:
        check_filled(prompt)
        return Draft(prompt, (MASK,) * self.length, order=())

    def extend(self, drafts: Sequence[Draft], keys: Sequence[Key], tokens: BlockSize | None = None) -> list[Draft]:
        return [self._extend(draft, key, tokens) for draft, key in zip(drafts, keys, strict=True)]

    def score(self, drafts: Sequence[Draft], starts: Sequence[int] | None = None) -> list[Floats]:
        scores = []
        for draft, start in zip(drafts, starts or [0] * len(drafts), strict=True):
            state, logs = list(draft.cut(start).tokens), []
            for position in (draft.order or ())[start:]:
                logs.append(log_of(self._at(tuple(state), position)[draft.tokens[position]]))
                state[position] = draft.tokens[position]
            scores.append(np.array(logs, dtype=np.float64))
        count = sum(map(len, scores))
        self.work.add(scored=count, forwards=count)
        return scores

    def enumerate(self) -> dict[Tokens, float]:
        """Every response with its log-probability (nats), summed over the orders in which it can come about."""
        layer: dict[Tokens, float] = {(MASK,) * self.length: 1.0}
        for _ in range(self.length):
            following: dict[Tokens, float] = {}
            for state, mass in layer.items():
                positions = self._next_positions(state)
                moves = (
                    (position, token, p) for position in positions for token, p in enumerate(self._at(state, position)) if p > 0
                )
                for position, token, probability in moves:
                    filled = (*state[:position], token, *state[position + 1 :])
                    following[filled] = following.get(filled, 0.0) + mass * probability / len(positions)
            layer = following
        return {tokens: math.log(mass) for tokens, mass in layer.items()}

    def never_draws(self, other: Any) -> str | None:
        """A token at a position that `other` may decide so and this table never does, in the orders in which this table decides;
        "" if there is none, None if it cannot tell."""
        if not isinstance(other, MaskedTableEngine):
            return None
        states = {(MASK,) * self.length: None}  # in the order in which they were found
        for state in (waiting := list(states)):  # the list grows meanwhile
            for position in self._next_positions(state) if MASK in state else ():
                theirs = np.flatnonzero(other._at(state, position)).tolist()
                if lacking := [token for token in theirs if self._at(state, position)[token] == 0]:
                    shown = " ".join("_" if token == MASK else str(token) for token in state)
                    return f"the token {lacking[0]} at position {position} of {shown}"
                filled = [(*state[:position], token, *state[position + 1 :]) for token in theirs]
                waiting += [each for each in dict.fromkeys(filled) if each not in states]
                states |= dict.fromkeys(filled)
            if len(states) > MOST_PREFIXES:
                return None
        return ""

    def _at(self, state: Tokens, position: int) -> Floats:
        if (state, position) not in self._known:
            start = (MASK,) * self.length, 0
            size = None if (state, position) == start else len(self._at(*start))
            where = f"{state}, position {position}"
            self._known[state, position] = tempered(self.probs(state, position), self.temperature, where, size)
        return self._known[state, position]

    def _next_positions(self, state: Tokens) -> list[int]:
        """The positions that may be decided next, each with equal chance."""
        holes = [position for position, token in enumerate(state) if token == MASK]
        if self.order == "random":
            return holes
        if self.order == "left":
            return holes[:1]
        return [max(holes, key=lambda position: self._at(state, position).max())]

    def _extend(self, draft: Draft, key: Key, count: BlockSize | None) -> Draft:
        if isinstance(count, Block):
            raise CapabilityError(f"{self.name} cannot end a step by its text: give the block as a number of tokens")
        if draft.finish is not None:
            return draft
        stream, state, order, logq = key.stream(), list(draft.tokens), list(draft.order or ()), list(draft.logq or ())
        added = min(self.length - len(order), self.length if count is None else count)
        for _ in range(added):
            position = self._pick(tuple(state), stream)
            shares = self._at(tuple(state), position)
            token = stream.choose(shares)
            state[position] = token
            order.append(position)
            logq.append(math.log(shares[token]))
        self.work.add(cached=len(draft.order or ()), generated=added, forwards=added)
        text = written([token for token in state if token != MASK], self.symbols)
        finish = "length" if len(order) == self.length else None
        return Draft(draft.prompt, tuple(state), tuple(logq), text, finish, tuple(order))

    def _pick(self, state: Tokens, stream: Stream) -> int:
        positions = self._next_positions(state)
        return positions[stream.choose(np.ones(len(positions)))] if len(positions) > 1 else positions[0]
