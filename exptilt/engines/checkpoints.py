"""Checkpoints of transformers, as engines and reward models read them: dtype, device, silence, errors in words, digests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any

import torch
import transformers

from exptilt.errors import ModelError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DIGEST_VALUES = 64  # values of each tensor that go into the digest of the weights


def dtype_named(name: str) -> torch.dtype:
    """The dtype that a user calls "float32", "bfloat16" or "float16"."""
    if name not in DTYPES:
        raise ValueError(f"dtype={name!r} is unknown: give one of {', '.join(DTYPES)}")
    return DTYPES[name]


def device_or_default(device: str | None) -> str:
    """The device asked for, else CUDA where there is one, else the CPU."""
    return device or ("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def reading(name: str, kind: str = "a causal language model") -> Iterator[None]:
    """Read files of transformers without progress bars and notices, and turn whatever it raises into one ModelError.

    name: what the user calls the model. kind: what it must be.
    """
    try:
        with _quiet():
            yield
    except ImportError as error:
        raise ModelError(
            f"{name} needs a package that is missing ({error}). Install it: pip install 'exptilt[hf,gguf]'"
        ) from error
    except Exception as error:
        reason = " ".join(str(error).split())[:400]
        raise ModelError(
            f"{name} cannot be read by transformers: {type(error).__name__}: {reason} "
            f"Check the name, the files and, for a hub id, the connection; the model must be {kind}."
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    logging_of = transformers.utils.logging
    level, bars = logging_of.get_verbosity(), logging_of.is_progress_bar_enabled()
    logging_of.set_verbosity_error()
    logging_of.disable_progress_bar()
    try:
        yield
    finally:
        logging_of.set_verbosity(level)
        if bars:
            logging_of.enable_progress_bar()


def digest(model: Any) -> str:
    """A digest of a model's configuration and of some values of each tensor: the same wherever the files lie."""
    config = model.config.to_diff_dict()
    shape = sorted((key, value) for key, value in config.items() if key not in ("transformers_version", "dtype"))
    found = blake2b(repr(shape).encode(), digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().reshape(-1)
        some = flat[:: max(1, len(flat) // DIGEST_VALUES)].double().cpu().numpy()
        found.update(f"{name} {tuple(tensor.shape)}".encode() + some.tobytes())
    return found.hexdigest()
