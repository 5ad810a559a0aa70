"""Attention of rows that decode, over prefixes that several of them share: read once for all rows, not once for each.

A row's keys are in several tensors: *trunks* (`trunks.Trunks`), prefixes it shares with other rows, and columns of its
own. Products over a trunk are matrix by matrix, where ordinary decoding has matrix by vector for each row: that, and not reading
the trunk again for each row, is the gain; grouped heads are multiplied without a copy of the keys for each query head.

Where rows and trunks are about alike, the scores of a row stand side by side and have one softmax (`Tier`): that is few calls,
which take longer than their sums where rows are few. Otherwise the weighted values and their total are computed for each run of
rows and each part of the trunks, and then combined, so that little is padded. Both are ordinary attention, up to rounding.

transformers calls `attend` instead of its own attention, and everything else of a model is left to transformers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from exptilt.engines.hf.fast.private import ordinary_attention, register
from exptilt.errors import ModelError

NAME = "exptilt_trunks"  # transformers knows `attend` by this name
CHANGES = frozenset({"position_bias", "softcap", "s_aux"})  # these options of attention change its values
LOG2E = math.log2(math.e)  # weights are exp2(LOG2E score): 3 to 20 times as fast as MKL's exp (docs/log/speed.md)


@dataclass(frozen=True)
class TrunkPart:
    """Trunks side by side that have about as many rows and tokens each.

    layers: per layer keys and values [trunks, heads, tokens, size], padded at the end.
    hidden: float32 [trunks, 1, 1, tokens], -inf at the padding, to be added to scores.
    members: int64 [trunks, most], the rows of each trunk, padded with row 0.
    """

    layers: Sequence[tuple[Tensor, Tensor]]
    hidden: Tensor
    members: Tensor


@dataclass(frozen=True)
class Tier:
    """The first trunk of every row, or the second, where these are about alike.

    trunks: with their rows at this level.
    stands: int64 [rows], where each row stands among their members.
    bare: bool [rows, 1, 1, 1], the rows without such a trunk, which stand anywhere; None where every row has one.
    alone: whether it is one trunk, whose members are all rows in their order.
    """

    trunks: TrunkPart
    stands: Tensor
    bare: Tensor | None
    alone: bool

    def gathered(self, states: Tensor) -> Tensor:
        """What the rows have [rows, key heads, group, n], by trunk and key head: [trunks · key heads, most · group, n]."""
        _, kept, group, width = states.shape
        if self.alone:
            return states.transpose(0, 1).reshape(kept, -1, width)
        of_members = states[self.trunks.members].transpose(1, 2)
        return of_members.reshape(-1, of_members.shape[2] * group, width)

    def scattered(self, found: Tensor, kept: int, group: int, without: float) -> Tensor:
        """The way back: [rows, key heads, group, n]. without: what rows without such a trunk get."""
        if self.alone:
            return found.view(kept, -1, group, found.shape[-1]).transpose(0, 1)
        trunks, most = self.trunks.members.shape
        of_rows = found.view(trunks, kept, most, group, -1).transpose(1, 2).flatten(0, 1)[self.stands]
        return of_rows if self.bare is None else of_rows.masked_fill_(self.bare, without)


@dataclass(frozen=True)
class Shared:
    """What `attend` must know of the rows in one step.

    own: runs of rows with about as many columns of their own, and how many of the columns in use none of a run has.
    trunks: the parts of the trunks.
    levels: of each row's first trunk, then of its second: int64 [rows], where the row stands among the members of all parts, and
        float32 [rows, 1, 1, 1], -inf for rows without such a trunk, else 0.
    tiers: the trunks of each level where rows and trunks are about alike, and trunks and levels are not needed; else None.
    even: whether the own columns of all rows begin together, so that none is hidden.
    """

    own: Sequence[tuple[slice, int]]
    trunks: Sequence[TrunkPart]
    levels: Sequence[tuple[Tensor, Tensor]]
    tiers: Sequence[Tier] | None = None
    even: bool = False


class Place(NamedTuple):
    """Where a layer finds the keys and values of the rows' own columns, and writes those of the new ones, the last.

    keys, values: [rows, heads, own columns, size].
    new_keys, new_values: [rows, heads, new columns, size].
    """

    keys: Tensor
    values: Tensor
    new_keys: Tensor
    new_values: Tensor


_rows: ContextVar[Shared | None] = ContextVar("_rows", default=None)  # of the step under way


@contextmanager
def sharing(shared: Shared | None) -> Iterator[None]:
    """Attention within is over what these rows share; None for ordinary attention.

    It is not handed to the model as an argument: many models have layers that drop arguments they do not know.
    """
    token = _rows.set(shared)
    try:
        yield
    finally:
        _rows.reset(token)


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers' interface has it; within `sharing` for one token per row, over trunk and own columns.

    query: [rows, heads, 1, size].
    key, value: [rows, key heads, own columns, size], the values' size one of their own.
    attention_mask: what is added to the scores of own columns, [rows, 1, 1, own columns].
    Returns [rows, 1, heads, size].
    """
    shared = _rows.get()
    if shared is None:
        return ordinary_attention(module, query, key, value, attention_mask, scaling=scaling, **options)
    if attention_mask is None:
        raise ModelError(f"{type(module).__name__} did not receive the attention mask: rows would see each other's padding")
    if not CHANGES.isdisjoint(options) and (unknown := [name for name in CHANGES if options.get(name) is not None]):
        raise ModelError(f"{type(module).__name__} attends with {', '.join(unknown)}, which attention over trunks lacks")
    queries = query[:, :, 0] * (scaling or query.shape[-1] ** -0.5)
    mixed = attend_shared(queries, key, value, attention_mask, shared, module.layer_idx)
    return mixed.unsqueeze(1), None


def attend_shared(query: Tensor, key: Tensor, value: Tensor, hidden: Tensor, shared: Shared, layer: int) -> Tensor:
    """Attention for one token per row, over trunk and own columns: [rows, heads, size of values].

    query: [rows, heads, size], scaled.
    key, value: [rows, key heads, own columns, size], the values' size one of their own.
    hidden: what is added to the scores of own columns, [rows, 1, 1, own columns].
    layer: its number.
    """
    rows, heads, _ = query.shape
    queries = query.reshape(rows, key.shape[1], heads // key.shape[1], -1)
    if shared.tiers is not None:
        mask = None if shared.even else hidden
        return _side_by_side(queries, key, value, mask, shared.tiers, layer).view(rows, heads, -1)
    own = [_weigh(queries[run], key[run, :, skip:], value[run, :, skip:], hidden[run, ..., skip:]) for run, skip in shared.own]
    size = value.shape[-1]
    mixed, total, most = _joined(own).split([size, 1, 1], -1)
    over = _joined([_over_trunks(queries, part, layer) for part in shared.trunks]) if shared.levels else None
    for stands, bare in shared.levels:
        assert over is not None
        over_mixed, over_total, over_most = over[stands].split([size, 1, 1], -1)
        over_most = over_most + bare
        greatest = torch.maximum(most, over_most)
        share, over_share = (most - greatest).exp2_(), (over_most - greatest).exp2_()
        mixed, total = mixed * share + over_mixed * over_share, total * share + over_total * over_share
        most = greatest
    return (mixed / total).to(query.dtype).view(rows, heads, size)


def _side_by_side(
    queries: Tensor, key: Tensor, value: Tensor, hidden: Tensor | None, tiers: Sequence[Tier], layer: int
) -> Tensor:
    """Attention of queries [rows, key heads, group, size] with one softmax over own columns and trunks."""
    rows, kept, group, size = queries.shape
    own = torch.bmm(queries.reshape(-1, group, size), key.flatten(0, 1).transpose(1, 2)).view(rows, kept, group, -1)
    scores, pairs = [own if hidden is None else own + hidden], []
    for tier in tiers:
        pairs.append([states.flatten(0, 1) for states in tier.trunks.layers[layer]])
        over = torch.bmm(tier.gathered(queries), pairs[-1][0].transpose(1, 2))
        if not tier.alone:  # one trunk has no padding
            over = over.view(len(tier.trunks.members), -1, over.shape[-1]) + tier.trunks.hidden[:, 0]
        scores.append(tier.scattered(over, kept, group, -math.inf))
    weights = torch.softmax(torch.cat(scores, -1), -1, dtype=torch.float32).to(value.dtype)
    mine, *others = weights.split([each.shape[-1] for each in scores], -1)
    mixed = torch.bmm(mine.reshape(rows * kept, group, -1), value.flatten(0, 1)).view(rows, kept, group, -1)
    for tier, other, (_, values) in zip(tiers, others, pairs, strict=True):
        mixed = mixed + tier.scattered(torch.bmm(tier.gathered(other), values), kept, group, 0.0)
    return mixed.contiguous()


def _weigh(queries: Tensor, keys: Tensor, values: Tensor, hidden: Tensor) -> Tensor:
    """The attention of queries over columns: the weighted values, the total weight and the greatest score, side by side.

    queries: [n, key heads, m, size].
    keys, values: [n, key heads, columns, size].
    hidden: added to scores.
    Returns float32 [n, key heads, m, size + 2]; the weights are relative to the greatest score, which is in base 2.
    """
    scores = (queries @ keys.transpose(-1, -2)).float()
    torch.add(hidden, scores, alpha=LOG2E, out=scores)
    most = scores.amax(-1, keepdim=True)
    weights = scores.sub_(most).exp2_()
    return torch.cat([(weights.to(values.dtype) @ values).float(), weights.sum(-1, keepdim=True), most], -1)


def _over_trunks(queries: Tensor, part: TrunkPart, layer: int) -> Tensor:
    """The attention of the rows of some trunks over them: float32 [trunks · most, key heads, group, size + 2]."""
    _, kept, group, size = queries.shape
    gathered = queries[part.members].transpose(1, 2).reshape(len(part.members), kept, -1, size)
    found = _weigh(gathered, *part.layers[layer], part.hidden)
    return found.view(len(found), kept, -1, group, found.shape[-1]).transpose(1, 2).flatten(0, 1)


def _joined(pieces: Sequence[Tensor]) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(list(pieces))


register(NAME, attend)
