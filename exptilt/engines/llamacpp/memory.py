"""Which sequences hold which cells: the sequences of rows in flight, and those kept because their tokens may be needed again.

llama.cpp shares a cell among sequences but does not report how many cells are free, so `Memory` keeps count of what it asks of
llama.cpp. Its cell numbers are its own: only how many there are must agree.

Kept sequences are found by their token ids. One that is a prefix of another kept one is dropped, because the other serves too.
The least recently used go first when cells or sequences run short; finished responses, which are many and rarely
continued, go before the rest where they are more than their share.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from exptilt.engines.llamacpp.network import SEQUENCES, Network

FINISHED_SHARE = 0.25  # of the kept sequences
KEPT_CELLS = 4096  # held by kept sequences alone, at most: every token of a batch looks at the cells of all


@dataclass(frozen=True, eq=False)
class _Kept:
    """A sequence that nobody extends: its number, its tokens, and whether they are of a finished response."""

    sequence: int
    ids: np.ndarray
    finished: bool


class Memory:
    """The sequences of a network and the cells they hold."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self._sequences = list(range(SEQUENCES))  # the free ones
        self._cells = list(range(network.cells))  # the free ones
        self._cells_of: dict[int, list[int]] = {}
        self._holders: Counter[int] = Counter()  # of each cell: how many sequences have it
        self._kept: OrderedDict[tuple[int, ...], _Kept] = OrderedDict()  # the least recently used first

    @property
    def free(self) -> int:
        """Cells that no sequence holds."""
        return len(self._cells)

    @property
    def kept(self) -> int:
        """Sequences that are kept for later."""
        return len(self._kept)

    def length(self, sequence: int) -> int:
        """How many tokens a sequence has."""
        return len(self._cells_of[sequence])

    def branch(self, tokens: tuple[int, ...]) -> tuple[int, int]:
        """A new sequence with as many of the first `tokens` as some kept sequence has: its number, and how many."""
        if not self._sequences:
            self._evict()
        sequence = self._sequences.pop()
        self._cells_of[sequence] = []
        source, length = self._find(tokens)
        if source is not None:
            self.share(source.sequence, sequence, length)
        return sequence, length

    def share(self, source: int, target: int, length: int) -> None:
        """Let the empty sequence `target` begin with the first `length` tokens of `source`."""
        if length:
            self.network.branch(source, target, length)
        self._cells_of[target] = self._cells_of[source][:length]
        self._holders.update(self._cells_of[target])

    def grow(self, sequence: int, count: int) -> None:
        """Give a sequence this many more cells, which must be free; the network is about to fill them."""
        cells = [self._cells.pop() for _ in range(count)]
        self._cells_of[sequence] += cells
        self._holders.update(cells)

    def drop(self, sequence: int) -> None:
        """End a sequence."""
        self.network.forget(sequence)
        for cell in self._cells_of.pop(sequence):
            self._holders[cell] -= 1
            if not self._holders[cell]:
                del self._holders[cell]
                self._cells.append(cell)
        self._sequences.append(sequence)

    def keep(self, sequence: int, tokens: tuple[int, ...], *, finished: bool) -> None:
        """Hand over a sequence of these tokens: `branch` may find it, or it is dropped to make room."""
        ids = np.array(tokens, dtype=np.int64)
        alike = [(known, kept) for known, kept in self._kept.items() if kept.finished is finished]
        for known, kept in alike:
            if len(kept.ids) >= len(ids) and _common_length(kept.ids, ids) == len(ids):
                self._kept.move_to_end(known)
                self.drop(sequence)
                return
        for known, kept in alike:
            if _common_length(kept.ids, ids) == len(kept.ids):
                self._forget(known)
        if tokens in self._kept:
            self._forget(tokens)
        self._kept[tokens] = _Kept(sequence, ids, finished)

    def copy(self, sequence: int) -> int:
        """A new sequence of the same tokens."""
        copy, _ = self.branch(())
        self.share(sequence, copy, self.length(sequence))
        return copy

    def make_room(self, cells: int) -> bool:
        """Make this many cells free. False where sequences in use hold too many; then nothing is dropped."""
        if cells <= self.free:
            return True
        if cells > self.network.cells - self._in_use():
            return False
        while cells > self.free:
            self._evict()
        return True

    def trim(self) -> None:
        """Drop kept sequences until they hold KEPT_CELLS cells at most, apart from those that sequences in use hold too."""
        room = self.network.cells - self._in_use() - KEPT_CELLS
        while self._kept and self.free < room:
            self._evict()

    def _in_use(self) -> int:
        """Cells of the sequences that are not kept."""
        kept = {known.sequence for known in self._kept.values()}
        return len({cell for sequence, held in self._cells_of.items() if sequence not in kept for cell in held})

    def _find(self, tokens: tuple[int, ...]) -> tuple[_Kept | None, int]:
        """The kept sequence with the longest common prefix with `tokens`, and its length."""
        if not tokens:
            return None, 0
        if tokens in self._kept:
            self._kept.move_to_end(tokens)
            return self._kept[tokens], len(tokens)
        wanted = np.array(tokens, dtype=np.int64)
        best, shared = None, 0
        for known, kept in self._kept.items():
            if (common := _common_length(kept.ids, wanted)) > shared:
                best, shared = known, common
        if best is None:
            return None, 0
        self._kept.move_to_end(best)
        return self._kept[best], shared

    def _evict(self) -> None:
        finished = [known for known, kept in self._kept.items() if kept.finished]
        crowded = len(finished) > FINISHED_SHARE * len(self._kept)
        self._forget(finished[0] if crowded else next(iter(self._kept)))

    def _forget(self, tokens: tuple[int, ...]) -> None:
        self.drop(self._kept.pop(tokens).sequence)


def common_length(first: Sequence[int], second: Sequence[int]) -> int:
    """The length of the longest common prefix of two sequences."""
    return _common_length(np.array(first, dtype=np.int64), np.array(second, dtype=np.int64))


def _common_length(first: np.ndarray, second: np.ndarray) -> int:
    shorter = min(len(first), len(second))
    differ = np.flatnonzero(first[:shorter] != second[:shorter])
    return int(differ[0]) if len(differ) else shorter
