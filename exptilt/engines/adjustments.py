"""Changes of logits before the temperature: a bias of some tokens, and penalties of tokens that came before.

A penalty depends on the prompt and the response so far and on nothing else, so each token still has one distribution given its
prefix: drawn rows, merged rows and scores apply the same changes, and log-probabilities are those of what is drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from exptilt.engines.sampling import Sampling

Indices = np.ndarray[Any, np.dtype[np.int64]]
Numbers = np.ndarray[Any, np.dtype[np.float32]]


class Before(NamedTuple):
    """What a token comes after: sampling parameters, the length of the prompt, and all tokens from its first on."""

    sampling: Sampling
    prompt: int
    tokens: Sequence[int]


class Adjustments(NamedTuple):
    """Logits that change, one entry each: z + bias, over or times the penalty by its sign, less `less`.

    rows, ids: int64 [n], which logit of which row.
    bias, penalty, less: float32 [n].
    """

    rows: Indices
    ids: Indices
    bias: Numbers
    penalty: Numbers
    less: Numbers


def adjustments(rows: Iterable[Before]) -> Adjustments | None:
    """The changes of the logits of some rows, in their order; None where there are none."""
    parts = [_row(number, row) for number, row in enumerate(rows) if row.sampling.adjusts]
    if not parts:
        return None
    return Adjustments(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _row(number: int, row: Before) -> Adjustments:
    sampling, response = row.sampling, row.tokens[row.prompt :]
    seen = row.tokens if sampling.repetition_penalty != 1 else ()
    biased = sampling.biases
    ids = np.unique(np.array([*biased, *seen, *response], dtype=np.int64))
    places = {token: place for place, token in enumerate(ids.tolist())}
    bias, counts, penalty = (np.zeros(len(ids), dtype=np.float32) for _ in range(3))
    for token, value in biased.items():
        bias[places[token]] = value
    for token in response:
        counts[places[token]] += 1
    penalty[:] = 1
    for token in {*seen}:
        penalty[places[token]] = sampling.repetition_penalty
    less = sampling.frequency_penalty * counts + sampling.presence_penalty * (counts > 0)
    return Adjustments(np.full(len(ids), number, dtype=np.int64), ids, bias, penalty, less.astype(np.float32))
