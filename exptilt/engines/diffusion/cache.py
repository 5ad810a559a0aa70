"""Keys and values of a response, kept while one block of it is decided: the block caches of Fast-dLLM (2505.22618).

A network that reads in both directions has no exact cache: every decision changes the keys and values of all positions.
But those outside the block under way change little, so they may be kept as they were when the block began. The first
step of a block evaluates the whole response and writes the keys and values of all layers on a `Tape`; later steps feed
the block alone, and its queries look at the kept keys and values with the block's fresh ones behind them.

This goes through transformers' attention interface: an attention function of our own, chosen in the model's configuration
once, that does what "sdpa" does unless it is handed a tape. Positions are told to the model with the tokens, so that
rotary and learned position embeddings are those of the positions in the whole response.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from exptilt.errors import ModelError

NAME = "exptilt_blocks"  # of the attention function, in a model's configuration


class Tape:
    """What passes between the attention layers of one evaluation and the cache, layer after layer.

    Without `kept` it is written: `written` holds keys and values of each layer, [rows, heads, length, width]. With it, it
    is read: [layers, 2, rows, heads, kept + fed, width], the last `fed` positions open for the fresh ones, and `visible`,
    bool [rows, 1, 1, kept + fed], says which positions there are; None where all are.
    """

    def __init__(self, kept: Tensor | None = None, visible: Tensor | None = None) -> None:
        self.kept = kept
        self.visible = visible
        self.written: list[tuple[Tensor, Tensor]] = []
        self.layer = 0

    def join(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The keys and values that the next layer looks at."""
        if self.kept is None:
            self.written.append((key, value))
            return key, value
        layer, self.layer = self.kept[self.layer], self.layer + 1
        layer[0, :, :, -key.shape[2] :] = key
        layer[1, :, :, -value.shape[2] :] = value
        return layer[0], layer[1]

    def parts(self, row: int, positions: Tensor) -> Tensor:
        """The written keys and values of one row at the given positions: [layers, 2, heads, positions, width]."""
        if not self.written:
            raise ModelError("its attention layers do not call the attention function that was chosen for them")
        return torch.stack([torch.stack([key[row][:, positions], value[row][:, positions]]) for key, value in self.written])


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    tape: Tape | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """transformers' "sdpa", with keys and values written to the tape or joined with those on it."""
    if tape is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **more)
    if more.get("sliding_window") is not None:
        raise ModelError(f"layers that look only {more['sliding_window']} positions far would need a cache of their own")
    key, value = tape.join(key, value)
    mask = attention_mask if tape.kept is None else tape.visible
    return sdpa_attention_forward(module, query, key, value, mask, **more)


def joined(kept: Sequence[Tensor], fed: Tensor) -> Tape:
    """A tape for rows with these keys and values, each [layers, 2, heads, positions, width], shorter ones padded.

    fed: bool [rows, longest], which of the positions fed exist.
    """
    layers, pair, heads, _, width = kept[0].shape
    longest = max(part.shape[3] for part in kept)
    room = kept[0].new_zeros(layers, pair, len(kept), heads, longest + fed.shape[1], width)
    for row, part in enumerate(kept):
        room[:, :, row, :, : part.shape[3]] = part
    lengths = torch.tensor([part.shape[3] for part in kept], device=fed.device)
    visible = torch.cat([torch.arange(longest, device=fed.device) < lengths[:, None], fed], dim=1)
    return Tape(room, None if bool(visible.all()) else visible[:, None, None])


def prepare(model: Any) -> str | None:
    """Have the model attend by `attend`. Returns why that is not possible, or None."""
    taken = inspect.signature(model.forward).parameters
    choose = getattr(model, "set_attn_implementation", None)
    if choose is None or not getattr(model, "_supports_attention_backend", False):
        return "its code does not use transformers' attention interface"
    if "position_ids" not in taken or not any(one.kind is one.VAR_KEYWORD for one in taken.values()):
        return "its forward takes no position ids, or passes no further arguments to its attention layers"
    if (now := model.config._attn_implementation) not in ("sdpa", NAME):
        return f'it attends by "{now}", and block caches are built on "sdpa"'
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    choose(NAME)
    return None
