"""Reward models read from a hub id or a folder, and refused where their scores would mean nothing.

transformers draws a head at random where the files have none, and says so only in a log line. Here a model is refused
unless it was saved as what it is loaded as, with every weight in the files and every weight a number.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import torch
import transformers

from exptilt.engines.checkpoints import device_or_default, digest, dtype_named, reading
from exptilt.engines.files import find_source
from exptilt.errors import ModelError, RewardError

Head = Literal["sequence", "labels", "words"]
_CLASSES: Mapping[Head, tuple[Any, str]] = {
    "sequence": (transformers.AutoModelForSequenceClassification, "a sequence classifier (AutoModelForSequenceClassification)"),
    "labels": (transformers.AutoModelForTokenClassification, "a token classifier (AutoModelForTokenClassification)"),
    "words": (transformers.AutoModelForCausalLM, "a causal language model (AutoModelForCausalLM)"),
}
Turns = Sequence[Mapping[str, str]]


class Tokenizer:
    """A tokenizer that many threads may share."""

    def __init__(self, tokenizer: Any, name: str) -> None:
        self._tokenizer, self._name = tokenizer, name
        self._lock = threading.Lock()

    @property
    def has_template(self) -> bool:
        return bool(self._tokenizer.chat_template)

    @property
    def start(self) -> list[int]:
        """The token that begins a text; empty where there is none."""
        token = self._tokenizer.bos_token_id
        return [] if token is None else [token]

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids; `special` adds what the tokenizer puts around a text of its own."""
        with self._lock:
            return self._tokenizer(text, add_special_tokens=special).input_ids

    def pair(self, first: str, second: str) -> tuple[list[int], list[int] | None]:
        """Two texts as one input, with the segments where the model tells them apart."""
        with self._lock:
            encoded = self._tokenizer(first, second)
        return encoded["input_ids"], encoded.get("token_type_ids")

    def places(self, text: str, *, special: bool) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids with the characters, from and to, that each stands for."""
        if not self._tokenizer.is_fast:
            raise ModelError(f"{self._name} has a tokenizer that does not give the positions of its tokens: it needs a fast one")
        with self._lock:
            encoded = self._tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
        return encoded["input_ids"], encoded["offset_mapping"]

    def chat(self, turns: Turns, *, asks: bool = False) -> str:
        """Turns as text, by the model's chat template; `asks` begins the assistant's next turn."""
        try:
            with self._lock:
                return self._tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=asks)
        except Exception as error:
            raise RewardError(
                f"the chat template of {self._name} refuses the conversation ({type(error).__name__}: {error}). "
                "Give a template in plain text, with {prompt} and {response}."
            ) from error


@dataclass(frozen=True)
class Loaded:
    """A model that passed. weights: a digest of it, its tokenizer and its chat template; context: tokens it can read."""

    model: Any
    tokenizer: Tokenizer
    weights: str
    context: int | None


def read(source: str | Path, head: Head, *, name: str, dtype: str, device: str | None) -> Loaded:
    """Load a model as what `head` says it is. Raises ModelError where it cannot be read, or is something else."""
    number = dtype_named(dtype)
    kind, words = _CLASSES[head]
    found = find_source(str(source), name)
    with reading(name, words):
        tokenizer = transformers.AutoTokenizer.from_pretrained(found, trust_remote_code=False)  # or it asks on the terminal
        model, report = kind.from_pretrained(found, dtype=number, output_loading_info=True, trust_remote_code=False)
    _check(model, report, name, words)
    model = model.to(device_or_default(device)).eval()
    look = repr((tokenizer.chat_template, sorted(tokenizer.get_vocab().items())))
    weights = blake2b((digest(model) + look).encode(), digest_size=16).hexdigest()
    return Loaded(model, Tokenizer(tokenizer, name), weights, _context(model, tokenizer))


def _check(model: Any, report: Mapping[str, Any], name: str, words: str) -> None:
    saved = model.config.architectures or []
    missing = sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])})
    if missing or (saved and type(model).__name__ not in saved):
        gone = f"; {', '.join(missing[:3])} would be drawn at random" if missing else ""
        raise ModelError(
            f"{name} was saved as {', '.join(saved) or 'something else'} and is not a trained {type(model).__name__}{gone}. "
            f"Give {words} that was trained as a reward model."
        )
    for key, tensor in model.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise ModelError(f"{name} has weights in {key} that are not numbers (NaN or infinite): its files are damaged")


def _context(model: Any, tokenizer: Any) -> int | None:
    """Tokens that the model can read; tokenizers without a limit report a huge one."""
    config = model.config.get_text_config()
    told = (getattr(config, "max_position_embeddings", None), tokenizer.model_max_length)
    limits = [limit for limit in told if limit is not None and limit < 10**7]
    return min(limits, default=None)
