"""Key-values of token sequences that may be needed again, in a tree: what sequences have in common is stored and computed once.

    system text and examples ──┬── question 1 ──┬── candidate 1 ──┬── rollout 1
                               │                │                 └── rollout 2
                               │                └── candidate 2 ── …
                               └── question 2 ── …

Nodes differ by token ids alone. `Prefixes` is the tree; `KeyValues` is what it returns and takes: one
sequence as a chain of pieces, whose tensors several chains share.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

States = Sequence[Tensor]
"""Keys and values of all layers: of each bank (`exptilt.engines.hf.banks`) [states, heads, tokens, size]."""

LEAST_SHARED = 32  # computing a shared prefix first must save as many tokens
WASTE = 0.125  # of a piece's size that may be lost to what it was cut from, before it is copied
FINISHED_SHARE = 0.25  # of the memory that finished responses may fill: they are many and rarely continued


@dataclass(frozen=True, eq=False)
class KeyValues:
    """Keys and values of a sequence's first `length` tokens: those of `before`, then this piece's own."""

    before: KeyValues | None
    states: States
    length: int

    @property
    def start(self) -> int:
        """How many tokens come before this piece."""
        return 0 if self.before is None else self.before.length

    def parts(self, start: int, stop: int) -> Iterator[tuple[int, int, States]]:
        """The tokens from `start` to `stop` as (first, end, states) of the pieces they lie in, the last first."""
        piece: KeyValues | None = self
        while piece is not None and piece.length > start:
            first, end = max(start, piece.start), min(stop, piece.length)
            if first < end:
                yield first, end, _columns(piece.states, first - piece.start, end - piece.start)
            piece = piece.before

    def cut(self, length: int) -> KeyValues | None:
        """The first `length` tokens, without a copy."""
        piece: KeyValues | None = self
        while piece is not None and piece.start >= length:
            piece = piece.before
        if piece is None or piece.length <= length:
            return piece
        return KeyValues(piece.before, _columns(piece.states, 0, length - piece.start), length)


@dataclass(eq=False)
class _Node:
    """Tokens that follow the parent's, with their keys and values. `finished`: of a response that has ended."""

    parent: _Node | None
    tokens: tuple[int, ...]
    states: States
    finished: bool
    children: dict[int, _Node] = field(default_factory=dict)  # by first token

    @property
    def bytes(self) -> int:
        return sum(tensor.untyped_storage().nbytes() for tensor in self.states)


class Prefixes:
    """A tree of token sequences with their key-values; `trim` drops the least recently used until they fit `memory` bytes."""

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self._root = _Node(None, (), (), finished=False)
        self._used = {False: 0, True: 0}  # bytes of unfinished and of finished sequences
        self._leaves: dict[bool, OrderedDict[_Node, None]] = {False: OrderedDict(), True: OrderedDict()}

    @property
    def used(self) -> int:
        """Bytes held."""
        return sum(self._used.values())

    def find(self, tokens: Sequence[int]) -> KeyValues | None:
        """The key-values of as many of the first `tokens` as are known."""
        known: KeyValues | None = None
        for node, shared in self._path(tuple(tokens)):
            self._touch(node)
            length = (0 if known is None else known.length) + shared
            known = KeyValues(known, node.states if shared == len(node.tokens) else _columns(node.states, 0, shared), length)
        return known

    def put(self, tokens: Sequence[int], known: KeyValues, *, finished: bool = False) -> None:
        """Hold the key-values of `tokens`, all of which `known` has. Nothing is dropped before `trim`."""
        wanted = tuple(tokens)
        node, length = self._root, 0
        for below, shared in list(self._path(wanted)):
            node, length = self._split(below, shared), length + shared
        if length < len(wanted):
            child = _Node(node, wanted[length:], _joined(known, length, len(wanted)), finished)
            self._leaves[node.finished].pop(node, None)
            node.children[wanted[length]] = child
            self._used[finished] += child.bytes
            self._touch(child)

    def trim(self) -> None:
        """Drop the least recently used ends of sequences, finished ones first where these fill more than their share."""
        while self.used > self.memory:
            crowded = self._used[True] > FINISHED_SHARE * self.memory or not self._leaves[False]
            self._drop(next(iter(self._leaves[crowded and bool(self._leaves[True])])))

    def _path(self, wanted: tuple[int, ...]) -> Iterator[tuple[_Node, int]]:
        """The nodes that hold a prefix of `wanted`, each with how many of its tokens are shared."""
        node, length = self._root, 0
        while length < len(wanted) and (child := node.children.get(wanted[length])) is not None:
            shared = common_length(child.tokens, wanted[length : length + len(child.tokens)])
            yield child, shared
            if shared < len(child.tokens):
                return
            node, length = child, length + shared

    def _split(self, node: _Node, kept: int) -> _Node:
        """Make the first `kept` tokens of a node a node of their own, and return that."""
        if kept == len(node.tokens):
            return node
        assert node.parent is not None
        head = _Node(node.parent, node.tokens[:kept], _fitted(_columns(node.states, 0, kept)), finished=False)
        self._used[node.finished] -= node.bytes
        node.states = _fitted(_columns(node.states, kept, len(node.tokens)))
        node.tokens, node.parent = node.tokens[kept:], head
        self._used[node.finished] += node.bytes
        self._used[head.finished] += head.bytes
        head.children[node.tokens[0]] = node
        assert head.parent is not None
        head.parent.children[head.tokens[0]] = head
        return head

    def _touch(self, node: _Node) -> None:
        if not node.children:
            self._leaves[node.finished][node] = None
            self._leaves[node.finished].move_to_end(node)

    def _drop(self, leaf: _Node) -> None:
        del self._leaves[leaf.finished][leaf]
        self._used[leaf.finished] -= leaf.bytes
        assert leaf.parent is not None
        del leaf.parent.children[leaf.tokens[0]]
        if leaf.parent is not self._root:
            self._touch(leaf.parent)


def shared_beginnings(sequences: Sequence[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
    """Prefixes that several of these sequences share, in waves: each continues one of the wave before, or none."""
    waves: defaultdict[int, list[tuple[int, ...]]] = defaultdict(list)

    def part(group: list[tuple[int, ...]], start: int, depth: int) -> None:
        common = common_beginning(group)
        if (len(common) - start) * (len(group) - 1) >= LEAST_SHARED:
            waves[depth].append(common)
            start, depth = len(common), depth + 1
        branches: defaultdict[int, list[tuple[int, ...]]] = defaultdict(list)
        for sequence in group:
            if len(sequence) > len(common):
                branches[sequence[len(common)]].append(sequence)
        for branch in branches.values():
            if len(branch) > 1:
                part(branch, start, depth)

    if len(distinct := list(dict.fromkeys(sequences))) > 1:
        part(distinct, 0, 0)
    return [waves[depth] for depth in sorted(waves)]


def common_beginning(sequences: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The longest prefix of all sequences: that of the first and the last in lexicographic order."""
    low, high = min(sequences), max(sequences)
    return low[: common_length(low, high)]


def common_length(first: tuple[int, ...], second: tuple[int, ...]) -> int:
    """The length of the longest common prefix of two sequences."""
    shorter = min(len(first), len(second))
    if first[:shorter] == second[:shorter]:  # this is the common case, and many times as fast as comparing each token
        return shorter
    return next(place for place, (one, other) in enumerate(zip(first, second, strict=False)) if one != other)


def _columns(states: States, start: int, stop: int) -> States:
    return [each[:, :, start:stop] for each in states]


def _fitted(states: States) -> States:
    """States copied into memory of their own where they were cut from much more, so that the large tensors can be freed."""
    return [_fit(each) for each in states]


def _fit(states: Tensor) -> Tensor:
    spent = states.untyped_storage().nbytes() - states.nbytes
    return states.clone() if spent > WASTE * states.nbytes else states


def _joined(known: KeyValues, start: int, stop: int) -> States:
    """States of the tokens from `start` to `stop`; without a copy where they are nearly the whole of the last piece."""
    parts = [states for _, _, states in known.parts(start, stop)][::-1]
    return _fitted(parts[0]) if len(parts) == 1 else [torch.cat(pieces, 2) for pieces in zip(*parts, strict=True)]
