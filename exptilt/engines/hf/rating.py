"""Scoring: what a network says of given tokens, in blocks bounded in size, with the prefixes that it knows already."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from exptilt.engines.hf.blocks import BLOCK_LOGITS
from exptilt.engines.hf.forest import Tree, plant
from exptilt.engines.hf.network import Network
from exptilt.engines.hf.prefixes import KeyValues
from exptilt.engines.row import Context
from exptilt.usage import Work

Measure = Callable[[Tensor, Tensor, Sequence[tuple[int, int]]], Tensor]
"""Takes logits [positions, vocabulary], tokens int64 [positions], and which token of which response each is; returns float64
[positions, values]."""


@torch.inference_mode()
def rate(
    network: Network,
    contexts: Sequence[Context],
    responses: Sequence[tuple[int, ...]],
    measure: Measure,
) -> tuple[list[np.ndarray], list[Work]]:
    """Measure the distribution before each token of each response, one at least, after its context.

    Returns float64 [tokens, values] for each, and its cost. Logits are computed at those positions only, at most
    BLOCK_LOGITS at once; what comes before them is a prefix like any other, reused where it is known.
    """
    known, costs = network.prefill(contexts)
    if network.trees and (trees := plant(contexts, responses)):
        for tree in trees:
            costs[tree.one].forwards += 1
        return _rate_trees(network, trees, known, responses, measure), costs
    texts = [(*context.tokens, *response[:-1]) for context, response in zip(contexts, responses, strict=True)]
    if not network.caches:
        logits = network.whole(texts, [len(response) for response in responses])
        given = enumerate(zip(logits, responses, strict=True))
        return [
            measure(row, torch.tensor(tokens, device=network.device), [(i, t) for t in range(len(tokens))]).cpu().numpy()
            for i, (row, tokens) in given
        ], costs
    slots, ids = network.block(texts, known)
    targets, valid = _targets(responses, ids)
    parts: list[list[np.ndarray]] = [[] for _ in responses]
    rows, count = ids.shape
    columns = max(1, BLOCK_LOGITS // (rows * network.vocabulary))
    for block in torch.arange(count, device=network.device).split(columns):
        logits = network.feed(slots, ids[:, block], keep=len(block))
        inside = valid[:, block]
        skipped = int(block[0]) - count
        places = [(row, column + skipped + len(responses[row])) for row, column in inside.nonzero().tolist()]
        values = measure(logits[inside], targets[:, block][inside], places).cpu().numpy()
        for part, piece in zip(parts, np.split(values, inside.sum(dim=1).cumsum(0).tolist()[:-1]), strict=True):
            part.append(piece)
    for cost in costs:
        cost.forwards += 1
    return [np.concatenate(part) for part in parts], costs


def _rate_trees(
    network: Network,
    trees: Sequence[Tree],
    known: Sequence[KeyValues | None],
    responses: Sequence[tuple[int, ...]],
    measure: Measure,
) -> list[np.ndarray]:
    """The values of each response, where those that begin alike are in trees: `known` is what is known of each one's context."""
    slots, forest = network.planted(trees, [known[tree.one] for tree in trees])
    asked: dict[tuple[int, int, int], int] = {}  # tree, node and token: the place among all values
    firsts: list[tuple[int, int]] = []  # of each of these, a response, and the number of the token in it
    places: list[list[int]] = [[] for _ in responses]
    for row, tree in enumerate(trees):
        for number, way in tree.ways.items():
            for index, (node, token) in enumerate(zip(way, responses[number], strict=True)):
                place = asked.setdefault((row, node, token), len(asked))
                if place == len(firsts):
                    firsts.append((number, index))
                places[number].append(place)
    where = torch.tensor(list(asked), dtype=torch.int64)
    rows, nodes, tokens = where.to(network.device).T
    values: Tensor | None = None
    columns = max(1, BLOCK_LOGITS // (len(trees) * network.vocabulary))
    for start in range(0, forest.count, columns):
        block = slice(start, min(start + columns, forest.count))
        logits = network.feed(slots, forest.ids[:, block], block.stop - start, forest.inputs(slots, block))
        some = ((nodes >= start) & (nodes < block.stop)).nonzero()[:, 0]
        measured = measure(logits[rows[some], nodes[some] - start], tokens[some], [firsts[place] for place in some.tolist()])
        values = measured.new_empty(len(asked), measured.shape[1]) if values is None else values
        values[some] = measured
    assert values is not None
    found = values.cpu().numpy()
    return [found[each] for each in places]


def _targets(responses: Sequence[tuple[int, ...]], ids: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens of the responses at the ends of the rows of a block, int64 [rows, count], and which columns have one."""
    count = ids.shape[1]
    targets = torch.zeros_like(ids)
    for row, response in zip(targets, responses, strict=True):
        row[count - len(response) :] = torch.tensor(response, device=ids.device)
    lengths = torch.tensor([len(response) for response in responses], device=ids.device)
    return targets, torch.arange(count, device=ids.device) >= count - lengths[:, None]
