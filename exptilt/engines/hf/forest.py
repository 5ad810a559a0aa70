"""Responses to be scored as trees: what several to one context begin with is evaluated once.

    the context's last token ──┬── the ──┬── answer ── is
                               │         └── result
                               └── so ── it

The nodes of a tree lie in one row of a block, each somewhere after the one that it follows. A node attends to the context and to
the nodes on its way, and its position is that which it has in its response.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from exptilt.engines.hf.prefixes import common_length
from exptilt.engines.hf.slots import Slots
from exptilt.engines.row import Context

NODES = 256  # of a tree that has several responses: each attends to all, so large trees cost more than they save
WORTH = 0.9  # of the positions of responses by themselves, those of trees are no more than this


@dataclass
class Tree:
    """Some responses to a context.

    tokens: of each node; that of the first is the context's last.
    follows: the node before each, the first's none.
    depths: how many tokens after the context's last each comes.
    ways: by the number of a response, the nodes after which its tokens come.
    """

    context: Context
    tokens: list[int] = field(init=False)
    follows: list[int] = field(default_factory=lambda: [-1])
    depths: list[int] = field(default_factory=lambda: [0])
    ways: dict[int, list[int]] = field(default_factory=dict)
    _next: dict[tuple[int, int], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tokens = [self.context.tokens[-1]]

    @property
    def one(self) -> int:
        """The number of one of the responses."""
        return next(iter(self.ways))

    def add(self, number: int, response: Sequence[int]) -> None:
        """Take a response in, one token at least."""
        way = [0]
        for token in response[:-1]:
            node = self._next.setdefault((way[-1], token), len(self.tokens))
            if node == len(self.tokens):
                self.tokens.append(token)
                self.follows.append(way[-1])
                self.depths.append(len(way))
            way.append(node)
        self.ways[number] = way


def plant(contexts: Sequence[Context], responses: Sequence[tuple[int, ...]]) -> list[Tree]:
    """Trees of all responses, of a size at which they are the fewest positions, each padded to the largest.

    Small trees repeat beginnings, and large ones are padded more. None where that saves too little.
    """
    order = _in_order(contexts, responses)
    longest = max(map(len, responses))
    sizes = [longest << times for times in range(8) if longest << times <= max(NODES, longest)]
    positions = {size: _positions(_new_nodes(order, responses, size)) for size in sizes}
    most = min(sizes, key=lambda size: positions[size])
    if positions[most] > WORTH * len(responses) * longest:
        return []
    trees: list[Tree] = []
    for (number, _), (first, _) in zip(order, _new_nodes(order, responses, most), strict=True):
        if first:
            trees.append(Tree(contexts[number]))
        trees[-1].add(number, responses[number])
    return trees


def _in_order(contexts: Sequence[Context], responses: Sequence[tuple[int, ...]]) -> list[tuple[int, int | None]]:
    """The numbers of responses, those that begin alike together, each with how many tokens it shares with the one before.

    The last token does not count. None where the one before has another context.
    """
    numbers = sorted(range(len(responses)), key=lambda i: (contexts[i], responses[i]))
    order: list[tuple[int, int | None]] = [(numbers[0], None)]
    for before, number in pairwise(numbers):
        alike = contexts[before] == contexts[number]
        order.append((number, common_length(responses[before][:-1], responses[number][:-1]) if alike else None))
    return order


def _new_nodes(
    order: Sequence[tuple[int, int | None]], responses: Sequence[tuple[int, ...]], most: int
) -> Iterator[tuple[bool, int]]:
    """Of each response, whether it begins a tree, and how many nodes it adds, where trees have no more than `most`."""
    size = 0
    for number, shared in order:
        length = len(responses[number])
        first = shared is None or size + length - 1 - shared > most
        new = length if first or shared is None else length - 1 - shared
        size = new if first else size + new
        yield first, new


def _positions(new_nodes: Iterable[tuple[bool, int]]) -> int:
    """How many positions trees have, each padded to the largest."""
    sizes: list[int] = []
    for first, new in new_nodes:
        if first:
            sizes.append(0)
        sizes[-1] += new
    return len(sizes) * max(sizes)


class Forest:
    """Trees side by side, as blocks of columns.

    ids: int64 [trees, nodes], padded at the end.
    """

    def __init__(self, trees: Sequence[Tree], device: torch.device) -> None:
        self.count = max(len(tree.tokens) for tree in trees)
        ids = np.zeros((len(trees), self.count), dtype=np.int64)
        positions = np.zeros_like(ids)
        sees = np.zeros((len(trees), self.count, self.count), dtype=bool)
        sees[:, np.arange(self.count), np.arange(self.count)] = True
        for row, tree in enumerate(trees):
            size = len(tree.tokens)
            ids[row, :size] = tree.tokens
            positions[row, :size] = len(tree.context.tokens) - 1 + np.array(tree.depths)
            for node in range(1, size):
                sees[row, node] |= sees[row, tree.follows[node]]
        self.ids, self._positions, self._sees = (torch.from_numpy(each).to(device) for each in (ids, positions, sees))

    def inputs(self, slots: Slots, block: slice) -> dict[str, Tensor]:
        """Positions int64 [trees, block] and the mask bool [trees, 1, block, columns] of some columns, after those in slots."""
        contexts = torch.arange(slots.begin, slots.end - block.start, device=self.ids.device)
        known = contexts >= torch.tensor(slots.starts, device=self.ids.device)[:, None]
        rows, size = len(known), block.stop - block.start
        mask = torch.cat([known[:, None].expand(rows, size, -1), self._sees[:, block, : block.stop]], -1)
        return {"attention_mask": mask[:, None], "position_ids": self._positions[:, block]}
