"""What makes a model faster without changing what it computes, all behind one switch (`load(..., fast=False)`).

linear.py lays weights out for the processor's matrix products. trunks.py stores the prefixes that several rows share, and
attention.py reads each once for all of them. parts.py splits rows of different size before they are padded. private.py
holds the names of torch and transformers that these rely on and that a release may remove.
"""

from __future__ import annotations

import logging
import os
from typing import Any

from exptilt.engines.hf.fast.linear import pack, unpack_read
from exptilt.engines.hf.fast.private import untested

SWITCH = "EXPTILT_FAST"  # an environment variable: 0 switches off what is not switched off already

logger = logging.getLogger("exptilt")


def wanted(fast: bool) -> bool:
    """Whether the fast paths are on: asked for, not switched off by the environment, and known to fit what is installed."""
    if not fast or os.environ.get(SWITCH) == "0":
        return False
    reason = untested()
    if reason is not None:
        logger.warning("the fast paths are switched off: %s", reason)
    return reason is None


def prepare(model: Any) -> None:
    """Lay out a model's weights anew, in place: the model must be nobody else's."""
    pack(model)


def settle(model: Any) -> None:
    """Take back what a trial of the model has shown not to be worth it, in place."""
    unpack_read(model)
