"""Matrix products by oneDNN, with the weights laid out for it once.

On x86 processors torch hands float32 products to MKL, which is slow on those of other makers, and lets oneDNN lay out
bfloat16 weights anew at every product. With weights laid out beforehand one core of an AMD EPYC does 80 to 127 GFLOP/s
instead of 35 to 45 at the shapes of a 135M model with 64 rows (docs/log/speed.md, 2026-11-22).
"""

from __future__ import annotations

import platform

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
        flat = states.reshape(-1, states.shape[-1])
        rows = len(flat)
        missing = round_up(rows) - rows
        padded = functional.pad(flat, (0, 0, 0, missing)) if missing else flat
        products = product(padded, self.packed, self.bias)
        return products[:rows].view(*states.shape[:-1], -1)


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
