"""TwistedEngine: a proposal that looks ahead, token by token, with a learned value.

With V(s) ≈ E_p[exp(r/β) | s], the worth of a response that begins with s, the proposal draws the next token a from

    q(a|s) = (1 - d)·p(a|s)·V(sa)/Σ_b p(b|s)·V(sb) + d·p(a|s).

As `Target(proposal=...)` it serves every sampler that takes one, with the weights exp(r/β)·p/q. They are exact for any V, and a
better one makes them more even: with the true V and d = 0 every response would have the weight Z. The defence d > 0 keeps p/q
below 1/d to the power of the length, and every token that p may draw.

A value is anything with `twist` (`Twists`): the head of `exptilt.train.value` for models of transformers, and a plain function
for tables, from the tokens so far to log V of each next one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np

from exptilt.blocks import BlockSize
from exptilt.core import Engine
from exptilt.describe import describe
from exptilt.draft import Draft, Prompt
from exptilt.engines.table import TableEngine
from exptilt.errors import TargetError
from exptilt.keys import Floats, Key
from exptilt.proposals import Known
from exptilt.usage import Work

DEFENCE = 0.05
TableValue = Callable[[tuple[int, ...]], Any]


@runtime_checkable
class Twists(Protocol):
    """A value that can be put into an engine."""

    def twist(self, engine: Engine, defence: float) -> Engine:
        """The engine that draws from q. Raises TargetError where the value is not for this engine."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """What tells it from others, as JSON values."""
        ...


@dataclass(frozen=True)
class TwistedEngine:
    """The proposal q of the overview.

    engine: p, with its sampling parameters. Truncation by top_k or top_p is not repeated in q: what p cannot draw weighs nothing.
    value: V.
    defence: d, above 0 and at most 1; at 1 q is p.
    """

    engine: Engine
    value: Twists | TableValue
    defence: float = DEFENCE
    _inner: Engine | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 < self.defence <= 1:
            raise ValueError(
                f"defence={self.defence!r} must be above 0 and at most 1: it is the share of plain draws, which keeps every "
                "response that p may draw"
            )
        if self._inner is None:
            object.__setattr__(self, "_inner", self._value.twist(self.engine, self.defence))

    @property
    def _value(self) -> Twists:
        return self.value if isinstance(self.value, Twists) else _OfTable(self.value)

    @property
    def drawing(self) -> Engine:
        """The engine that draws."""
        assert self._inner is not None
        return self._inner

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release what this engine holds beside p."""
        close = getattr(self.drawing, "close", None)
        if close is not None:
            close()

    @property
    def name(self) -> str:
        return f"twisted {self.engine.name}"

    @property
    def can(self) -> frozenset[str]:
        return self.drawing.can - {"certainty"}

    @property
    def max_tokens(self) -> int:
        return self.drawing.max_tokens

    @property
    def alphabet(self) -> str:
        return self.engine.alphabet

    @property
    def settings(self) -> Mapping[str, Any]:
        own = {"twisted": {"value": dict(self._value.settings), "defence": self.defence}}
        whole = {name: value for name, value in (("top_k", None), ("top_p", 1.0)) if name in self.engine.settings}
        return {**self.engine.settings, **whole, **own}

    def with_sampling(self, **changes: Any) -> TwistedEngine:
        return replace(self, engine=self.engine.with_sampling(**changes), _inner=None)

    def metered(self, work: Work) -> TwistedEngine:
        return replace(self, _inner=self.drawing.metered(work))

    def prompt_tokens(self, prompt: Prompt) -> tuple[int, ...]:
        return self.drawing.prompt_tokens(prompt)

    def start(self, prompt: Prompt) -> Draft:
        return self.drawing.start(prompt)

    def extend(self, drafts: Sequence[Draft], keys: Sequence[Key], tokens: BlockSize | None = None) -> list[Draft]:
        return self.drawing.extend(drafts, keys, tokens)

    def score(self, drafts: Sequence[Draft], starts: Sequence[int] | None = None) -> list[Floats]:
        return self.drawing.score(drafts, starts)

    def never_draws(self, other: Any) -> str | None:
        """As the engine that draws knows it; None where it does not."""
        return self.drawing.never_draws(other) if isinstance(self.drawing, Known) else None


@dataclass(frozen=True)
class _OfTable:
    """A function as a value of a table."""

    function: TableValue

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"function": describe(self.function)}

    def twist(self, engine: Engine, defence: float) -> Engine:
        if not isinstance(engine, TableEngine):
            raise TargetError(
                f"the value {self.function!r:.60} is a function, which is for tables, and {engine.name} is none: give one that "
                "exptilt train value has fitted to it (`exptilt.train.value.load_value`)"
            )
        own = engine.next_probs
        plain = replace(engine, _known={})

        def twisted(prefix: tuple[int, ...]) -> Floats:
            return twist_shares(plain._next(prefix), np.asarray(self.function(prefix), dtype=np.float64), defence)

        twisted.__qualname__ = f"twisted {describe(own)}"
        return replace(engine, next_probs=twisted, temperature=1.0, name=f"twisted {engine.name}", _known={})


def twist_shares(shares: Floats, log_v: Floats, defence: float) -> Floats:
    """q(·|s) from p(·|s) and log V of each next token; p where V is 0 for all of them. Raises ValueError for NaN and +inf."""
    if log_v.shape != shares.shape or np.any(np.isnan(log_v)) or np.any(log_v == math.inf):
        raise ValueError(f"the value gives {log_v!r:.80} for {len(shares)} tokens: give one number below +inf for each")
    held = (shares > 0) & (log_v > -math.inf)
    if not np.any(held):
        return shares
    steered = np.where(held, shares * np.exp(np.where(held, log_v - log_v[held].max(), 0.0)), 0.0)
    mixed = (1.0 - defence) * steered / steered.sum() + defence * shares
    return mixed / mixed.sum()
