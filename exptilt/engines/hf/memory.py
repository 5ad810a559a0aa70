"""Memory for key-values that is paid for as it is used."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def zeros(like: Tensor, shape: Sequence[int]) -> Tensor:
    """Zeros of a tensor's type and device.

    On a CPU the system hands out pages when they are first written to; torch would write zeros to all of them at once.
    """
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    raw = np.zeros(math.prod(shape) * like.dtype.itemsize, dtype=np.uint8)
    return torch.from_numpy(raw).view(like.dtype).view(*shape)
