"""Checkpoints of transformers, as engines and reward models read them: dtype, device, no progress bars, plain errors, digests."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any

import torch
import transformers

from exptilt.errors import ModelError, install

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CAUSAL = "a causal language model"
BUFFERS = re.compile(r"(attn|attention)\.(masked_)?bias$|inv_freq$|position_ids$")  # old files have it, and it is not a weight
DIGEST_VALUES = 64  # as many values of each tensor go into the digest of the weights


def dtype_named(name: str) -> torch.dtype:
    """The dtype that a user calls "float32", "bfloat16" or "float16"."""
    if name not in DTYPES:
        raise ValueError(f"dtype={name!r} is unknown: give one of {', '.join(DTYPES)}")
    return DTYPES[name]


def dtype_name(model: Any) -> str:
    """What a user calls the dtype of a model."""
    return str(model.dtype).removeprefix("torch.")


def device_or_default(device: str | None) -> str:
    """The device asked for, else CUDA where there is one, else the CPU."""
    return device or ("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def reading(name: str, kind: str = CAUSAL) -> Iterator[None]:
    """Read files of transformers without progress bars and notices, and turn whatever it raises into one ModelError.

    name: what the user calls the model.
    kind: what it must be.
    """
    try:
        with _quiet():
            yield
    except ImportError as error:
        raise ModelError(f"{name} needs a package that is missing ({error}). Install it: {install('hf,gguf')}") from error
    except Exception as error:
        reason = " ".join(str(error).split())[:400]
        if "trust_remote_code" in str(error) and "trust_remote_code" not in kind:
            raise ModelError(
                f"{name} comes with Python code of its own, which is not run here: give a model of a kind that "
                "transformers knows, or put a server before it"
            ) from error
        raise ModelError(
            f"{name} cannot be read by transformers: {type(error).__name__}: {reason} "
            f"Check the name, the files and, for a hub id, the connection; the model must be {kind}."
        ) from error


def read_whole(kind: Any, source: Any, name: str, words: str, *, device: str, spare: bool = False, **options: Any) -> Any:
    """The model that `kind.from_pretrained` reads from a hub id or a folder, with every weight from there and none left over.

    transformers draws missing weights at random, a whole output layer for instance, and ignores unknown ones, with a
    log line at most.
    words: what the model must be.
    spare: whether weights may be left over, as those of another head beside the one wanted.
    Raises ModelError.
    """
    with reading(name, words):  # transformers asks on the terminal whether it may run a model's own code, unless it is told
        model, report = kind.from_pretrained(source, output_loading_info=True, **{"trust_remote_code": False, **options})
    missing = sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])})
    buffers = {key for key, _ in model.named_buffers()}
    unknown = sorted(key for key in report["unexpected_keys"] if key not in buffers and not BUFFERS.search(key))
    saved = " and ".join(model.config.architectures or ["something else"])
    if missing:
        raise ModelError(
            f"{name} has no weights for {_some(missing)}, which {type(model).__name__} needs and which would be drawn at random. "
            f"Its files were saved as {saved}: give a model that was saved with all its weights."
        )
    if unknown and not spare:
        raise ModelError(
            f"{name} has weights that {type(model).__name__} does not know: {_some(unknown)}. Its files were saved as {saved}, "
            f"and without these it may be another model. If they do not matter, read it with {kind.__name__} and save it anew."
        )
    with reading(name, words):
        return model.to(device)


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")


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
    return tensors_digest(shape, model.state_dict())


def tensors_digest(shape: Any, tensors: Mapping[str, Any]) -> str:
    """A digest of what fixes a network's shape, as it prints itself, and of some values of each tensor."""
    found = blake2b(repr(shape).encode(), digest_size=16)
    for name, tensor in sorted(tensors.items()):
        flat = tensor.detach().reshape(-1)
        some = flat[:: max(1, len(flat) // DIGEST_VALUES)].double().cpu().numpy()
        found.update(f"{name} {tuple(tensor.shape)}".encode() + some.tobytes())
    return found.hexdigest()
