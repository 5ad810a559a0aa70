"""The random choices of a denoising path: each decision is the noise of one step, and its token is the name of that noise.

A token of `Gaussian` is a number below 2^52, which JavaScript and JSON keep exactly: 40 bits from the stream of the draft's key,
and 12 that stand for the distribution which drew it. The noise itself follows from token and position alone, so a draft can be
drawn again from its tokens wherever the same engine is open.

Densities have a unit, and a density may be above 1. Log-probabilities here are those of the cell of side 2^-24 around each
number, the resolution of float32 near 1: log N(x; μ, σ²) + log 2^-24 for each number. They stay below 0, and ratios are those of
densities.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from exptilt.keys import Floats, Key

NAME_BITS, MARK_BITS = 40, 12
LOG_CELL = -24 * math.log(2)
_LOG_2PI = math.log(2 * math.pi)


class Noise(Protocol):
    """What fixes the random part of each step."""

    def names(self, key: Key, count: int, mark: int) -> list[int]:
        """The tokens of the next `count` decisions of a draft. mark: stands for the distribution that draws them."""
        ...

    def value(self, token: int, position: int, shape: tuple[int, ...]) -> Floats:
        """The noise that a token names, of mean 0 and variance 1 for each number: float64 of that shape."""
        ...

    def log_prob(self, token: int, noise: Floats, sigma: float | Floats) -> float:
        """The log-probability (nats) of a step by this noise times sigma, one for all or one for each number."""
        ...

    def foreign(self, token: int, mark: int) -> bool:
        """Whether a token was surely drawn by another distribution."""
        ...

    def settings(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Gaussian:
    """Independent standard normal numbers."""

    def names(self, key: Key, count: int, mark: int) -> list[int]:
        drawn = key.rng().integers(1 << NAME_BITS, size=count).tolist()
        return [(name << MARK_BITS) | mark for name in drawn]

    def value(self, token: int, position: int, shape: tuple[int, ...]) -> Floats:
        return Key(token, "noise", position).rng().standard_normal(shape)

    def log_prob(self, token: int, noise: Floats, sigma: float | Floats) -> float:
        return float(noise.size * (LOG_CELL - np.mean(np.log(sigma)) - 0.5 * _LOG_2PI) - 0.5 * np.sum(noise**2))

    def foreign(self, token: int, mark: int) -> bool:
        return token & ((1 << MARK_BITS) - 1) != mark

    def settings(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class Discrete:
    """A few values with their probabilities, the same for all numbers of a picture: distributions that can be enumerated."""

    values: Sequence[float]
    probs: Sequence[float]

    def __post_init__(self) -> None:
        if len(self.values) != len(self.probs) or not math.isclose(sum(self.probs), 1.0) or min(self.probs) < 0:
            raise ValueError(f"values={self.values} with probs={self.probs}: give each value a probability; they sum to 1")

    def names(self, key: Key, count: int, mark: int) -> list[int]:
        stream = key.stream()
        return [stream.choose(self.probs) for _ in range(count)]

    def value(self, token: int, position: int, shape: tuple[int, ...]) -> Floats:
        return np.full(shape, self.values[token])

    def log_prob(self, token: int, noise: Floats, sigma: float | Floats) -> float:
        return math.log(self.probs[token]) if self.probs[token] > 0 else -math.inf

    def foreign(self, token: int, mark: int) -> bool:
        return not 0 <= token < len(self.values)

    def settings(self) -> dict[str, Any]:
        return {"values": list(self.values), "probs": list(self.probs)}
