"""From logits to the distribution of the next token, in numpy: the same as `exptilt.engines.distribution_torch`, without torch.

Drawing and scoring go through the same `_shifted` and `_masses`, so a draft's recorded log-probabilities and its score
are of one distribution. Logits are float32 and divided by the temperature; sums over the vocabulary are float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from exptilt.engines.adjustments import Adjustments
from exptilt.engines.sampling import TokenLaw
from exptilt.errors import ModelError
from exptilt.keys import Floats

Logits = np.ndarray[Any, np.dtype[np.float32]]
FIRST_LOOK = 512  # as many of the likeliest tokens are sorted before it is known how many top_p needs


def adjust(logits: Logits, changes: Adjustments | None) -> Logits:
    """Logits [rows, vocabulary] with bias and penalties: a copy where anything changes."""
    if changes is None:
        return logits
    logits = np.array(logits, dtype=np.float32)
    some = logits[changes.rows, changes.ids] + changes.bias
    some = np.where(some > 0, some / changes.penalty, some * changes.penalty) - changes.less
    logits[changes.rows, changes.ids] = some
    return logits


def draw(logits: Logits, laws: Sequence[TokenLaw], uniforms: Sequence[float]) -> tuple[list[int], list[float]]:
    """One token per row by inverse CDF over the vocabulary in id order.

    logits: float32 [rows, vocabulary]; laws, and uniforms in [0, 1): one per row. Returns token ids and their
    log-probabilities (nats). Raises ModelError where logits are NaN.
    """
    drawn = [each[0] for each in draw_several(logits, laws, [[uniform] for uniform in uniforms])]
    return [token for token, _ in drawn], [logq for _, logq in drawn]


def draw_several(logits: Logits, laws: Sequence[TokenLaw], uniforms: Sequence[Sequence[float]]) -> list[list[tuple[int, float]]]:
    """As `draw`, but as many tokens of each row as it has uniforms: the ids of each row's tokens with their log-probabilities."""
    drawn = []
    for row, law, numbers in zip(logits, laws, uniforms, strict=True):
        shifted = _shifted(row, law)
        cumulative = _masses(shifted, law)[0].cumsum(dtype=np.float64)
        total = cumulative[-1]
        if not math.isfinite(total):
            raise ModelError("the model gave logits that are NaN: its numbers overflow. Load a file of higher precision.")
        # Rounding may carry the product up to the total itself: fall back on the last token that has mass.
        last = cumulative.searchsorted(total)
        tokens = [int(min(cumulative.searchsorted(uniform * total, side="right"), last)) for uniform in numbers]
        drawn.append([(token, float(shifted[token]) - math.log(total)) for token in tokens])
    return drawn


def log_probability(logits: Logits, tokens: Sequence[int], law: TokenLaw) -> Floats:
    """Log-probability (nats) of one token per row of logits: float64 [rows, 1], -inf outside the support."""
    values = np.full((len(tokens), 1), -math.inf)
    for value, row, token in zip(values, logits, tokens, strict=True):
        shifted = _shifted(row, law)
        masses, floor = _masses(shifted, law)
        if shifted[token] >= floor:
            value[0] = float(shifted[token]) - math.log(masses.sum(dtype=np.float64))
    return values


def certainty(logits: Logits, tokens: Sequence[int], law: TokenLaw) -> Floats:
    """The three measurements of `exptilt.engines.certainty.Certainty`, in its order: float64 [rows, 3], before truncation."""
    shifted = _shifted(logits, law)
    masses = np.exp(shifted)
    total = masses.sum(axis=-1, dtype=np.float64)
    log_total, log_size = np.log(total), math.log(logits.shape[-1])
    entropy = log_total - (masses * shifted).sum(axis=-1, dtype=np.float64) / total
    from_uniform = log_total - shifted.mean(axis=-1, dtype=np.float64) - log_size
    return np.stack([entropy, log_size - entropy, from_uniform], axis=-1)


def _shifted(logits: Logits, law: TokenLaw) -> Logits:
    """Logits over the temperature, less their maximum: float32, the likeliest token at 0."""
    scaled = logits / np.float32(law.temperature)
    scaled -= scaled.max(axis=-1, keepdims=True)
    return scaled


def _masses(shifted: Logits, law: TokenLaw) -> tuple[Logits, float]:
    """exp(shifted) [vocabulary] with zeros outside the law's support, and the value under which a token is outside."""
    masses = np.exp(shifted)
    if not law.truncated:
        return masses, -math.inf
    floor = _floor(masses, shifted, law)
    masses[shifted < floor] = 0.0
    return masses, floor


def _floor(masses: Logits, shifted: Logits, law: TokenLaw) -> float:
    """The least value that top_k, then top_p and then min_p keep; values that tie with it are kept as well."""
    vocabulary = len(shifted)
    ranks = min(law.top_k or vocabulary, vocabulary)
    least = -math.inf if ranks == vocabulary else float(np.partition(shifted, -ranks)[-ranks])
    share = float(np.float32(math.log(law.min_p))) if law.min_p else -math.inf
    if law.top_p == 1:
        return max(least, share)
    needed = law.top_p * masses[shifted >= least].sum(dtype=np.float64)
    looked = min(vocabulary, FIRST_LOOK)
    while True:
        ranked = -np.sort(-np.partition(shifted, -looked)[-looked:])
        after = np.exp(ranked).cumsum(dtype=np.float64)
        # A token is kept while those likelier than it have not reached the needed mass; the first always is.
        kept = 1 + int(np.searchsorted(after, needed))
        if kept <= looked or looked == vocabulary:
            return max(least, share, float(ranked[min(kept, looked) - 1]))
        looked = min(vocabulary, 8 * looked)
