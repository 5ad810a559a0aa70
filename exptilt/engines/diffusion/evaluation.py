"""What the network sees in a step, for all rows at once: whole responses, or blocks with kept keys and values.

Rows with the same prompt and state (candidates of one chain, rollouts of one candidate) share one evaluation, which counts as a
cost of the first of them. With a block cache the first step of a block evaluates the whole response and keeps keys and values;
the steps after it feed a window alone. What is kept depends only on the prompt and the decisions before the block. So for a
draft that is continued in the middle of a block, or a path that is scored, it is made again, and the state is the same as if
there had been no interruption. Rows in the same state share what is kept, while one of them is in flight.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor

from exptilt.engines.diffusion.network import MaskedNetwork, View
from exptilt.engines.diffusion.row import Row


class State(NamedTuple):
    """What a row looks at: ids of prompt and response, and the positions that are fed once its block has begun.

    window: their first and end, in prompt and response together; None without a block cache.
    """

    tokens: tuple[int, ...]
    window: tuple[int, int] | None


class Evaluation:
    """The network with what it keeps for rows in the middle of a block. Only the scheduler's worker calls it."""

    def __init__(self, network: MaskedNetwork) -> None:
        self.network = network
        self._kept: WeakValueDictionary[State, Tensor] = WeakValueDictionary()  # by the state in which the block began

    def features(self, rows: Sequence[Row]) -> Tensor:
        """The features of every asked position, row after row: [n, width]."""
        plain = self._evaluate(rows, blind=False)
        guided = [row for row in rows if row.sampling.guidance]
        if not guided:
            return plain
        blind = self._evaluate(guided, blind=True)
        scale = torch.tensor([row.sampling.guidance for row in rows for _ in row.asked], device=plain.device)
        some = scale != 0
        # The output layer is affine and the factors add up to one: mixing its inputs mixes the logits.
        plain[some] = blind + (1 + scale[some, None].to(plain.dtype)) * (plain[some] - blind)
        return plain

    def _evaluate(self, rows: Sequence[Row], *, blind: bool) -> Tensor:
        """Whole responses first, with the keys and values that blocks wait for, then blocks; [n, width] in the rows' order."""
        now = [self._state(row, row.boundary, blind) for row in rows]
        began = [self._state(row, row.sampling.span(row.boundary)[0], blind) for row in rows]
        kept = {state: self._kept.get(state) for state in began}
        whole, blocks = _Questions(), _Questions()
        for i, (row, state, start) in enumerate(zip(rows, now, began, strict=True)):
            if state.window is None or state == start:
                whole.ask(state, row, i)
                row.kept.pop(blind, None)  # that of the block before
                continue
            blocks.ask(state, row, i)
            if kept[start] is None:
                whole.need(start, row)
        first, made = self._answer(whole, [View(state.tokens, window=state.window) for state in whole.payers])
        kept.update(zip(whole.payers, made, strict=True))
        for row, start in zip(rows, began, strict=True):
            if (part := kept[start]) is not None:
                self._kept[start] = row.kept[blind] = part
        views = [_window(state, row.kept[blind]) for state, row in blocks.payers.items()]
        second, _ = self._answer(blocks, views)
        order = np.argsort(np.array(whole.owners + blocks.owners), kind="stable")
        return torch.cat([*first, *second])[torch.from_numpy(order).to(self.network.device)]

    def _state(self, row: Row, count: int, blind: bool) -> State:
        fed = row.sampling.fed(row.boundary)
        tokens = row.sequence(self.network.mask, blind=blind, count=count)
        if fed is None:
            return State(tokens, None)
        # Where the logits of a position are those one position before it, that position is read and must be fed as well.
        return State(tokens, (len(row.prompt) + fed[0] - self.network.shifted, len(row.prompt) + fed[1]))

    def _answer(self, asked: _Questions, views: list[View]) -> tuple[list[Tensor], list[Tensor | None]]:
        """The features asked for, one tensor or none, and for each view the keys and values outside its window."""
        if not views:
            return [], []
        for row, view in zip(asked.payers.values(), views, strict=True):
            row.cost.forwards += 1
            row.cost.prompt += len(view.tokens)
            row.cost.cached += view.reused
        features, kept = self.network.features(views, asked.rows, asked.positions)
        return [features], kept


class _Questions:
    """States to be evaluated together, each once, with the positions asked of them and the rows that pay."""

    def __init__(self) -> None:
        self.payers: dict[State, Row] = {}
        self.numbers: dict[State, int] = {}
        self.rows: list[int] = []
        self.positions: list[int] = []
        self.owners: list[int] = []

    def need(self, state: State, row: Row) -> None:
        """Have the state evaluated, if only for its keys and values."""
        self.payers.setdefault(state, row)
        self.numbers.setdefault(state, len(self.numbers))

    def ask(self, state: State, row: Row, owner: int) -> None:
        """Ask for all positions in the row's `asked`; the row is number `owner` of its batch."""
        self.need(state, row)
        self.rows += [self.numbers[state]] * len(row.asked)
        self.positions += [len(row.prompt) + position for position in row.asked]
        self.owners += [owner] * len(row.asked)


def _window(state: State, kept: Tensor) -> View:
    assert state.window is not None
    first, last = state.window
    return View(state.tokens[first:last], first, kept=kept)
