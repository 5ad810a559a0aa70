"""A causal language model of transformers: read from a hub id, a folder, or a GGUF file, or the one that a caller holds.

transformers reads GGUF, but takes a minute: a file is converted once, to a folder under `$EXPTILT_CACHE` (by default
~/.cache/exptilt), and read from there afterwards.
"""

from __future__ import annotations

import copy
import logging
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from exptilt.engines.checkpoints import CAUSAL, Form, Repository, read_whole, reading, taken
from exptilt.engines.files import file_digest, find_source
from exptilt.engines.hf.adapters import adapted, base_of, is_adapter, merged_copy
from exptilt.engines.hf.backend import Weights
from exptilt.engines.tree import own_tree

logger = logging.getLogger("exptilt")


@dataclass(frozen=True)
class Parts:
    """What a model is put together from, besides its own files.

    tokenizer: another one than that of the files, as an object of transformers, a hub id or a folder.
    adapter: a hub id or a folder of a peft adapter, on top of the model.
    merge: whether an adapter becomes part of the weights (of a copy, where they are a caller's); None where files hold float32,
        since numbers of fewer digits would round what it adds.
    """

    tokenizer: Any = None
    adapter: str | Path | None = None
    merge: bool | None = None


OPTIONS = (Parts, Form, Repository, Weights)  # those of `read_weights` are the parameters of these
OF_HELD = (Parts, Weights)


def read_weights(source: str | Path, *, name: str, **options: Any) -> Weights:
    """Load a model and its tokenizer. source: a hub id, or a folder as `save_pretrained` writes it, or one of a peft adapter.

    options: the fields of `Parts`, `Form` and `Repository`, and max_rows, rows_memory, memory and fast of `Weights`.
    Raises ModelError where the model cannot be found or read.
    """
    parts, form, files = (taken(kind, options) for kind in (Parts, Form, Repository))
    with reading(name):
        adapter = source if is_adapter(source, files) else None
    if adapter is not None and parts.adapter is not None:
        raise ValueError(f"{name} is an adapter already: give the model that both adapt, and one adapter=")
    base, own = (source, files) if adapter is None else base_of(adapter, name, files)
    given = parts.tokenizer if adapter is None or parts.tokenizer is not None else _own_tokenizer(adapter, files)
    with reading(name):
        tokenizer = _tokenizer(base if given is None else given, own if given is None else files)
    model = read_whole(transformers.AutoModelForCausalLM, base, name, CAUSAL, form=form, files=own)
    if adapter is not None:
        model = adapted(model, adapter, name, files, parts.merge, own=True)
    elif parts.adapter is not None:
        above = find_source(str(parts.adapter), name)
        model = adapted(model, above, name, Repository(token=files.token), parts.merge, own=True)
    return Weights(model, tokenizer, name=name, **options, ours=True)


def held_weights(model: Any, *, name: str, **options: Any) -> Weights:
    """A model of a caller, which is left as it is: not a weight of it, its device or its mode changes.

    It is evaluated without dropout, also where the caller trains it. options: the fields of `Parts`, and max_rows, rows_memory,
    memory and fast of `Weights`. Raises ValueError where it lacks a tokenizer or is not a model of transformers.
    """
    check_model(model, name)
    parts = taken(Parts, options)
    if parts.tokenizer is None:
        raise ValueError(f"{name} is a model without its tokenizer: give that too, as load(model, tokenizer=tokenizer)")
    with reading(name):
        tokenizer = _tokenizer(parts.tokenizer, Repository())
    ours = False
    if parts.adapter is not None:
        source = find_source(str(parts.adapter), name)
        model = copy.deepcopy(model) if parts.merge else own_tree(model, name)
        ours = bool(parts.merge)
        model = adapted(model, source, name, Repository(), ours, own=ours)
    elif parts.merge:
        model, ours = merged_copy(model, name), True
    return Weights(model, tokenizer, name=name, **options, ours=ours)


def check_model(model: Any, name: str) -> None:
    """Refuse what is not a model of transformers."""
    if isinstance(model, torch.nn.Module) and getattr(model, "config", None) is not None:
        return
    inside = getattr(model, "module", None) or getattr(model, "model", None)
    within = f" It holds a {type(inside).__name__}, which may be what is meant." if isinstance(inside, torch.nn.Module) else ""
    raise ValueError(f"{name} is {type(model).__name__}, neither the name of a model nor a model of transformers.{within}")


def _tokenizer(given: Any, files: Repository) -> Any:
    """A tokenizer as it is, or read from a hub id or a folder."""
    return transformers.AutoTokenizer.from_pretrained(given, **files.options) if isinstance(given, str | Path) else given


def _own_tokenizer(adapter: str | Path, files: Repository) -> str | Path | None:
    """Where an adapter has a tokenizer: it may have a chat template that the base lacks."""
    has = isinstance(adapter, Path) and (adapter / (files.subfolder or "") / "tokenizer_config.json").is_file()
    return adapter if has else None


def converted(file: Path) -> Path:
    """The folder that a GGUF file was converted to; converts it now where that has not been done."""
    folder = cache_folder() / "gguf" / f"{file.stem}-{file_digest(file)}"
    if folder.is_dir():
        return folder
    logger.warning("converting %s for transformers: this takes about a minute, only once (kept in %s)", file, folder)
    began = time.monotonic()
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=".converting-", dir=folder.parent))
    try:
        with reading(f"gguf:{file}"):
            _convert(file, unfinished)
        try:
            unfinished.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was faster, and its folder is as good
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    logger.warning("converted %s in %.0f seconds", file.name, time.monotonic() - began)
    return folder


def cache_folder() -> Path:
    """Where converted models are kept."""
    return Path(os.environ.get("EXPTILT_CACHE") or Path.home() / ".cache" / "exptilt")


def _convert(file: Path, folder: Path) -> None:
    """Write model and tokenizer as `save_pretrained` does; float32 holds the dequantised numbers exactly."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    # The weights are plain numbers by now; with these left, save_pretrained refuses them as quantised.
    del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
