"""The sampling parameters of an autoregressive engine: together with the weights they are the distribution p(y|x)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
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
    def min_p(self) -> float: ...

    @property
    def truncated(self) -> bool:
        """Whether some tokens may have probability zero."""
        ...


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn from a model's logits, and when a response ends.

    The distribution of one token is softmax(z / temperature), cut to the `top_k` likeliest tokens, then to the smallest
    set of the likeliest whose probability *within those* reaches `top_p`, then to those at least `min_p` times as probable as the
    likeliest, then normalised again. Tokens that tie with the last one kept are kept as well, so the distribution does not depend
    on the order of the vocabulary.

    z are the model's logits, changed in this order: plus `logit_bias` of the token; then, for tokens of the prompt or of the
    response so far, over `repetition_penalty` where z is positive and times it where z is negative; then, for tokens of the
    response so far, less `presence_penalty` once and `frequency_penalty` for each time. All of it depends on the prefix alone, so
    p(y|x) is the product of these distributions, and log-probabilities are theirs.

    A response ends with an end-of-text token, with one of `stop_token_ids`, with the first token whose decoded text contains one
    of the `stop` strings, or at `max_tokens` tokens. Texts end before a stop string or a stop token. `stop` takes one string or
    several, special tokens among them.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    max_tokens: int = 256
    stop: Sequence[str] = ()
    min_p: float = 0.0
    stop_token_ids: Sequence[int] = ()
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[Any, float] | Sequence[tuple[int, float]] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", (self.stop,) if isinstance(self.stop, str) else tuple(self.stop))
        ids = (self.stop_token_ids,) if isinstance(self.stop_token_ids, int) else self.stop_token_ids
        object.__setattr__(self, "stop_token_ids", tuple(sorted(set(ids))))
        object.__setattr__(self, "logit_bias", _biases(self.logit_bias))
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
        check_min_p(self.min_p)
        if not all(isinstance(token, int) and token >= 0 for token in self.stop_token_ids):
            raise ValueError(f"stop_token_ids={list(self.stop_token_ids)} must be ids of tokens, whole numbers from 0 on")
        self._check_penalties()

    def _check_penalties(self) -> None:
        if not 0 < self.repetition_penalty < math.inf:
            raise ValueError(
                f"repetition_penalty={self.repetition_penalty} must be positive and finite: 1 is none, and more makes "
                "tokens that came before less likely"
            )
        for name in ("presence_penalty", "frequency_penalty"):
            if not -2 <= getattr(self, name) <= 2:
                raise ValueError(f"{name}={getattr(self, name)} must be from -2 to 2; 0 is none")

    @property
    def biases(self) -> Mapping[int, float]:
        """The biases of tokens that have one."""
        return dict(self.logit_bias)

    @property
    def truncated(self) -> bool:
        """Whether some tokens may have probability zero."""
        return self.top_k is not None or self.top_p < 1 or self.min_p > 0

    @property
    def counts(self) -> bool:
        """Whether the tokens of the response so far are counted."""
        return self.presence_penalty != 0 or self.frequency_penalty != 0

    @property
    def adjusts(self) -> bool:
        """Whether logits change before the temperature."""
        return self.repetition_penalty != 1 or self.counts or bool(self.logit_bias)

    @property
    def plain(self) -> bool:
        """Whether p is the model's own distribution."""
        return self.temperature == 1 and not self.truncated and not self.adjusts

    def settings(self) -> dict[str, Any]:
        """The parameters as JSON values; files of runs without the later ones do not name them."""
        told = {**asdict(self), "stop": list(self.stop), "stop_token_ids": list(self.stop_token_ids)}
        told["logit_bias"] = {str(token): bias for token, bias in self.biases.items()}
        later = {each.name for each in fields(self) if each.name in LATER and getattr(self, each.name) == each.default}
        return {name: value for name, value in told.items() if name not in later}

    def check_ids(self, vocabulary: int | None, name: str) -> None:
        """Refuse ids that the model does not have. vocabulary: how many it has, None where it is not known."""
        given = {"stop_token_ids": self.stop_token_ids, "logit_bias": [*self.biases]}
        for parameter, ids in given.items():
            if vocabulary is not None and max(ids, default=0) >= vocabulary:
                raise ValueError(
                    f"{parameter} names the token {max(ids)}, but {name} has 0 to {vocabulary - 1}: give one of those"
                )

    def before_stop(self, text: str) -> str:
        """The part of `text` before the first of the stop strings; all of it where there is none."""
        places = [place for stop in self.stop if (place := text.find(stop)) >= 0]
        return text[: min(places)] if places else text


LATER = ("min_p", "stop_token_ids", "repetition_penalty", "presence_penalty", "frequency_penalty", "logit_bias")
"""Parameters that results files written before they were there do not have."""


def check_min_p(value: float) -> None:
    """Refuse what is not a share of the likeliest token's probability."""
    if not 0 <= value <= 1:
        raise ValueError(f"min_p={value} must be from 0 to 1; 0 keeps every token")


def _biases(given: Any) -> tuple[tuple[int, float], ...]:
    """Token ids with their biases, in order; ids may be texts, as JSON has them."""
    pairs = given.items() if isinstance(given, Mapping) else given
    try:
        found = {int(token): float(bias) for token, bias in pairs}
    except (TypeError, ValueError) as error:
        raise ValueError(f"logit_bias={given!r:.80} must map ids of tokens to numbers, such as {{198: -5}}") from error
    if not all(token >= 0 and -100 <= bias <= 100 for token, bias in found.items()):
        raise ValueError(f"logit_bias={given!r:.80} must have ids from 0 on and numbers from -100 to 100")
    return tuple(sorted((token, bias) for token, bias in found.items() if bias))


def check_count(tokens: int | None) -> None:
    """Refuse to draw a negative number of tokens; None means to the end."""
    if tokens is not None and tokens < 0:
        raise ValueError(f"cannot draw tokens={tokens}: give a number of 0 or more, or None to go to the end")
