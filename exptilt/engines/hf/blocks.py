"""How much is evaluated at once when texts are prefilled or scored: rows of similar length together, bounded in size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

BLOCK_TOKENS = 8192  # tokens evaluated at once
BLOCK_COLUMNS = 32768  # key-value columns in use at once, all rows together
BLOCK_LOGITS = 2**25  # logits computed at once: 128 MiB in float32


def groups(sizes: Sequence[tuple[int, int]]) -> Iterable[list[int]]:
    """Split rows into blocks that are evaluated at once: similar in length, bounded in size.

    sizes: (tokens to evaluate, tokens in all) of each row. Yields lists of indices.
    """
    group: list[int] = []
    widest = 0
    for i in sorted(range(len(sizes)), key=lambda i: sizes[i]):
        new, length = sizes[i]
        rows = len(group) + 1
        wide = max(widest, length)
        if group and (rows * new > BLOCK_TOKENS or rows * wide > BLOCK_COLUMNS or new > 2 * sizes[group[0]][0] + 16):
            yield group
            group, wide = [], length
        group.append(i)
        widest = wide
    if group:
        yield group
