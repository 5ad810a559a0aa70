"""Keys and values of a model's layers, many in one tensor: one call copies those of many layers.

States (the keys, or the values, of one layer) of one shape, type and device lie one after the other in *banks*:

    [states, rows, heads, columns, size]        of rows that are evaluated together: `Bank`
    [states, heads, tokens, size]               of a prefix that may come again: `exptilt.engines.hf.prefixes`

A model whose layers are alike has a few banks, since memory that grows is held twice for a moment, one bank after the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from exptilt.engines.hf.memory import zeros

SHARE = 4  # of the states of one kind, a bank has one in so many
LEAST_STATES = 4  # and no fewer than these

Thing = TypeVar("Thing")


@dataclass(frozen=True)
class Kind:
    """What states are like: [heads, tokens, size] of a type, on a device."""

    heads: int
    size: int
    dtype: torch.dtype
    device: torch.device

    @staticmethod
    def of(states: Tensor) -> Kind:
        """states: [..., heads, tokens, size]."""
        return Kind(states.shape[-3], states.shape[-1], states.dtype, states.device)

    @property
    def bytes(self) -> int:
        """Of one token."""
        return self.heads * self.size * self.dtype.itemsize

    def zeros(self, states: int, slots: int, columns: int) -> Tensor:
        """Memory for states of so many slots and columns; zeros, since masked columns must be finite."""
        return zeros(self.dtype, self.device, (states, slots, self.heads, columns, self.size))


@dataclass(frozen=True)
class Layout:
    """Which states lie in which bank.

    banks: how many states each has, and their kind.
    keys, values: of each layer, the bank and the place in it.
    """

    banks: Sequence[tuple[int, Kind]] = ()
    keys: Sequence[tuple[int, int]] = ()
    values: Sequence[tuple[int, int]] = ()

    @staticmethod
    def of(layers: Sequence[tuple[Tensor, Tensor]]) -> Layout:
        """layers: keys and values [..., heads, tokens, size] of each, of any tokens."""
        kinds = [Kind.of(states) for pair in layers for states in pair]
        banks: list[tuple[int, Kind]] = []
        places: dict[int, tuple[int, int]] = {}
        for kind in dict.fromkeys(kinds):
            alike = [number for number, each in enumerate(kinds) if each == kind]
            most = max(LEAST_STATES, math.ceil(len(alike) / SHARE))
            for first in range(0, len(alike), most):
                some = alike[first : first + most]
                places |= {number: (len(banks), place) for place, number in enumerate(some)}
                banks.append((len(some), kind))
        ordered = [places[number] for number in range(len(kinds))]
        return Layout(banks, ordered[::2], ordered[1::2])

    @property
    def token_bytes(self) -> int:
        """The bytes of a token's keys and values in all layers."""
        return sum(states * kind.bytes for states, kind in self.banks)

    def layers(self, banks: Sequence[Sequence[Thing]]) -> list[tuple[Thing, Thing]]:
        """The keys and the values of each layer, of things by bank and state."""
        return [(banks[a][b], banks[c][d]) for (a, b), (c, d) in zip(self.keys, self.values, strict=True)]


class Bank:
    """The states of rows in slots: [states, slots, heads, columns, size]."""

    def __init__(self, states: int, kind: Kind, slots: int, columns: int) -> None:
        self.kind = kind
        self.states = kind.zeros(states, slots, columns)

    def read(self, slot: int, columns: slice) -> Tensor:
        """A copy of a row's columns [states, heads, columns, size]."""
        return self.states[:, slot, :, columns].clone()

    def write(self, slot: int, columns: slice, states: Tensor) -> None:
        """The other way."""
        self.states[:, slot, :, columns] = states

    def copy(self, slot: int, to: int, columns: slice) -> None:
        """Copy columns of a row to those of another."""
        self.states[:, to, :, columns] = self.states[:, slot, :, columns]

    def move(self, rows: int, window: slice, to: slice, slots: int, columns: int) -> None:
        """Move a window of columns of the first `rows` to the columns `to`, into new memory where there is room for others."""
        if (slots, columns) == (self.states.shape[1], self.states.shape[3]):
            slide(self.states[:, :rows], window, to)
            return
        before, self.states = self.states, self.kind.zeros(len(self.states), slots, columns)
        self.states[:, :rows, :, to] = before[:, :rows, :, window]


def slide(states: Tensor, window: slice, to: slice) -> None:
    """Copy a window of columns of [..., columns, size] to another, which it may overlap."""
    gap, width = window.start - to.start, window.stop - window.start
    if gap < 0:  # this is rare: a longer row joins
        states[..., to, :] = states[..., window, :].clone()
        return
    for first in range(0, width, gap):  # the first `gap` columns are out of the way of the next: no copy in between
        last = min(first + gap, width)
        states[..., to.start + first : to.start + last, :] = states[..., window.start + first : window.start + last, :]
