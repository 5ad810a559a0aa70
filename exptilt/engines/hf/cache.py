"""Key-value memory: the rows that are being decoded (`Slots`) and the prefixes that may come again (`Prefixes`).

The rows of `Slots` end at a common column and begin at their own, as in left-padded generation, so a step writes one
column for all rows and every model that transformers can generate with in batches sees what it expects:

    row 0   . . . x x x x x x|        . masked, x tokens of the row
    row 1   x x x x x x x x x|        | end: the column that the next token of every row will take
    row 2   . . . . . . x x x|

A row joins by copying its prefix to the columns before `end` and leaves by handing its place to the last row.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

SPARE_COLUMNS = 64  # free columns after a rearrangement, at least


@dataclass(frozen=True)
class KeyValues:
    """Keys and values of a sequence's first `length` tokens: per layer two tensors [heads, length, size], or None."""

    layers: Sequence[tuple[Tensor, Tensor] | None]
    length: int

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for pair in self.layers if pair is not None for tensor in pair)


class _Layer(CacheLayerMixin):
    """One layer of `Slots`, as transformers' attention modules see it."""

    is_compileable = False
    is_sliding = False  # every column is kept; models with a window mask the columns outside it

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self.keys: Tensor | None = None  # [row places, heads, columns, size], as are the values
        self.values: Tensor | None = None
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Make room for states of this shape [..., heads, any, size]; zeros, since masked columns must be finite."""
        places, columns = self.slots.places, self.slots.columns
        self.keys = key_states.new_zeros(places, key_states.shape[-3], columns, key_states.shape[-1])
        self.values = value_states.new_zeros(places, value_states.shape[-3], columns, value_states.shape[-1])

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the new columns of all rows and return all columns that some row uses."""
        if self.keys is None or self.values is None:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        rows, begin, end = self.slots.rows, self.slots.begin, self.slots.end
        stop = end + key_states.shape[-2]
        self.keys[:rows, :, end:stop] = key_states
        self.values[:rows, :, end:stop] = value_states
        return self.keys[:rows, :, begin:stop], self.values[:rows, :, begin:stop]

    def get_seq_length(self) -> int:
        return self.slots.end - self.slots.begin

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        return -1

    def rearrange(self, places: int, columns: int, window: slice, to: slice) -> None:
        """Move the rows in use to new memory of [places, columns], their `window` of columns to the columns `to`."""
        for name, old in (("keys", self.keys), ("values", self.values)):
            if old is not None:
                new = old.new_zeros(places, old.shape[1], columns, old.shape[3])
                new[: self.slots.rows, :, to] = old[: self.slots.rows, :, window]
                setattr(self, name, new)


class Slots:
    """The key-value memory of rows that are evaluated together; grows as needed, never shrinks.

    rows: rows in use; starts: the first column of each; begin: the least of them; end: the column of the next token.
    """

    def __init__(self, layers: int, device: torch.device, *, places: int = 1, columns: int = SPARE_COLUMNS) -> None:
        self.device = device
        self.places, self.columns = places, columns
        self.rows = self.begin = self.end = 0
        self.starts: list[int] = []
        self._starts = torch.zeros(0, dtype=torch.int64, device=device)
        self.layers = [_Layer(self) for _ in range(layers)]
        self.cache = Cache(layers=list(self.layers))

    def reserve(self, rows: int, longest: int, after: int = 1) -> None:
        """Make sure of places for `rows` rows, `longest` columns before `end` and `after` columns from it."""
        if not self.rows:
            self.begin = self.end = longest
        if rows <= self.places and longest <= self.end and self.end + after <= self.columns:
            return
        used = self.end - self.begin
        width = max(used, longest)
        places = rows + rows // 2 if rows > self.places else self.places
        columns = width + max(after, SPARE_COLUMNS, width // 4)
        for layer in self.layers:
            layer.rearrange(places, columns, slice(self.begin, self.end), slice(width - used, width))
        moved = width - self.end
        self.places, self.columns, self.end = places, columns, width
        self._set_starts([start + moved for start in self.starts])

    def join(self, known: KeyValues | None, length: int, copies: int = 1) -> None:
        """Add `copies` rows whose first `length` tokens are known, in places reserved before.

        A negative length starts the rows that many columns after `end`: padding, in a block of several columns.
        """
        new = slice(self.rows, self.rows + copies)
        for layer, pair in zip(self.layers, known.layers if known is not None else (), strict=False):
            if pair is not None and length > 0:
                if layer.keys is None or layer.values is None:
                    layer.lazy_initialization(*pair)
                assert layer.keys is not None
                assert layer.values is not None
                layer.keys[new, :, self.end - length : self.end] = pair[0][:, :length]
                layer.values[new, :, self.end - length : self.end] = pair[1][:, :length]
        self.rows += copies
        self._set_starts([*self.starts, *[self.end - length] * copies])

    def leave(self, indices: Sequence[int]) -> list[int]:
        """Remove rows; returns for each row that is left, in the new order, the index it had before."""
        gone = set(indices)
        left = self.rows - len(gone)
        order = list(range(left))
        holes = [i for i in range(left) if i in gone]
        movers = [i for i in range(left, self.rows) if i not in gone]
        for hole, mover in zip(holes, movers, strict=True):
            order[hole] = mover
        if holes:
            window = slice(self.begin, self.end)
            for layer in self.layers:
                if layer.keys is not None and layer.values is not None:
                    layer.keys[holes, :, window] = layer.keys[movers, :, window]
                    layer.values[holes, :, window] = layer.values[movers, :, window]
        self.rows = left
        self._set_starts([self.starts[i] for i in order])
        return order

    def snapshot(self, index: int) -> KeyValues:
        """A copy of what is known of one row."""
        start = self.starts[index]
        layers = [
            (layer.keys[index, :, start : self.end].clone(), layer.values[index, :, start : self.end].clone())
            if layer.keys is not None and layer.values is not None
            else None
            for layer in self.layers
        ]
        return KeyValues(layers, self.end - start)

    def inputs(self, count: int) -> dict[str, Tensor]:
        """Attention mask bool [rows, columns] and position ids int64 [rows, count] for the next `count` columns."""
        columns = torch.arange(self.begin, self.end + count, device=self.device)
        places = torch.arange(self.end, self.end + count, device=self.device)
        return {
            "attention_mask": columns >= self._starts[:, None],
            "position_ids": (places - self._starts[:, None]).clamp_(min=0),
        }

    def _set_starts(self, starts: list[int]) -> None:
        self.starts = starts
        self.begin = min(starts, default=self.end)
        self._starts = torch.tensor(starts, dtype=torch.int64, device=self.device)


class Prefixes:
    """Key-values of token sequences that may be continued again: the least recently used go when memory is short.

    Sequences are looked up among those of the same prompt, by their longest common beginning.
    """

    def __init__(self, memory: int) -> None:
        self.memory = memory  # bytes
        self.used = 0
        self._entries: OrderedDict[tuple[int, ...], KeyValues] = OrderedDict()  # the least recently used first
        self._of_prompt: dict[tuple[int, ...], dict[tuple[int, ...], np.ndarray]] = {}
        self._prompt_of: dict[tuple[int, ...], tuple[int, ...]] = {}

    def find(self, prompt: tuple[int, ...], tokens: tuple[int, ...]) -> tuple[KeyValues | None, int]:
        """The entry that shares most tokens with the beginning of `tokens`, and how many it shares."""
        if tokens in self._entries:
            self._entries.move_to_end(tokens)
            return self._entries[tokens], len(tokens)
        best, shared = None, 0
        wanted = np.array(tokens)
        for known, ids in self._of_prompt.get(prompt, {}).items():
            if (common := _common_length(ids, wanted)) > shared:
                best, shared = known, common
            if shared == len(tokens):
                break
        if best is None:
            return None, 0
        self._entries.move_to_end(best)
        return self._entries[best], shared

    def put(self, prompt: tuple[int, ...], tokens: tuple[int, ...], known: KeyValues) -> None:
        """Keep the key-values of `tokens` (a prompt, or a prompt and what follows), if they fit."""
        if not tokens or known.bytes > self.memory:
            return
        self._forget(tokens)
        self._entries[tokens] = known
        self._of_prompt.setdefault(prompt, {})[tokens] = np.array(tokens)
        self._prompt_of[tokens] = prompt
        self.used += known.bytes
        while self.used > self.memory:
            self._forget(next(iter(self._entries)))

    def _forget(self, tokens: tuple[int, ...]) -> None:
        known = self._entries.pop(tokens, None)
        if known is None:
            return
        self.used -= known.bytes
        prompt = self._prompt_of.pop(tokens)
        siblings = self._of_prompt[prompt]
        del siblings[tokens]
        if not siblings:
            del self._of_prompt[prompt]


def _common_length(first: np.ndarray, second: np.ndarray) -> int:
    shorter = min(len(first), len(second))
    differ = np.flatnonzero(first[:shorter] != second[:shorter])
    return int(differ[0]) if len(differ) else shorter
