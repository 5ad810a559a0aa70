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

from exptilt.engines.hf.prefixes import KeyValues

NAME = "exptilt_trunks"  # under which transformers knows `attend`
LEAST_TRUNK = 16  # tokens from which a beginning is worth a trunk


@dataclass(frozen=True)
class Shared:
    """What `attend` must know of the trunks in one step.

    layers: per layer keys and values [trunks, heads, tokens, size], padded at the end. hidden: float32 [trunks, 1, 1,
    tokens], -inf at the padding, to be added to scores. members: int64 [trunks, most], the rows of each trunk, padded with
    row 0. places: int64 [rows], where each row stands in members.flatten(). bare: float32 [rows, 1, 1, 1], -inf for rows
    without a trunk, else 0.
    """

    layers: Sequence[tuple[Tensor, Tensor] | None]
    hidden: Tensor
    members: Tensor
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
    scores = (queries @ key.transpose(-1, -2)).float().add_(attention_mask)
    most = scores.amax(-1, keepdim=True)
    trunk = shared.layers[module.layer_idx] if len(shared.members) else None
    if trunk is None:
        weights = scores.sub_(most).exp_()
        mixed, total = weights.to(value.dtype) @ value, weights.sum(-1, keepdim=True)
    else:
        over, over_total, over_most = _over_trunks(queries, trunk, shared).split([size, 1, 1], -1)
        over_most = over_most + shared.bare
        most = torch.maximum(most, over_most)
        weights, share = scores.sub_(most).exp_(), (over_most - most).exp_()
        mixed = (weights.to(value.dtype) @ value).float().add_(over * share)
        total = weights.sum(-1, keepdim=True).add_(over_total * share)
    return (mixed / total).to(query.dtype).view(rows, 1, heads, size), None


def _over_trunks(queries: Tensor, trunk: tuple[Tensor, Tensor], shared: Shared) -> Tensor:
    """Of each row [rows, key heads, group, size] over its trunk: weighted values, total weight and greatest score.

    float32 [rows, key heads, group, size + 2]; the weights are relative to the greatest score.
    """
    _, kept, group, size = queries.shape
    trunks = len(shared.members)
    gathered = queries[shared.members].transpose(1, 2).reshape(trunks, kept, -1, size)
    scores = (gathered @ trunk[0].transpose(-1, -2)).float().add_(shared.hidden)
    most = scores.amax(-1, keepdim=True)
    weights = scores.sub_(most).exp_()
    values = (weights.to(queries.dtype) @ trunk[1]).float()
    found = torch.cat([values, weights.sum(-1, keepdim=True), most], -1)
    return found.view(trunks, kept, -1, group, size + 2).transpose(1, 2).flatten(0, 1)[shared.places]


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

    def shared(self, places: Sequence[int | None]) -> Shared:
        """What `attend` needs of rows at these places.

        Free places among those in use take part without rows: leaving them out would mean copying the others. A row
        without a trunk stands with those of the first, and what it finds there counts for nothing.
        """
        used = [place for place in places if place is not None]
        groups: list[list[int]] = [[] for _ in range(max(used, default=-1) + 1)]
        where = []
        for row, place in enumerate(places if used else ()):
            where.append((place or 0, len(groups[place or 0])))
            groups[place or 0].append(row)
        most = max(map(len, groups), default=0)
        members = [group + [0] * (most - len(group)) for group in groups]
        lengths = [len(tokens) for tokens in self.tokens[: len(groups)]]
        longest = max(lengths, default=0)
        columns = torch.arange(longest, device=self.device)
        seen = columns < torch.tensor([length or longest for length in lengths], device=self.device)[:, None]  # free: any
        bare = torch.tensor([place is None for place in places], device=self.device)
        count = len(groups)
        layers = [None if pair is None else (pair[0][:count, :, :longest], pair[1][:count, :, :longest]) for pair in self._layers]
        return Shared(
            layers,
            torch.where(seen, 0.0, -math.inf)[:, None, None],
            torch.tensor(members, dtype=torch.int64, device=self.device),
            torch.tensor([number * most + index for number, index in where], dtype=torch.int64, device=self.device),
            torch.where(bare, -math.inf, 0.0)[:, None, None, None],
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
