"""Randomness: a key names a stream, and every random choice in exptilt is made with a key. There is no global random state."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence

Floats = np.ndarray[Any, np.dtype[np.float64]]


def digest(text: str) -> str:
    """16 hexadecimal digits that stand for a text."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


class Stream:
    """A sequence of random choices from one key. Not shared between threads."""

    def __init__(self, generator: np.random.Generator) -> None:
        self._generator = generator

    def choose(self, weights: Sequence[float] | Floats) -> int:
        """Draw an index with probability proportional to `weights` (non-negative, any sum)."""
        cumulative = np.asarray(weights, dtype=np.float64).cumsum()
        total = float(cumulative[-1])
        if not 0.0 < total < math.inf:
            raise ValueError(f"cannot choose from weights that sum to {total}: give finite weights, one at least positive")
        # numpy's own search lets other threads in each time, and then waits for them longer than the search takes.
        index = bisect_right(cumulative, self._generator.random() * total)
        # Rounding may carry the product up to the total itself: fall back on the last outcome that has mass.
        return index if index < cumulative.size else bisect_left(cumulative, total)


class _Digest(ISeedSequence):
    """128 bits that become Philox's key. Its argument `key` does the same, but gathers entropy first and throws it away."""

    def __init__(self, digest: bytes) -> None:
        self._digest = digest

    def generate_state(self, n_words: int, dtype: Any = np.uint64) -> np.ndarray[Any, Any]:
        return np.frombuffer(self._digest, dtype="<u8")


@dataclass(frozen=True, init=False)
class Key:
    """The name of a random stream: a seed and a path of integers and strings.

    Every draft gets a key of its own, so what is drawn for it depends on nothing else: not on its neighbours in a
    batch, not on the order in which prompts are served. The generator is Philox keyed by a hash of seed and path.
    """

    seed: int
    path: tuple[int | str, ...]

    def __init__(self, seed: int, *path: int | str) -> None:
        object.__setattr__(self, "seed", int(seed))  # an integer of numpy prints itself in another way, and the stream is of that
        object.__setattr__(self, "path", path)

    def child(self, *path: int | str) -> Key:
        """The key of a part of the work that this key stands for."""
        key = object.__new__(Key)  # one for each draft, many thousands a run: what is checked already is not checked again
        key.__dict__.update(seed=self.seed, path=self.path + path)
        return key

    def rng(self) -> np.random.Generator:
        """A fresh numpy generator; the same key always gives the same one."""
        name = repr((self.seed, self.path)).encode()
        digest = _Digest(blake2b(name, digest_size=16).digest())
        return np.random.Generator(np.random.Philox(digest))  # pyright: ignore[reportArgumentType] - numpy's stub is too narrow

    def stream(self) -> Stream:
        """A fresh stream of choices; the same key always gives the same one."""
        return Stream(self.rng())

    def coin(self) -> Coin:
        """The key's uniform number, to be compared again and again."""
        return Coin(self)

    def choose(self, weights: Sequence[float] | Floats) -> int:
        """The first choice of this key's stream: an index drawn with probability proportional to `weights`."""
        return self.stream().choose(weights)


@dataclass(frozen=True)
class Coin:
    """One uniform number u of a key, which is compared with one threshold after another, each no higher than the last."""

    key: Key

    def below(self, threshold: float) -> bool:
        """Whether u is below the threshold, which is 1 at the most: what a choice with this probability would say."""
        return self.key.choose([1.0 - threshold, threshold]) == 1
