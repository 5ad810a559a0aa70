"""What smaller numbers of samples would have achieved, from one pool of n independent samples.

Each function takes the samples of one problem and gives the expected result for k of them, drawn without replacement from
the n: an unbiased estimate of the accuracy of a run with k samples, with far less noise than such a run has.

    pass@k     some of the k is right: 1 - C(n-c, k)/C(n, k) with c right ones (Chen et al., 2107.03374)
    best@k     the one with the highest reward is right; exact as well
    maj@k      the answer with the most votes, or the most weight, is right; averaged over subsets
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from itertools import combinations

import numpy as np

from exptilt.keys import Floats, Key

_TIE = 1e-9  # as in `exptilt.populations.select`: sums of the same weights in another order differ by rounding


def pass_at_k(right: Sequence[float] | Floats, k: int) -> float:
    """The probability that k of the samples include a right one. right: 1 or 0 for each sample."""
    count = _checked(len(right), k)
    wrong = count - round(float(np.sum(right)))
    return 1.0 - math.comb(wrong, k) / math.comb(count, k)


def best_at_k(right: Sequence[float] | Floats, rewards: Sequence[float] | Floats, k: int) -> float:
    """The probability that the sample with the highest reward of k is right; ties are broken at random."""
    count, shares = _checked(len(right), k), np.asarray(right, dtype=np.float64)
    values = np.asarray(rewards, dtype=np.float64)
    expected, above = 0.0, 0
    for value in np.unique(values)[::-1]:
        level = values == value
        size = int(level.sum())
        chance = (math.comb(count - above, k) - math.comb(count - above - size, k)) / math.comb(count, k)
        expected += chance * float(shares[level].mean())
        above += size
    return expected


def vote_at_k(
    answers: Sequence[Hashable | None],
    right: Sequence[float] | Floats,
    k: int,
    *,
    weights: Sequence[float] | Floats | None = None,
    subsets: int = 200,
    key: Key = Key(0, "subsets"),  # noqa: B008 (frozen)
) -> float:
    """The probability that a vote of k samples is won by a right answer.

    answers: of each sample; None, for no answer, wins only where no sample has one.
    right: 1 or 0 for each sample.
    weights: for a weighted vote; equal where not given.
    subsets: how many are averaged over; all of them where there are no more.
    """
    count, shares = _checked(len(answers), k), np.asarray(right, dtype=np.float64)
    power = np.ones(count) if weights is None else np.asarray(weights, dtype=np.float64)
    return float(np.mean([_winner(answers, shares, power, rows) for rows in _subsets(count, k, subsets, key)]))


def _winner(answers: Sequence[Hashable | None], right: Floats, weights: Floats, rows: Sequence[int]) -> float:
    """The share of right samples among those of the winning answer; tied answers count equally."""
    held = [row for row in rows if weights[row] > 0]
    standing = [row for row in held if answers[row] is not None] or held or list(rows)
    power: dict[Hashable | None, float] = defaultdict(float)
    members: dict[Hashable | None, list[int]] = defaultdict(list)
    for row in standing:
        power[answers[row]] += float(weights[row])
        members[answers[row]].append(row)
    top = max(power.values())
    tied = [answer for answer, value in power.items() if value >= top * (1 - _TIE)]
    return float(np.mean([right[members[answer]].mean() for answer in tied]))


def _subsets(count: int, k: int, most: int, key: Key) -> Iterator[Sequence[int]]:
    if math.comb(count, k) <= most:
        yield from combinations(range(count), k)
        return
    generator = key.rng()
    for _ in range(most):
        yield generator.permutation(count)[:k].tolist()


def _checked(count: int, k: int) -> int:
    if not 1 <= k <= count:
        raise ValueError(f"k={k} of {count} samples: give a whole number from 1 to {count}")
    return count
