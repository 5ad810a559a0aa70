"""How a population grew, for whoever draws it: columns of partial drafts, or the walk of Markov chains.

`growth(trace, rows, chosen)` finds the drawing of a trace by the type of its record. `exptilt.samplers.growth` registers those of
exptilt's own traces; another author's record may be registered as well: `@growth.register`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch
from typing import Literal


@dataclass(frozen=True)
class Card:
    """A partial draft.

    parent: the number of the card in the column before that it grew from; -1 in the first column.
    share: its part of the column's energy or weight.
    log: the logarithm that its share came from, in nats.
    path: whether it lies on the path to the end.
    rollouts: the first row of the population that completes it, and how many do; None where they are not in it.
    """

    text: str
    parent: int
    share: float
    log: float
    path: bool = False
    rollouts: tuple[int, int] | None = None


@dataclass(frozen=True)
class Column:
    """All partial drafts of one step."""

    title: str
    note: str
    cards: tuple[Card, ...]


@dataclass(frozen=True)
class Columns:
    """Steps from the empty draft on: "candidates" of one chain, or "particles" that grow side by side."""

    kind: Literal["candidates", "particles"]
    columns: tuple[Column, ...]


@dataclass(frozen=True)
class Walk:
    """How the rows of a chain's population lie: chains advance together, so each step has one row of each."""

    chains: int
    burn_in: int
    steps: int


@singledispatch
def growth(trace: object, rows: int, chosen: str | None) -> Columns | Walk | None:
    """The drawing of a trace; None where there is nothing to draw.

    rows: the size of the population; 0 where only its chosen draft was kept.
    chosen: the text of the chosen draft; None where none is chosen yet.
    """
    return None
