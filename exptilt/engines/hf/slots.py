"""The key-value memory of rows that are evaluated together.

Rows end at a common column and begin at their own, as in left-padded generation, so a step writes one column for all
rows and every model that transformers can generate with in batches sees what it expects:

    row 0   . . . x x x x x x|        . masked, x tokens of the row
    row 1   x x x x x x x x x|        | end: the column that the next token of every row will take
    row 2   . . . . . . x x x|

A row joins by copying its prefix to the columns before `end` and leaves by giving its slot to the last row. Where rows
decode and the model allows it, a prefix that several rows share is not copied: it is their trunk (`trunks.Trunks`),
and their columns begin after it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from exptilt.engines.hf.banks import Bank, Layout
from exptilt.engines.hf.fast.attention import Place, Shared
from exptilt.engines.hf.fast.parts import parts
from exptilt.engines.hf.fast.trunks import Trunks
from exptilt.engines.hf.prefixes import KeyValues

EXTRA_OWN = 256  # a further run of rows must save as many rows times columns
SPARE_COLUMNS = 96  # free columns after memory has grown: rows move at most once in a quarter as many steps


class _Layer(CacheLayerMixin):
    """One layer of `Slots`, as transformers' attention modules see it."""

    is_compileable = False
    is_sliding = False  # every column is kept; models with a window mask the columns outside it

    def __init__(self, slots: Slots, number: int) -> None:
        self.slots, self.number = slots, number
        self.keys = self.values = None
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """There is nothing to do: the shapes are known."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the new columns of all rows and return all columns that some row uses."""
        place = self.slots.places(key_states.shape[-2])[self.number]
        place.new_keys.copy_(key_states)
        place.new_values.copy_(value_states)
        return place.keys, place.values

    def get_seq_length(self) -> int:
        return self.slots.end - self.slots.begin

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        return -1


class Slots:
    """Rows that are evaluated together; memory grows as needed and never shrinks.

    capacity: how many rows there is memory for.
    columns: how many columns each of them has.
    rows: rows in use.
    starts: the first column of each.
    begin: the least of them.
    end: the column of the next token.
    share: let rows that decode share trunks.
    """

    def __init__(
        self, layout: Layout, device: torch.device, *, capacity: int = 1, columns: int = SPARE_COLUMNS, share: bool = False
    ) -> None:
        self.device = device
        self.capacity, self.columns = capacity, columns
        self.rows = self.begin = self.end = 0
        self.starts: list[int] = []
        self.trunks = Trunks(layout, device) if share else None
        self._trunk_of: list[int | None] = []  # the slot of each row's trunk
        # These describe the rows as they are now, and are made when needed:
        self._tensors: tuple[Tensor, Tensor] | None = None  # the start of each row and the tokens in its trunk
        self._shared: Shared | None = None
        self._places: tuple[tuple[int, ...], list[Place]] | None = None  # for so many rows, and columns
        self.layout = layout
        self.banks = [Bank(states, kind, capacity, columns) for states, kind in layout.banks]
        self.cache = Cache(layers=[_Layer(self, number) for number in range(len(layout.keys))])

    def reserve(self, rows: int, longest: int, after: int = 1) -> None:
        """Reserve slots for `rows` rows, `longest` columns before `end` and `after` columns from it."""
        if not self.rows:
            self.begin = self.end = longest
        if rows <= self.capacity and longest <= self.end and self.end + after <= self.columns:
            return
        width = max(self.end - self.begin, longest)
        capacity, columns = self.capacity, self.columns
        if rows > capacity or width + max(after, SPARE_COLUMNS // 4) > columns:
            capacity = rows + rows // 4 if rows > capacity else capacity
            columns = width + max(after, SPARE_COLUMNS)  # not those that longer rows needed once
        self._move(width, capacity, columns)

    def join(self, known: KeyValues | None, length: int, trunk: int | None = None) -> None:
        """Add a row whose first `length` tokens are known, in a slot reserved before.

        trunk: the slot of the trunk that holds their prefix. A negative length starts the row that many columns
        after `end`: padding, in a block of several columns.
        """
        skipped = self.skipped(trunk)
        for first, end, pieces in known.parts(skipped, length) if known is not None else ():
            to = slice(self.end - length + first, self.end - length + end)
            for bank, states in zip(self.banks, pieces, strict=True):
                bank.write(self.rows, to, states)
        if trunk is not None and self.trunks is not None:
            self.trunks.hold(trunk, 1)  # not before, because copying may run out of memory
        self.rows += 1
        self._set_rows([*self.starts, self.end - length + skipped], [*self._trunk_of, trunk])

    def fork(self, indices: Sequence[int]) -> None:
        """Add a copy of each of these rows, in slots reserved before; on the same trunk."""
        for to, index in enumerate(indices, self.rows):
            self._copy(index, to)
        trunk_of = [self._trunk_of[i] for i in indices]
        for trunk in trunk_of:
            if trunk is not None and self.trunks is not None:
                self.trunks.hold(trunk, 1)
        self.rows += len(indices)
        self._set_rows([*self.starts, *[self.starts[i] for i in indices]], [*self._trunk_of, *trunk_of])

    def leave(self, indices: Sequence[int]) -> list[int]:
        """Remove rows; returns for each row that is left, in the new order, the index it had before."""
        gone = set(indices)
        left = self.rows - len(gone)
        order = list(range(left))
        holes = [i for i in range(left) if i in gone]
        movers = [i for i in range(left, self.rows) if i not in gone]
        for hole, mover in zip(holes, movers, strict=True):
            order[hole] = mover
            self._copy(mover, hole)
        if self.trunks is not None:
            for trunk in (self._trunk_of[i] for i in gone):
                if trunk is not None:
                    self.trunks.hold(trunk, -1)
            self.trunks.tidy()
        self.rows = left
        self._set_rows([self.starts[i] for i in order], [self._trunk_of[i] for i in order])
        return order

    def snapshot(self, index: int, before: KeyValues | None) -> KeyValues:
        """The key-values of one row: `before`, those of its prefix, and a copy of what came since."""
        length = self.end - self.starts[index] + self.in_trunk(index)
        since = slice(self.end - length + (0 if before is None else before.length), self.end)
        return KeyValues(before, [bank.read(index, since) for bank in self.banks], length)

    def places(self, count: int) -> list[Place]:
        """Where each layer finds its keys and values in the next step, with `count` new columns."""
        asked = (self.rows, self.begin, self.end, count)
        if self._places is None or self._places[0] != asked:
            rows, stop = slice(0, self.rows), self.end + count
            seen = [bank.states[:, rows, :, self.begin : stop].unbind() for bank in self.banks]
            new = [bank.states[:, rows, :, self.end : stop].unbind() for bank in self.banks]
            both = zip(self.layout.layers(seen), self.layout.layers(new), strict=True)
            self._places = asked, [Place(*old, *ahead) for old, ahead in both]
        return self._places[1]

    def inputs(self, count: int) -> dict[str, Any]:
        """What the model needs to position the next `count` columns: position ids int64 [rows, count] and an attention mask.

        The mask is bool [rows, columns], or with trunks what `attention.attend` takes.
        """
        if self._tensors is None:
            self._tensors = (
                torch.tensor(self.starts, dtype=torch.int64, device=self.device)[:, None],
                torch.tensor([self.skipped(trunk) for trunk in self._trunk_of], dtype=torch.int64, device=self.device)[:, None],
            )
        starts, skipped = self._tensors
        columns = torch.arange(self.begin, self.end + count, device=self.device)
        ahead = torch.arange(self.end, self.end + count, device=self.device)
        own = columns >= starts
        positions = (ahead - starts).clamp_(min=0) + skipped
        if self.trunks is None:
            return {"attention_mask": own, "position_ids": positions}
        return {"attention_mask": torch.where(own, 0.0, -math.inf)[:, None, None], "position_ids": positions}

    def shared(self) -> Shared | None:
        """What `attention.sharing` must know of the rows in the next step; None where they share nothing."""
        if self.trunks is not None and self._shared is None:
            runs = parts([[self.end + 1 - start] for start in self.starts], EXTRA_OWN)
            own = [(run, min(self.starts[run]) - self.begin) for run in runs]
            self._shared = self.trunks.shared(self._trunk_of, own, even=len(set(self.starts)) == 1)
        return self._shared

    def skipped(self, trunk: int | None) -> int:
        """How many tokens of a row lie in its trunk and so not in columns of its own."""
        return 0 if self.trunks is None else self.trunks.length(trunk)

    def in_trunk(self, row: int) -> int:
        """How many tokens of a row lie in its trunk."""
        return self.skipped(self._trunk_of[row])

    def _move(self, end: int, capacity: int, columns: int) -> None:
        """Move the columns in use so that they end at `end`, into memory of another size where it is to have one.

        Where memory runs out on the way, all is as before: rows that are not to blame go on.
        """
        window, to = slice(self.begin, self.end), slice(end - (self.end - self.begin), end)
        moved: list[Bank] = []
        try:
            for bank in self.banks:
                bank.move(self.rows, window, to, capacity, columns)
                moved.append(bank)
        except BaseException:
            for bank in moved:
                bank.move(self.rows, to, window, self.capacity, self.columns)
            self._places = None
            raise
        starts = [start + end - self.end for start in self.starts]
        self.capacity, self.columns, self.end = capacity, columns, end
        self._set_rows(starts, self._trunk_of)

    def _copy(self, index: int, to: int) -> None:
        """Copy a row to another slot."""
        for bank in self.banks:
            bank.copy(index, to, slice(self.starts[index], self.end))

    def _set_rows(self, starts: list[int], trunk_of: list[int | None]) -> None:
        self.starts, self._trunk_of = starts, trunk_of
        self.begin = min(starts, default=self.end)
        self._tensors = self._shared = self._places = None
