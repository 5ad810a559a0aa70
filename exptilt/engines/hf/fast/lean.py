"""A decoding step of models that are shaped like Llama, in few calls: the numbers of transformers' modules without the modules.

One token for each of a few rows is so little work for a small model that the calls around the products take longer than these:
norms in six steps, rotations in ten, modules that hand on their arguments. Here a layer is a dozen calls beside its products.
Prefixes and scores are read by transformers as ever, and the trial (`exptilt.engines.hf.trial`) compares the steps with that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from exptilt.engines.hf.fast.attention import Shared, attend_shared
from exptilt.engines.hf.fast.linear import PackedLinear, round_up
from exptilt.engines.hf.fast.private import hooked, llama_kinds, product

Product = Callable[[Tensor], Tensor]
Write = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Takes keys and values [rows, heads, 1, size] of new tokens; returns those of all columns (`slots.Slots`)."""


@dataclass(frozen=True)
class _Norm:
    """A root mean square norm: its weight and what is added to the variance."""

    weight: Tensor
    epsilon: float

    def __call__(self, states: Tensor) -> Tensor:
        return functional.rms_norm(states, self.weight.shape, self.weight, self.epsilon)


@dataclass(frozen=True)
class _Layer:
    """The norms and products of a layer, by transformers' names."""

    before: _Norm
    query: Product
    key: Product
    value: Product
    output: Product
    after: _Norm
    gate: Product
    up: Product
    down: Product
    size: int  # of a head


class LeanStep:
    """The step of one model. rotation: cosines and sines of positions, as transformers' module computes them."""

    def __init__(self, model: Any) -> None:
        inner = model.model
        self.embedding: Tensor = inner.embed_tokens.weight
        self.rotation = inner.rotary_emb
        self.layers = [_layer(layer) for layer in inner.layers]
        self.scaling: float = inner.layers[0].self_attn.scaling
        self.norm, self.head = _norm(inner.norm), _product(model.lm_head)

    def __call__(self, ids: Tensor, positions: Tensor, hidden: Tensor, shared: Shared, writes: Sequence[Write]) -> Tensor:
        """Logits [rows, vocabulary] of the tokens after these.

        ids, positions: int64 [rows, 1].
        hidden: float32 [rows, 1, 1, columns], added to the scores of the rows' own columns.
        shared: what the rows share.
        writes: of each layer.
        """
        rows = len(ids)
        padded = functional.pad(ids[:, 0], (0, round_up(rows) - rows))  # once, where each product would pad
        states = functional.embedding(padded, self.embedding)
        cosine, sine = self.rotation(states[:rows, None], positions)
        half = sine.shape[-1] // 2
        turn = cosine, torch.cat([-sine[..., :half], sine[..., half:]], -1)
        scaled = [each * self.scaling for each in turn]  # the scaling of scores, done once for all layers
        for number, (layer, write) in enumerate(zip(self.layers, writes, strict=True)):
            normed = layer.before(states)
            query, key, value = (each(normed)[:rows].view(rows, -1, layer.size) for each in (layer.query, layer.key, layer.value))
            keys, values = write(_turned(key, *turn).unsqueeze(2), value.unsqueeze(2))
            mixed = attend_shared(_turned(query, *scaled), keys, values, hidden, shared, number)
            states += layer.output(functional.pad(mixed.reshape(rows, -1), (0, 0, 0, len(states) - rows)))
            normed = layer.after(states)
            states += layer.down(functional.silu(layer.gate(normed), inplace=True).mul_(layer.up(normed)))
        return self.head(self.norm(states))[:rows]


def lean_step(model: Any) -> LeanStep | None:
    """The step of a model all of whose modules are what a Llama-shaped model of transformers has, with no hooks; else None."""
    kinds = {nn.Linear, PackedLinear, nn.Embedding, nn.ModuleList, *llama_kinds(model)}
    plain = all(type(module) in kinds and not hooked(module) for module in model.modules())
    return LeanStep(model) if plain else None


def _turned(states: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """States [rows, heads, size] turned by their positions. cosine, sine: [rows, 1, size], the first half of sine negative."""
    return torch.addcmul(states * cosine, states.roll(states.shape[-1] // 2, -1), sine)


def _layer(layer: Any) -> _Layer:
    attention, feed = layer.self_attn, layer.mlp
    return _Layer(
        before=_norm(layer.input_layernorm),
        query=_product(attention.q_proj),
        key=_product(attention.k_proj),
        value=_product(attention.v_proj),
        output=_product(attention.o_proj),
        after=_norm(layer.post_attention_layernorm),
        gate=_product(feed.gate_proj),
        up=_product(feed.up_proj),
        down=_product(feed.down_proj),
        size=attention.head_dim,
    )


def _norm(module: Any) -> _Norm:
    return _Norm(module.weight, module.variance_epsilon)


def _product(linear: nn.Linear | PackedLinear) -> Product:
    if isinstance(linear, PackedLinear):
        return lambda states: product(states, linear.packed, linear.bias)
    return lambda states: functional.linear(states, linear.weight, linear.bias)
