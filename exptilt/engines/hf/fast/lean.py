"""A decoding step of models that are shaped like Llama, in few calls: the numbers of transformers' modules without the modules.

One token for each of a few rows is so little work for a small model that the calls around the products take longer than these:
each finds its code and its states gone from the caches, through which a layer's weights have just passed. Here queries, keys and
values are one product, and so are the two of the feed-forward part; what is left of a layer is some thirty calls. Prefixes and
scores are read by transformers as ever, and the trial (`exptilt.engines.hf.trial`) compares the steps with that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from exptilt.engines.hf.fast.attention import Place, Shared, attend_shared
from exptilt.engines.hf.fast.linear import PackedLinear, PartLinear, join, round_up
from exptilt.engines.hf.fast.private import hooked, llama_kinds, product

Product = Callable[[Tensor], Tensor]
READERS = ("q_proj", "k_proj", "v_proj")
GATES = ("gate_proj", "up_proj")


class _Norm:
    """A root mean square norm."""

    def __init__(self, module: Any) -> None:
        self.weight: Tensor = module.weight
        self.epsilon: float = module.variance_epsilon
        root = math.sqrt(len(self.weight))  # the root of the mean of n squares is that of their sum over √n
        self.least = torch.tensor(math.sqrt(self.epsilon) * root, device=self.weight.device)
        self.scaled = self.weight * root

    def __call__(self, states: Tensor) -> Tensor:
        if states.dtype != torch.float32:  # which is made float32 in between
            return functional.rms_norm(states, self.weight.shape, self.weight, self.epsilon)
        length = torch.linalg.vector_norm(states, dim=-1, keepdim=True)
        return (states / torch.hypot(length, self.least)).mul_(self.scaled)


@dataclass(frozen=True)
class _Layer:
    """The norms and products of a layer. read: queries, keys and values side by side; gates: what is gated after its gate."""

    before: _Norm
    read: Product
    output: Product
    after: _Norm
    gates: Product
    down: Product


class LeanStep:
    """The step of one model. rotation: cosines and sines of positions, as transformers' module computes them."""

    def __init__(self, model: Any) -> None:
        inner = model.model
        self.embedding: Tensor = inner.embed_tokens.weight
        self.rotation = inner.rotary_emb
        self.layers = [_layer(layer) for layer in inner.layers]
        attention = inner.layers[0].self_attn
        self.size: int = attention.head_dim
        self.heads, self.kept = (getattr(attention, name).out_features // self.size for name in ("q_proj", "k_proj"))
        ones = torch.ones(self.heads + self.kept, 1, device=self.embedding.device)
        ones[: self.heads] = attention.scaling  # of scores: queries take it on as they are turned
        self.scales = ones.to(self.embedding.dtype)
        self.norm, self.head = _Norm(inner.norm), _product(model.lm_head)

    def __call__(self, ids: Tensor, positions: Tensor, hidden: Tensor, shared: Shared, places: Sequence[Place]) -> Tensor:
        """Logits [rows, vocabulary] of the tokens after these.

        ids, positions: int64 [rows, 1].
        hidden: float32 [rows, 1, 1, columns], added to the scores of the rows' own columns.
        shared: what the rows share.
        places: of the keys and values of each layer.
        """
        rows = len(ids)
        missing = round_up(rows) - rows
        padded = functional.pad(ids[:, 0], (0, missing))  # once, where each product would pad
        states = functional.embedding(padded, self.embedding)
        cosine, sine = (each * self.scales for each in self.rotation(states[:rows, None], positions))
        sine[..., : self.size // 2].neg_()
        turned = self.heads + self.kept
        for number, (layer, place) in enumerate(zip(self.layers, places, strict=True)):
            found = layer.read(layer.before(states))[:rows].view(rows, -1, self.size)
            both = _turned(found[:, :turned], cosine, sine)  # queries and keys
            place.new_keys.copy_(both[:, self.heads :].unsqueeze(2))
            place.new_values.copy_(found[:, turned:].unsqueeze(2))
            mixed = attend_shared(both[:, : self.heads], place.keys, place.values, hidden, shared, number).view(rows, -1)
            states += layer.output(functional.pad(mixed, (0, 0, 0, missing)) if missing else mixed)
            gate, up = layer.gates(layer.after(states)).chunk(2, -1)
            states += layer.down(functional.silu(gate).mul_(up))
        return self.head(self.norm(states))[:rows]


def lean_step(model: Any) -> LeanStep | None:
    """The step of a model all of whose modules are what a Llama-shaped model of transformers has, with no hooks; else None.

    Its packed layers that read the same states are joined, in place.
    """
    kinds = {nn.Linear, PackedLinear, PartLinear, nn.Embedding, nn.ModuleList, *llama_kinds(model)}
    plain = all(type(module) in kinds and not hooked(module) for module in model.modules())
    return LeanStep(model) if plain else None


def _turned(states: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """States [rows, heads, size] turned by their positions. cosine, sine: of their shape, the first half of sine negative."""
    return torch.addcmul(states * cosine, states.roll(states.shape[-1] // 2, -1), sine)


def _layer(layer: Any) -> _Layer:
    attention, feed = layer.self_attn, layer.mlp
    return _Layer(
        before=_Norm(layer.input_layernorm),
        read=_joined(attention, READERS),
        output=_product(attention.o_proj),
        after=_Norm(layer.post_attention_layernorm),
        gates=_joined(feed, GATES),
        down=_product(feed.down_proj),
    )


def _joined(module: Any, names: Sequence[str]) -> Product:
    """The outputs of several layers side by side."""
    join(module, names)
    linears = [getattr(module, name) for name in names]
    if isinstance(linears[0], PartLinear):
        joint = linears[0].joint
        return lambda states: product(states, joint.packed, joint.bias)
    products = [_product(linear) for linear in linears]
    return lambda states: torch.cat([each(states) for each in products], -1)


def _product(linear: nn.Linear | PackedLinear) -> Product:
    if isinstance(linear, PackedLinear):
        return lambda states: product(states, linear.packed, linear.bias)
    return lambda states: functional.linear(states, linear.weight, linear.bias)
