"""The sampling parameters of an autoregressive engine: together with the weights they are the distribution p(y|x)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol


class TokenLaw(Protocol):
    """The part of an engine's parameters that fixes the distribution of a single token; see `Sampling`."""

    @property
    def temperature(self) -> float: ...

    @property
    def top_p(self) -> float: ...

    @property
    def top_k(self) -> int | None: ...

    @property
    def truncated(self) -> bool:
        """Whether some tokens may have probability zero."""
        ...


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn from a model's logits, and when a response ends.

    The distribution of one token is softmax(logits / temperature), cut to the `top_k` likeliest tokens, then to the smallest
    set of the likeliest whose probability *within those* reaches `top_p`, then normalised again. Tokens that tie with
    the last one kept are kept as well, so the distribution does not depend on the order of the vocabulary.

    A response ends with an end-of-text token, with the first token whose decoded text contains one of the `stop`
    strings, or at `max_tokens` tokens. `stop` takes one string or several.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    max_tokens: int = 256
    stop: Sequence[str] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", (self.stop,) if isinstance(self.stop, str) else tuple(self.stop))
        if not 0 < self.temperature < math.inf:
            raise ValueError(
                f"temperature={self.temperature} must be positive and finite: log-probabilities are those at that "
                "temperature. For greedy decoding give top_k=1."
            )
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p} must be above 0 and at most 1; 1 keeps every token")
        if self.top_k is not None and not (isinstance(self.top_k, int) and self.top_k >= 1):
            raise ValueError(f"top_k={self.top_k} must be a whole number of 1 or more, or None to keep every token")
        if not (isinstance(self.max_tokens, int) and self.max_tokens >= 1):
            raise ValueError(f"max_tokens={self.max_tokens} must be a whole number of 1 or more")
        if not all(isinstance(text, str) and text for text in self.stop):
            raise ValueError(f"stop={self.stop!r} must be a string or several, none of them empty")

    @property
    def truncated(self) -> bool:
        """Whether some tokens may have probability zero."""
        return self.top_k is not None or self.top_p < 1

    def settings(self) -> dict[str, Any]:
        """The parameters as JSON values."""
        return {**asdict(self), "stop": list(self.stop)}

    def before_stop(self, text: str) -> str:
        """The part of `text` before the first of the stop strings; all of it where there is none."""
        places = [place for stop in self.stop if (place := text.find(stop)) >= 0]
        return text[: min(places)] if places else text


def check_count(tokens: int | None) -> None:
    """Refuse to draw a negative number of tokens; None means to the end."""
    if tokens is not None and tokens < 0:
        raise ValueError(f"cannot draw tokens={tokens}: give a number of 0 or more, or None to go to the end")
