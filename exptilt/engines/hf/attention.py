"""Attention of rows that decode, over beginnings that several of them share: read once for all rows, not once for each.

A row's keys lie in two places: the *trunk*, a beginning it shares with other rows, and columns of its own. Over each
the weighted values and their total are taken, and the two are put together as one softmax would have: this is ordinary
attention, whatever is shared. Products over a trunk are matrix by matrix, where ordinary decoding has matrix by vector for
each row: that, and not reading the trunk again for each row, is the gain; grouped heads are multiplied without a copy of
the keys for each query head.

transformers calls `attend` in place of its own attention, and everything else of a model is left to it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from exptilt.engines.hf.parts import parts
from exptilt.engines.hf.prefixes import KeyValues

NAME = "exptilt_trunks"  # under which transformers knows `attend`
LEAST_TRUNK = 16  # tokens from which a beginning is worth a trunk
EXTRA_TRUNK = 3000  # rows times tokens that one more part of the trunks is worth


@dataclass(frozen=True)
class TrunkPart:
    """Trunks side by side that have about as many rows and tokens each.

    layers: per layer keys and values [trunks, heads, tokens, size], padded at the end. hidden: float32 [trunks, 1, 1,
    tokens], -inf at the padding, to be added to scores. members: int64 [trunks, most], the rows of each trunk, padded with
    row 0.
    """

    layers: Sequence[tuple[Tensor, Tensor] | None]
    hidden: Tensor
    members: Tensor


@dataclass(frozen=True)
class Shared:
    """What `attend` must know of the rows in one step.

    own: runs of rows with about as many columns of their own, and how many of the columns in use none of a run has.
    trunks: the parts of the trunks. places: int64 [rows], where each row stands among the members of all parts. bare:
    float32 [rows, 1, 1, 1], -inf for rows without a trunk, else 0.
    """

    own: Sequence[tuple[slice, int]]
    trunks: Sequence[TrunkPart]
    places: Tensor
    bare: Tensor


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    shared: Shared | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers' interface has it; with `shared` for one token per row, over trunk and own columns.

    query: [rows, heads, 1, size]; key, value: [rows, key heads, own columns, size]; attention_mask: what is added to
    the scores of own columns, [rows, 1, 1, own columns]. Returns [rows, 1, heads, size].
    """
    if shared is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    assert attention_mask is not None
    rows, heads, _, size = query.shape
    kept = key.shape[1]
    queries = (query * (scaling or size**-0.5)).view(rows, kept, heads // kept, size)
    own = [
        _weigh(queries[run], key[run, :, skip:], value[run, :, skip:], attention_mask[run, ..., skip:])
        for run, skip in shared.own
    ]
    mixed, total, most = _joined(own).split([size, 1, 1], -1)
    over = [_over_trunks(queries, part, module.layer_idx) for part in shared.trunks]
    if over:
        over_mixed, over_total, over_most = _joined(over)[shared.places].split([size, 1, 1], -1)
        over_most = over_most + shared.bare
        greatest = torch.maximum(most, over_most)
        share, over_share = (most - greatest).exp_(), (over_most - greatest).exp_()
        mixed, total = mixed * share + over_mixed * over_share, total * share + over_total * over_share
    return (mixed / total).to(query.dtype).view(rows, 1, heads, size), None


def _weigh(queries: Tensor, keys: Tensor, values: Tensor, hidden: Tensor) -> Tensor:
    """What queries find among columns: the weighted values, the total weight and the greatest score, side by side.

    queries: [n, key heads, m, size]; keys, values: [n, key heads, columns, size]; hidden: added to scores. Returns float32
    [n, key heads, m, size + 2]; the weights are relative to the greatest score.
    """
    scores = (queries @ keys.transpose(-1, -2)).float().add_(hidden)
    most = scores.amax(-1, keepdim=True)
    weights = scores.sub_(most).exp_()
    return torch.cat([(weights.to(values.dtype) @ values).float(), weights.sum(-1, keepdim=True), most], -1)


def _over_trunks(queries: Tensor, part: TrunkPart, layer: int) -> Tensor:
    """What the rows of some trunks find there: float32 [trunks · most, key heads, group, size + 2]."""
    _, kept, group, size = queries.shape
    pair = part.layers[layer]
    assert pair is not None  # every layer keeps key-values where trunks are shared
    gathered = queries[part.members].transpose(1, 2).reshape(len(part.members), kept, -1, size)
    found = _weigh(gathered, *pair, part.hidden)
    return found.view(len(found), kept, -1, group, size + 2).transpose(1, 2).flatten(0, 1)


def _joined(pieces: Sequence[Tensor]) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(list(pieces))


class Trunks:
    """The trunks of the rows in flight, side by side; a trunk goes with the last of its rows."""

    def __init__(self, layers: int, device: torch.device) -> None:
        self.device = device
        self.tokens: list[tuple[int, ...]] = []  # of each place; empty where the place is free
        self._layers: list[tuple[Tensor, Tensor] | None] = [None] * layers  # [places, heads, columns, size]
        self._users: list[int] = []

    def find(self, tokens: tuple[int, ...]) -> int | None:
        """The place of the longest trunk that these tokens begin with."""
        fitting = [place for place, trunk in enumerate(self.tokens) if trunk and tokens[: len(trunk)] == trunk]
        return max(fitting, key=lambda place: len(self.tokens[place]), default=None)

    def add(self, tokens: tuple[int, ...], known: KeyValues) -> int:
        """A new trunk; `known` begins with its key-values. Returns its place."""
        if () not in self.tokens:
            self.tokens.append(())
            self._users.append(0)
        place = self.tokens.index(())
        self.tokens[place] = tokens
        for first, end, layers in known.parts(0, len(tokens)):
            for number, pair in enumerate(layers):
                if pair is not None:
                    self._reserve(number, pair)
                    held = self._layers[number]
                    assert held is not None
                    held[0][place, :, first:end] = pair[0]
                    held[1][place, :, first:end] = pair[1]
        return place

    def hold(self, place: int, rows: int) -> None:
        """So many rows more use a trunk."""
        self._users[place] += rows

    def release(self, place: int) -> None:
        """One row less uses a trunk."""
        self._users[place] -= 1
        if not self._users[place]:
            self.tokens[place] = ()

    def tidy(self) -> None:
        """Free the places that no row uses: where memory ran out, rows did not join that they were made for."""
        self.tokens = [tokens if users else () for tokens, users in zip(self.tokens, self._users, strict=True)]

    def shared(self, places: Sequence[int | None], own: Sequence[tuple[slice, int]]) -> Shared:
        """What `attend` needs of rows at these places. own: as `Shared` has it.

        Free places within a part take part without rows: leaving them out would mean copying the others. A row without a
        trunk stands with those of the first, and what it finds there counts for nothing.
        """
        used = [place for place in places if place is not None]
        groups: list[list[int]] = [[] for _ in range(max(used, default=-1) + 1)]
        for row, place in enumerate(places if used else ()):
            groups[used[0] if place is None else place].append(row)
        sizes = [(len(group), len(tokens)) for group, tokens in zip(groups, self.tokens, strict=False)]
        found: list[TrunkPart] = []
        where = [0] * len(places)
        stand = 0
        for run in parts(sizes, EXTRA_TRUNK):
            part = self._part(run, groups[run], max(length for _, length in sizes[run]))
            found.append(part)
            trunks, most = part.members.shape
            for number, group in enumerate(groups[run]):
                for index, row in enumerate(group):
                    where[row] = stand + number * most + index
            stand += trunks * most
        bare = torch.tensor([place is None for place in places], device=self.device)
        return Shared(
            own,
            found,
            torch.tensor(where, dtype=torch.int64, device=self.device),
            torch.where(bare, -math.inf, 0.0)[:, None, None, None],
        )

    def _part(self, run: slice, groups: Sequence[list[int]], longest: int) -> TrunkPart:
        """The trunks of a run of places, whose rows are `groups`."""
        most = max(map(len, groups))
        members = [group + [0] * (most - len(group)) for group in groups]
        lengths = [len(tokens) or longest for tokens in self.tokens[run]]  # of a free place no matter what
        seen = torch.arange(longest, device=self.device) < torch.tensor(lengths, device=self.device)[:, None]
        return TrunkPart(
            [None if pair is None else (pair[0][run, :, :longest], pair[1][run, :, :longest]) for pair in self._layers],
            torch.where(seen, 0.0, -math.inf)[:, None, None],
            torch.tensor(members, dtype=torch.int64, device=self.device),
        )

    def _reserve(self, number: int, pair: tuple[Tensor, Tensor]) -> None:
        """Make room for all places and their tokens in a layer; padding is zero, since it must be finite."""
        places, columns = len(self.tokens), max(map(len, self.tokens))
        old = self._layers[number]
        if old is not None and old[0].shape[0] >= places and old[0].shape[2] >= columns:
            return
        if old is not None:
            places, columns = max(places * 3 // 2, old[0].shape[0]), max(columns * 5 // 4, old[0].shape[2])
        grown = [states.new_zeros(places, states.shape[0], columns, states.shape[2]) for states in pair]
        for new, states in zip(grown, old or (), strict=False):
            new[: states.shape[0], :, : states.shape[2]] = states
        self._layers[number] = (grown[0], grown[1])


transformers.AttentionInterface.register(NAME, attend)
transformers.AttentionMaskInterface.register(NAME, sdpa_mask)
