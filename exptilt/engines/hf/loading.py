"""Read a causal language model of transformers from a hub id, a folder, or a GGUF file.

transformers reads GGUF, but takes a minute: a file is converted once, to a folder under `$EXPTILT_CACHE` (by default
~/.cache/exptilt), and read from there afterwards.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers

from exptilt.engines.checkpoints import CAUSAL, device_or_default, dtype_named, read_whole, reading
from exptilt.engines.files import file_digest
from exptilt.engines.hf.backend import MEMORY, Weights
from exptilt.engines.scheduler import ROWS_MEMORY

logger = logging.getLogger("exptilt")


def read_weights(
    source: str | Path,
    *,
    name: str,
    dtype: str = "float32",
    device: str | None = None,
    max_rows: int | None = None,
    rows_memory: int = ROWS_MEMORY,
    memory: int = MEMORY,
    fast: bool = True,
) -> Weights:
    """Load a model and its tokenizer. source: a hub id, or a folder as `save_pretrained` writes it.

    dtype: "float32", "bfloat16" or "float16".
    device: None takes CUDA where there is one, else the CPU.
    max_rows, rows_memory, memory and fast: as in `Weights`.
    Raises ModelError where the model cannot be found or read.
    """
    kind, where = dtype_named(dtype), device_or_default(device)
    with reading(name):
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=False)  # or it asks on the terminal
    model = read_whole(transformers.AutoModelForCausalLM, source, name, CAUSAL, device=where, dtype=kind)
    return Weights(model, tokenizer, name=name, max_rows=max_rows, rows_memory=rows_memory, memory=memory, fast=fast, ours=True)


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
