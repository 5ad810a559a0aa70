"""Exact toys: distributions small enough to enumerate, for tests, teaching and checking your own sampler.

`TableEngine` is an autoregressive language model given as a table of next-token probabilities; `MaskedTableEngine`
(`exptilt.engines.masked_table`) is a masked-diffusion model given as a table of probabilities for each hole of a partly filled
response. Both implement the engine protocol of `exptilt.core` in full, and `enumerate()` lists every response with its
log-probability, so that π(y) ∝ p(y)·exp(r(y)/β) can be computed exactly and compared with what a sampler draws.
"""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from exptilt.blocks import Block, BlockSize
from exptilt.describe import describe
from exptilt.draft import Draft, Prompt, check_filled
from exptilt.engines.certainty import Certainty
from exptilt.keys import Floats, Key
from exptilt.usage import Work

ABILITIES = frozenset({"continue", "logq", "score"})  # of every table
MOST_PREFIXES = 20_000  # of those that are looked at to compare two tables
Tokens = tuple[int, ...]


def tempered(probabilities: Any, temperature: float, where: str, size: int | None) -> Floats:
    """Check a probability vector, of a length if one is given, and apply the temperature: p^(1/T), normalised."""
    vector = np.asarray(probabilities, dtype=np.float64)
    if vector.ndim != 1 or not np.all(vector >= 0) or not math.isclose(vector.sum(), 1.0, rel_tol=1e-9):
        raise ValueError(f"the table gives {probabilities!r} at {where}: give non-negative probabilities that sum to 1")
    if size is not None and len(vector) != size:
        raise ValueError(
            f"the table gives {len(vector)} probabilities at {where} and {size} at its start: give one for each token"
        )
    if temperature != 1.0:
        vector = (vector / vector.max()) ** (1.0 / temperature)  # at most 1, so that not all of them underflow to 0
    return vector / vector.sum()


def log_of(probability: float) -> float:
    """The log of a probability; -inf for 0."""
    return math.log(probability) if probability > 0 else -math.inf


def check_parameters(temperature: float, max_tokens: int) -> None:
    """Raise ValueError for sampling parameters that no table can have."""
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature={temperature} must be positive")
    if max_tokens < 1:
        raise ValueError(f"max_tokens={max_tokens} must be at least 1")


def written(tokens: Sequence[int], symbols: Sequence[str] | None) -> str:
    """The text of tokens: their symbols, or numbers separated by spaces."""
    return " ".join(map(str, tokens)) if symbols is None else "".join(symbols[token] for token in tokens)


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

    can = ABILITIES | {"steps", "certainty"}

    def __post_init__(self) -> None:
        check_parameters(self.temperature, self.max_tokens)
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
        check_filled(prompt)
        return Draft(prompt)

    def extend(self, drafts: Sequence[Draft], keys: Sequence[Key], tokens: BlockSize | None = None) -> list[Draft]:
        return [self._extend(draft, key, tokens) for draft, key in zip(drafts, keys, strict=True)]

    def score(self, drafts: Sequence[Draft], starts: Sequence[int] | None = None) -> list[Floats]:
        scores = [
            np.array(
                [log_of(self._next(draft.tokens[:i])[draft.tokens[i]]) for i in range(start, draft.decided)], dtype=np.float64
            )
            for draft, start in zip(drafts, starts or [0] * len(drafts), strict=True)
        ]
        self.work.add(scored=sum(map(len, scores)), forwards=len(drafts))
        return scores

    def certainty(self, drafts: Sequence[Draft]) -> list[Certainty]:
        """How sure the distribution was at each token of each draft."""
        with np.errstate(divide="ignore"):
            logs = [[np.log(self._next(draft.tokens[:i])) for i in range(len(draft.tokens))] for draft in drafts]
        size = len(self._next(()))
        return [Certainty.of(np.array(rows).reshape(-1, size)) for rows in logs]

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

    def never_draws(self, other: Any) -> str | None:
        """A token after a prefix that `other` may draw and this table never does; "" if there is none, None if it cannot tell."""
        if not isinstance(other, TableEngine):
            return None
        prefixes: list[Tokens] = [()]
        for prefix in prefixes:  # the list grows meanwhile
            theirs = np.flatnonzero(other._next(prefix)).tolist()
            if lacking := [token for token in theirs if self._next(prefix)[token] == 0]:
                return f"the token {lacking[0]} after {' '.join(map(str, prefix)) or 'nothing'}"
            longer = ((*prefix, token) for token in theirs)
            prefixes += [tokens for tokens in longer if self._finish(tokens) is None]
            if len(prefixes) > MOST_PREFIXES:
                return None
        return ""

    def _next(self, prefix: Tokens) -> Floats:
        if prefix not in self._known:
            size = len(self._next(())) if prefix else None
            self._known[prefix] = tempered(self.next_probs(prefix), self.temperature, f"{prefix}", size)
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
            shares = self._next(tokens)
            token = stream.choose(shares)
            tokens = (*tokens, token)
            logq.append(math.log(shares[token]))
            finish, room = self._finish(tokens), room - 1
            if step is not None and self._ends_step(step, draft.tokens, tokens):
                break
        added = len(tokens) - len(draft.tokens)
        self.work.add(cached=len(draft.tokens), generated=added, forwards=added)
        text = written(tokens[:-1] if finish == "stop" else tokens, self.symbols)
        return Draft(draft.prompt, tokens, tuple(logq), text, finish)

    def _ends_step(self, step: Block, before: Tokens, now: Tokens) -> bool:
        return now[-1] in step.ids or step.ends_in(written(before, self.symbols), written(now, self.symbols))


def __getattr__(name: str) -> Any:
    """MaskedTableEngine by its old address, with a DeprecationWarning."""
    if name != "MaskedTableEngine":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"{name} is in exptilt.engines now: import it from there", DeprecationWarning, stacklevel=2)
    return getattr(importlib.import_module("exptilt.engines"), name)
