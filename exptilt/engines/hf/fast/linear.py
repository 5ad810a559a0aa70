"""Matrix products by oneDNN, with the weights laid out for it once.

On x86 processors torch hands float32 products to MKL, which is slow on those of other makers, and lets oneDNN lay out
bfloat16 weights anew at every product. With weights laid out beforehand one core of an AMD EPYC does 80 to 127 GFLOP/s
instead of 35 to 45 at the shapes of a 135M model with 64 rows (docs/log/speed.md, 2026-11-22).
"""

from __future__ import annotations

import platform
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from exptilt.engines.hf.fast.private import hooked, packed, packs, product

DTYPES = (torch.float32, torch.bfloat16)


class PackedLinear(nn.Module):
    """`nn.Linear` for inference. read: whether somebody has read the weight itself, which is made anew each time."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.packed = packed(linear.weight.detach())
        self.bias = linear.bias
        self.read = False

    @property
    def weight(self) -> Tensor:
        """The weight [out, in] as it was: a copy, for code around this layer that reads it (an adapter, say)."""
        self.read = True
        return self.packed.to_dense()

    def __deepcopy__(self, memo: object) -> PackedLinear:
        return self  # nothing in it changes, and the packed weight has no storage that could be copied

    def forward(self, states: Tensor) -> Tensor:
        return multiplied(states, self.packed, self.bias)


class Joint:
    """The product of several packed layers that read the same states, as one: their outputs side by side.

    It takes the place of the layers' own weights, so nothing is held twice.
    """

    def __init__(self, linears: Sequence[PackedLinear]) -> None:
        self.sizes = [linear.out_features for linear in linears]
        self.packed = packed(torch.cat([linear.packed.to_dense() for linear in linears]))
        biases: list[Tensor] = [linear.bias for linear in linears if linear.bias is not None]
        self.bias = torch.cat(biases) if biases else None
        self._kept: tuple[Tensor, dict[int, Tensor]] | None = None  # states, and the outputs for them that were not taken yet

    def take(self, number: int, states: Tensor) -> Tensor:
        """The output of one of the layers; the first that is asked for computes all, for the very same states."""
        kept = self._kept  # looked at once: another thread may call the model as well
        output = kept[1].pop(number, None) if kept is not None and kept[0] is states else None
        if kept is None or output is None:
            outputs = multiplied(states, self.packed, self.bias).split(self.sizes, -1)
            kept = states, dict(enumerate(outputs))
            output = kept[1].pop(number)
        self._kept = kept if kept[1] else None
        return output


class PartLinear(nn.Module):
    """One of the layers of a `Joint`, for code that calls them one by one."""

    def __init__(self, joint: Joint, number: int, in_features: int) -> None:
        super().__init__()
        self.joint, self.number = joint, number
        self.in_features, self.out_features = in_features, joint.sizes[number]

    @property
    def weight(self) -> Tensor:
        """The weight [out, in] as it was: a copy."""
        return self.joint.packed.to_dense().split(self.joint.sizes)[self.number].clone()

    @property
    def bias(self) -> Tensor | None:
        return None if self.joint.bias is None else self.joint.bias.split(self.joint.sizes)[self.number]

    def __deepcopy__(self, memo: object) -> PartLinear:
        return self  # as of `PackedLinear`

    def forward(self, states: Tensor) -> Tensor:
        return self.joint.take(self.number, states)


@torch.inference_mode()
def join(module: nn.Module, names: Sequence[str]) -> None:
    """Make one product of packed layers of a module that read the same states, in place; other layers stay as they are."""
    linears = [getattr(module, name) for name in names]
    if all(isinstance(linear, PackedLinear) for linear in linears) and len({linear.bias is None for linear in linears}) == 1:
        joint = Joint(linears)
        for number, (name, linear) in enumerate(zip(names, linears, strict=True)):
            setattr(module, name, PartLinear(joint, number, linear.in_features))


def multiplied(states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """States [..., in] times a packed weight, plus bias, in a number of rows that comes again."""
    flat = states.reshape(-1, states.shape[-1])
    rows = len(flat)
    missing = round_up(rows) - rows
    padded = functional.pad(flat, (0, 0, 0, missing)) if missing else flat
    return product(padded, weight, bias)[:rows].view(*states.shape[:-1], -1)


def round_up(rows: int) -> int:
    """The number of rows to compute for so many, an eighth more at most: oneDNN compiles and keeps a product for each number.

    Compiling takes 0.6 ms and 0.6 MB for each shape of the tiny model, and the rows in flight change with every step.
    """
    step = max(4, (1 << rows.bit_length()) // 16)
    return -(-rows // step) * step


@torch.inference_mode()
def pack(model: nn.Module) -> None:
    """Lay out the linear layers of a model anew, in place, where that makes them faster.

    Their dense weights are given up, unless something else holds them (an embedding that shares them, or a caller's model).
    """
    if platform.machine().lower() not in ("x86_64", "amd64") or not packs():
        return
    for parent, name, child in _children(model):
        if type(child) is nn.Linear and _plain(child):
            setattr(parent, name, PackedLinear(child))


def unpack_read(model: nn.Module) -> None:
    """Give layers whose weight was read their dense form back: making it anew at every step would be slower than no packing."""
    for parent, name, child in _children(model):
        if isinstance(child, PackedLinear) and child.read:
            setattr(parent, name, _dense(child))


def _dense(layer: PackedLinear) -> nn.Linear:
    linear = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
    linear.weight = nn.Parameter(layer.weight, requires_grad=False)
    linear.bias = layer.bias
    return linear


def _children(model: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    """All modules below a model, each with its parent and its name there."""
    return [(parent, name, child) for parent in model.modules() for name, child in parent.named_children()]


def _plain(linear: nn.Linear) -> bool:
    """Whether a layer is a weight on the CPU and nothing else: hooks and forward functions of its own would be lost."""
    weight = linear.weight
    return not hooked(linear) and type(weight) is nn.Parameter and weight.device.type == "cpu" and weight.dtype in DTYPES
