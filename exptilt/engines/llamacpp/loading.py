"""Read a GGUF file into llama.cpp, with the file's own tokenizer or one of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from exptilt.engines.llamacpp.backend import Weights
from exptilt.errors import ModelError, install


def read_weights(file: Path, *, name: str, tokenizer: str | Path | None = None, **options: Any) -> Weights:
    """Load a model. tokenizer: None takes the one in the file, else a hub id or a folder as `save_pretrained` writes it.

    options: max_rows, memory, dtype, device, threads, ends, as in `Weights`. Raises ModelError where the model or the tokenizer
    cannot be read or do not belong together.
    """
    chosen = None if tokenizer is None else _read_tokenizer(tokenizer)
    weights = Weights(file, name=name, tokenizer=chosen, **options)
    size = weights.network.vocabulary
    if chosen is not None and len(chosen) > size:
        weights.close()
        raise ModelError(
            f"the tokenizer {tokenizer} has {len(chosen)} tokens and the model {name} {size}: give the one it was trained with"
        )
    return weights


def _read_tokenizer(source: str | Path) -> Any:
    try:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)  # or it asks on the terminal
    except ImportError as error:
        raise ModelError(f"tokenizer={str(source)!r} needs transformers: {install('hf')}") from error
    except Exception as error:
        reason = " ".join(str(error).split())[:400]
        raise ModelError(f"the tokenizer {source} cannot be read by transformers: {type(error).__name__}: {reason}") from error
