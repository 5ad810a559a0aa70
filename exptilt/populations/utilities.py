"""Utilities for minimum Bayes risk: how good a candidate text is where another text was wanted.

A utility is an object with `matrix(texts) -> [n, n]`, entry [i, j] the utility of text i against reference j, on a
scale of 0 to 1. `rouge1`, `chrf` and `exact` are ready-made; `PairUtility` wraps any function (candidate, reference).

Both text measures rest on the clipped count of common n-grams, Σ_g min(c_i(g), c_j(g)). `overlaps` computes it for
all pairs at once: the t-th occurrence of a gram in a text is made a feature of its own, and then the sum is the
number of features that two texts share.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import numpy as np

from exptilt.keys import Floats

_UNSPACED = (  # scripts that set no spaces between words: Han, Kana, Thai, Lao, Tibetan, Burmese, Khmer
    "\u3005-\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff\u0e01-\u0e30\u0e32\u0e33\u0e40-\u0e46\u0e81-\u0eb0\u0eb2\u0eb3\u0ec0-\u0ec6\u0f40-\u0f6c"
    "\u1000-\u102a\u103f\u1780-\u17b3"
)
Ints = np.ndarray[Any, np.dtype[np.int64]]


@runtime_checkable
class Utility(Protocol):
    """How well each of n texts serves where another was wanted."""

    def matrix(self, texts: Sequence[str]) -> Floats:
        """Utilities, float64 [n, n]: row the candidate, column the reference."""
        ...


@dataclass(frozen=True)
class Rouge1:
    """ROUGE-1 F1: 2·common words/(words of both), words counted with repeats (Lin, 2004).

    Words are runs of letters, digits and underscores in lower case, not stemmed, each with its combining marks. Where a script
    sets no spaces between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan) every character is one. Texts without
    words score 0.
    """

    def matrix(self, texts: Sequence[str]) -> Floats:
        known: dict[str, int] = {}
        words = [[known.setdefault(word, len(known)) for word in _words(text)] for text in texts]
        sizes = np.array([len(row) for row in words], dtype=np.int64)
        grams = np.array([word for row in words for word in row], dtype=np.int64)
        common = overlaps(np.repeat(np.arange(len(texts)), sizes), grams, len(texts))
        return 2.0 * common / np.maximum(sizes[:, None] + sizes[None, :], 1)


def _words(text: str) -> list[str]:
    """The words of a text, characters where its script sets no spaces."""
    if text.isascii():
        return re.findall(r"\w+", text.lower())
    return _word_pattern().findall(unicodedata.normalize("NFKC", text).casefold())


@lru_cache(maxsize=1)
def _word_pattern() -> re.Pattern[str]:
    marks = "".join(map(chr, (code for code in range(0x300, 0x20000) if unicodedata.category(chr(code))[0] == "M")))
    return re.compile(f"[{_UNSPACED}][{marks}]*|(?:(?![{_UNSPACED}])[\\w{marks}])+")


@dataclass(frozen=True)
class Chrf:
    """chrF: the F_β of character n-gram precision and recall, each averaged over n = 1..order (Popović, 2015).

    order: the longest n-gram, in characters; white space is left out.
    beta: how many times recall outweighs precision. Orders longer than one of the two texts do not enter the averages, as in
        sacrebleu's chrF. Candidates are the rows: the measure is not symmetric. Empty texts score 0.
    """

    order: int = 6
    beta: float = 2.0

    def __post_init__(self) -> None:
        if not (isinstance(self.order, int) and self.order >= 1):
            raise ValueError(f"Chrf(order={self.order!r}): give a whole number of 1 or more")
        if not 0 < self.beta < float("inf"):
            raise ValueError(f"Chrf(beta={self.beta}): give a positive number; 2 counts recall twice as much as precision")

    def matrix(self, texts: Sequence[str]) -> Floats:
        count = len(texts)
        written = ["".join(text.split()).encode("utf-32-le", "surrogatepass") for text in texts]
        lengths = np.array([len(row) // 4 for row in written], dtype=np.int64)
        characters = _compact(np.frombuffer(b"".join(written), dtype=np.uint32).astype(np.int64))
        owners = np.repeat(np.arange(count), lengths)
        grams, starts = characters, np.ones(len(characters), dtype=bool)
        precision, recall, orders = np.zeros((count, count)), np.zeros((count, count)), np.zeros((count, count))
        for size in range(1, self.order + 1):
            if size > len(characters):
                break
            if size > 1:  # a gram is the gram one shorter and the character after it
                starts = owners[: 1 - size] == owners[size - 1 :]
                grams = _compact(grams[:-1] * (characters.max() + 1) + characters[size - 1 :])
            common = overlaps(owners[: len(grams)][starts], grams[starts], count)
            totals = np.maximum(lengths - size + 1, 0)
            precision += common / np.maximum(totals, 1)[:, None]
            recall += common / np.maximum(totals, 1)[None, :]
            orders += (totals[:, None] > 0) & (totals[None, :] > 0)
        weight = self.beta**2
        below = (weight * precision + recall) * np.maximum(orders, 1)
        return np.divide((1 + weight) * precision * recall, below, out=np.zeros((count, count)), where=below > 0)


@dataclass(frozen=True)
class Exact:
    """1 where the two texts are the same, else 0: MBR with it picks the text with the most weight."""

    def matrix(self, texts: Sequence[str]) -> Floats:
        _, codes = np.unique(np.array(texts, dtype=object), return_inverse=True)
        return (codes[:, None] == codes[None, :]).astype(np.float64)


@dataclass(frozen=True)
class PairUtility:
    """A utility from a function (candidate, reference) -> float, called once for every ordered pair of texts."""

    function: Callable[[str, str], float]

    def matrix(self, texts: Sequence[str]) -> Floats:
        values = [[self.function(candidate, reference) for reference in texts] for candidate in texts]
        return np.array(values, dtype=np.float64).reshape(len(texts), len(texts))


rouge1 = Rouge1()
chrf = Chrf()
exact = Exact()


def _compact(values: Ints) -> Ints:
    """The same values as ranks 0, 1, 2, ...: equal values stay equal."""
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def overlaps(owners: Ints, grams: Ints, count: int) -> Floats:
    """Σ_g min(c_i(g), c_j(g)) for all pairs of `count` texts, float64 [count, count].

    owners, grams: int64 [occurrences], the text in which an occurrence stands and which gram it is.
    """
    if grams.size == 0:
        return np.zeros((count, count))
    kinds = int(grams.max()) + 1
    pairs = np.sort(owners * kinds + grams)
    starts = np.flatnonzero(np.append(True, pairs[1:] != pairs[:-1]))
    occurrence = np.arange(pairs.size) - np.repeat(starts, np.diff(np.append(starts, pairs.size)))
    # Sorted by gram, then occurrence, then text: every feature's texts stand together.
    features = (pairs % kinds * (int(occurrence.max()) + 1) + occurrence) * count + pairs // kinds
    features.sort()
    starts = np.flatnonzero(np.append(True, features[1:] // count != features[:-1] // count))
    return _shared(features % count, starts, np.diff(np.append(starts, features.size)), count)


def _shared(members: Ints, starts: Ints, sizes: Ints, count: int) -> Floats:
    """How many sets every pair of `count` texts shares: set f holds sizes[f] `members` from starts[f] on, no repeats.

    Small sets are cheapest as lists of their pairs, large ones as columns of a 0/1 matrix times its transpose.
    """
    total = np.zeros(count * count)
    limit = max(1, count // 16)
    for size in np.unique(sizes[sizes <= limit]):
        sets = starts[sizes == size]
        for some in np.array_split(sets, 1 + len(sets) * size * size // 4_000_000):
            rows = members[some[:, None] + np.arange(size)]
            total += np.bincount((rows[:, :, None] * count + rows[:, None, :]).ravel(), minlength=count * count)
    square = total.reshape(count, count)
    large = np.flatnonzero(sizes > limit)
    for some in np.array_split(large, 1 + len(large) // 4096):
        held = np.zeros((count, len(some)), dtype=np.float32)  # exact: sums of ones far below 2^24
        for column, (start, size) in enumerate(zip(starts[some], sizes[some], strict=True)):
            held[members[start : start + size], column] = 1.0
        square += held @ held.T
    return square
