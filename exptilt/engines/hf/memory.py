"""Memory for key-values: how much of it may be used, and that it is paid for as it is used."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from exptilt.engines.scheduler import ROWS_MEMORY

MEMORY = 2**30  # bytes for the key-values of prefixes, on a CPU
FREE_FOR_ROWS, FREE_FOR_PREFIXES = 0.6, 0.15  # shares of what a card has free once the model is there


def budgets(device: torch.device, rows: int | None, prefixes: int | None) -> tuple[int, int]:
    """Bytes for the key-values of rows in flight and of prefixes that may come again, those that are not given by the device."""
    usual = (ROWS_MEMORY, MEMORY)
    if device.type == "cuda" and None in (rows, prefixes):
        free, _ = torch.cuda.mem_get_info(device)
        usual = (int(FREE_FOR_ROWS * free), int(FREE_FOR_PREFIXES * free))
    return usual[0] if rows is None else rows, usual[1] if prefixes is None else prefixes


def zeros(dtype: torch.dtype, device: torch.device, shape: Sequence[int]) -> Tensor:
    """Zeros on a device.

    On a CPU the system hands out pages when they are first written to; torch would write zeros to all of them at once.
    """
    if device.type != "cpu" or 0 in shape:
        return torch.zeros(*shape, dtype=dtype, device=device)
    raw = np.zeros(math.prod(shape) * dtype.itemsize, dtype=np.uint8)
    return torch.from_numpy(raw).view(dtype).view(*shape)
