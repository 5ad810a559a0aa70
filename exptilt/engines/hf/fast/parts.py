"""Rows of different size in one batch: what is computed together is padded to the largest, so a batch is split where that pays.

One product for all rows gives each the columns of the longest; one for each row is slow for want of work. Between them lie
*parts*, runs of neighbours that are about as large. Neighbours only, since a run is a slice and needs no copy.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def parts(sizes: Sequence[Sequence[int]], extra: int) -> list[slice]:
    """Part things, whose sizes have one or several dimensions, into runs of neighbours.

    A run costs as many times the product of its greatest sizes as it has members, and `extra` for being one more. Each run is
    parted at its best place, and what comes of it again, as long as that saves. Runs without size are left out.
    """
    found: list[slice] = []
    waiting = [(0, np.array(sizes, dtype=np.int64))] if len(sizes) else []
    while waiting:
        first, run = waiting.pop()
        count = len(run)
        whole = count * run.max(0).prod()
        before = np.maximum.accumulate(run[:-1]).prod(1) * np.arange(1, count)
        after = np.maximum.accumulate(run[:0:-1]).prod(1)[::-1] * np.arange(count - 1, 0, -1)
        if count > 1 and (before + after).min() + extra < whole:
            cut = int((before + after).argmin()) + 1
            waiting += [(first + cut, run[cut:]), (first, run[:cut])]
        elif whole:
            found.append(slice(first, first + count))
    return found
