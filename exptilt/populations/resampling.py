"""Resampling: which drafts go on, and how often, where each is to be copied by its weight."""

from __future__ import annotations

import numpy as np

from exptilt.keys import Floats, Key


def systematic(weights: Floats, size: int, key: Key) -> list[int]:
    """Systematic resampling: `size` row numbers, row i expected size·w_i times and never off by one or more.

    One uniform offset u in [0, 1) decides everything: the k-th draw is the row whose share of the cumulative weights
    holds (k + u)/size. The outcome changes only where u crosses a fractional part of the scaled cumulative weights,
    so u is drawn as a choice among those intervals: the distribution is the same, and can be enumerated.
    """
    scaled = np.cumsum(weights) * size / np.sum(weights)
    scaled[scaled >= scaled[-1]] = size  # rounding must not leave an interval for rows of weight zero at the end
    edges = np.unique(np.concatenate([[0.0], scaled % 1.0, [1.0]]))
    interval = key.choose(np.diff(edges))
    offset = (edges[interval] + edges[interval + 1]) / 2
    return [int(row) for row in np.searchsorted(scaled, np.arange(size) + offset, side="right")]
