"""Exact toys: distributions small enough to enumerate, for tests, teaching and checking your own sampler.

`TableEngine` is an autoregressive language model given as a table of next-token probabilities; `MaskedTableEngine` is
a masked-diffusion model given as a table of probabilities for each hole of a partly filled response. Both implement
the engine protocol of `exptilt.core` in full, and `enumerate()` lists every response with its log-probability, so that
π(y) ∝ p(y)·exp(r(y)/β) can be computed exactly and held against what a sampler draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from exptilt.blocks import Block, BlockSize
from exptilt.describe import describe
from exptilt.draft import MASK, Draft, Prompt, check_filled
from exptilt.engines.certainty import Certainty
from exptilt.errors import CapabilityError
from exptilt.keys import Floats, Key, Stream
from exptilt.usage import Work

_ALL = frozenset({"continue", "logq", "score"})
Tokens = tuple[int, ...]


def _law(probabilities: Any, temperature: float, where: str) -> Floats:
    """Check a probability vector and apply the temperature: p^(1/T), normalised."""
    vector = np.asarray(probabilities, dtype=np.float64)
    if vector.ndim != 1 or not np.all(vector >= 0) or not math.isclose(vector.sum(), 1.0, rel_tol=1e-9):
        raise ValueError(f"the table gives {probabilities!r} at {where}: give non-negative probabilities that sum to 1")
    vector = vector ** (1.0 / temperature)
    return vector / vector.sum()


def _log(probability: float) -> float:
    return math.log(probability) if probability > 0 else -math.inf


def _check(engine: TableEngine | MaskedTableEngine) -> None:
    if not 0 < engine.temperature < math.inf:
        raise ValueError(f"temperature={engine.temperature} must be positive")
    if engine.max_tokens < 1:
        raise ValueError(f"max_tokens={engine.max_tokens} must be at least 1")


def _text(tokens: Sequence[int], symbols: Sequence[str] | None) -> str:
    return " ".join(map(str, tokens)) if symbols is None else "".join(symbols[token] for token in tokens)


def _start(prompt: Prompt) -> Draft:
    check_filled(prompt)
    return Draft(prompt)


@dataclass(frozen=True)
class TableEngine:
    """p(y) = Π_t p(y_t | y_<t), a response ending at the token `end` or cut at `max_tokens`.

    next_probs: maps the tokens so far to a probability vector over the vocabulary; it is asked once for each prefix.
    symbols: how tokens are written in a draft's text; numbers separated by spaces where not given.
    The prompt does not change the distribution.
    """

    next_probs: Callable[[Tokens], Any]
    max_tokens: int
    end: int
    temperature: float = 1.0
    symbols: Sequence[str] | None = None
    name: str = "table"
    work: Work = field(default_factory=Work, compare=False, repr=False)
    _known: dict[Tokens, Floats] = field(default_factory=dict, compare=False, repr=False)

    can = _ALL | {"steps", "certainty"}

    def __post_init__(self) -> None:
        _check(self)
        if not 0 <= self.end < len(self._next(())):
            raise ValueError(f"end={self.end} is not a token: the table has tokens 0 to {len(self._next(())) - 1}")

    @property
    def alphabet(self) -> str:
        return f"table-{len(self._next(()))}-end-{self.end}"

    @property
    def settings(self) -> Mapping[str, Any]:
        return {
            "engine": self.name,
            "next_probs": describe(self.next_probs),
            "max_tokens": self.max_tokens,
            "end": self.end,
            "temperature": self.temperature,
        }

    def with_sampling(self, **changes: Any) -> TableEngine:
        return replace(self, **changes, _known={})

    def metered(self, work: Work) -> TableEngine:
        return replace(self, work=work)

    def prompt_tokens(self, prompt: Prompt) -> tuple[int, ...]:
        """None: the prompt does not change the table."""
        return ()

    def start(self, prompt: Prompt) -> Draft:
        return _start(prompt)

    def extend(self, drafts: Sequence[Draft], keys: Sequence[Key], tokens: BlockSize | None = None) -> list[Draft]:
        return [self._extend(draft, key, tokens) for draft, key in zip(drafts, keys, strict=True)]

    def score(self, drafts: Sequence[Draft], starts: Sequence[int] | None = None) -> list[Floats]:
        scores = [
            np.array([_log(self._next(draft.tokens[:i])[draft.tokens[i]]) for i in range(start, draft.decided)], dtype=np.float64)
            for draft, start in zip(drafts, starts or [0] * len(drafts), strict=True)
        ]
        self.work.add(scored=sum(map(len, scores)), forwards=len(drafts))
        return scores

    def certainty(self, drafts: Sequence[Draft]) -> list[Certainty]:
        """How sure the distribution was at each token of each draft."""
        with np.errstate(divide="ignore"):
            laws = [[np.log(self._next(draft.tokens[:i])) for i in range(len(draft.tokens))] for draft in drafts]
        size = len(self._next(()))
        return [Certainty.of(np.array(law).reshape(-1, size)) for law in laws]

    def enumerate(self) -> dict[Tokens, float]:
        """Every response with its log-probability (nats); the probabilities sum to one."""
        outcomes: dict[Tokens, float] = {}
        open_prefixes: list[tuple[Tokens, float]] = [((), 0.0)]
        while open_prefixes:
            prefix, log_p = open_prefixes.pop()
            for token, probability in enumerate(self._next(prefix)):
                if probability > 0:
                    longer = (*prefix, token)
                    if self._finish(longer) is not None:
                        outcomes[longer] = log_p + math.log(probability)
                    else:
                        open_prefixes.append((longer, log_p + math.log(probability)))
        return outcomes

    def _next(self, prefix: Tokens) -> Floats:
        if prefix not in self._known:
            self._known[prefix] = _law(self.next_probs(prefix), self.temperature, f"{prefix}")
        return self._known[prefix]

    def _finish(self, tokens: Tokens) -> Literal["stop", "length"] | None:
        if tokens and tokens[-1] == self.end:
            return "stop"
        return "length" if len(tokens) >= self.max_tokens else None

    def _extend(self, draft: Draft, key: Key, extent: BlockSize | None) -> Draft:
        if draft.finish is not None:
            return draft
        stream, tokens, logq = key.stream(), draft.tokens, list(draft.logq or ())
        step, most = (extent, extent.tokens) if isinstance(extent, Block) else (None, extent)
        room = self.max_tokens - len(tokens) if most is None else most
        finish = self._finish(tokens)  # a draft may be at its cap already, for example after a cut of a longer one
        while room > 0 and finish is None:
            law = self._next(tokens)
            token = stream.choose(law)
            tokens = (*tokens, token)
            logq.append(math.log(law[token]))
            finish, room = self._finish(tokens), room - 1
            if step is not None and self._ends_step(step, draft.tokens, tokens):
                break
        added = len(tokens) - len(draft.tokens)
        self.work.add(cached=len(draft.tokens), generated=added, forwards=added)
        text = _text(tokens[:-1] if finish == "stop" else tokens, self.symbols)
        return Draft(draft.prompt, tokens, tuple(logq), text, finish)

    def _ends_step(self, step: Block, before: Tokens, now: Tokens) -> bool:
        return now[-1] in step.ids or step.ends_in(_text(before, self.symbols), _text(now, self.symbols))


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

    can = _ALL

    def __post_init__(self) -> None:
        _check(self)
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
        return replace(_start(prompt), tokens=(MASK,) * self.length, order=())

    def extend(self, drafts: Sequence[Draft], keys: Sequence[Key], tokens: BlockSize | None = None) -> list[Draft]:
        return [self._extend(draft, key, tokens) for draft, key in zip(drafts, keys, strict=True)]

    def score(self, drafts: Sequence[Draft], starts: Sequence[int] | None = None) -> list[Floats]:
        scores = []
        for draft, start in zip(drafts, starts or [0] * len(drafts), strict=True):
            state, logs = list(draft.cut(start).tokens), []
            for place in (draft.order or ())[start:]:
                logs.append(_log(self._at(tuple(state), place)[draft.tokens[place]]))
                state[place] = draft.tokens[place]
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
                places = self._next_places(state)
                moves = ((place, token, p) for place in places for token, p in enumerate(self._at(state, place)) if p > 0)
                for place, token, probability in moves:
                    filled = (*state[:place], token, *state[place + 1 :])
                    following[filled] = following.get(filled, 0.0) + mass * probability / len(places)
            layer = following
        return {tokens: math.log(mass) for tokens, mass in layer.items()}

    def _at(self, state: Tokens, place: int) -> Floats:
        if (state, place) not in self._known:
            self._known[state, place] = _law(self.probs(state, place), self.temperature, f"{state}, position {place}")
        return self._known[state, place]

    def _next_places(self, state: Tokens) -> list[int]:
        """The positions that may be decided next, each with equal chance."""
        holes = [place for place, token in enumerate(state) if token == MASK]
        if self.order == "random":
            return holes
        if self.order == "left":
            return holes[:1]
        return [max(holes, key=lambda place: self._at(state, place).max())]

    def _extend(self, draft: Draft, key: Key, count: BlockSize | None) -> Draft:
        if isinstance(count, Block):
            raise CapabilityError(f"{self.name} cannot end a step by its text: give the block as a number of tokens")
        if draft.finish is not None:
            return draft
        stream, state, order, logq = key.stream(), list(draft.tokens), list(draft.order or ()), list(draft.logq or ())
        added = min(self.length - len(order), self.length if count is None else count)
        for _ in range(added):
            place = self._pick(tuple(state), stream)
            law = self._at(tuple(state), place)
            token = stream.choose(law)
            state[place] = token
            order.append(place)
            logq.append(math.log(law[token]))
        self.work.add(cached=len(draft.order or ()), generated=added, forwards=added)
        text = _text([token for token in state if token != MASK], self.symbols)
        finish = "length" if len(order) == self.length else None
        return Draft(draft.prompt, tuple(state), tuple(logq), text, finish, tuple(order))

    def _pick(self, state: Tokens, stream: Stream) -> int:
        places = self._next_places(state)
        return places[stream.choose(np.ones(len(places)))] if len(places) > 1 else places[0]
