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

DTYPES = (torch.float32, torch.bfloat16)


class PackedLinear(nn.Module):
    """`nn.Linear` for inference."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self.bias = linear.bias

    def forward(self, states: Tensor) -> Tensor:
        flat = states.reshape(-1, states.shape[-1])
        rows = len(flat)
        missing = round_up(rows) - rows
        padded = functional.pad(flat, (0, 0, 0, missing)) if missing else flat
        products = torch.ops.mkldnn._linear_pointwise(padded, self.packed, self.bias, "none", [], "")
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

    Their dense weights are given up, unless something else holds them (an embedding that shares them, say).
    """
    if platform.machine().lower() not in ("x86_64", "amd64") or not torch.backends.mkldnn.is_available():
        return
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and child.weight.device.type == "cpu" and child.weight.dtype in DTYPES:
                setattr(parent, name, PackedLinear(child))
