"""Read a masked-language model of transformers, and find its mask and end-of-text tokens where its files name them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers

from exptilt.engines.checkpoints import Form, Repository, read_whole, reading, taken
from exptilt.engines.diffusion.backend import MaskedWeights
from exptilt.engines.scheduler import ROWS_MEMORY
from exptilt.engines.text import MARK, end_ids
from exptilt.errors import ModelError

MASKED = "a masked language model"
SHIFTED = ("Dream",)  # config.model_type of models whose logits are one position early


@dataclass(frozen=True)
class Tokens:
    """What a masked model's files may not say.

    mask: the id of the mask token, None to read it from tokenizer or configuration.
    shifted: whether logits are one position early, None to follow the configuration (its `shifted_logits`, or the type of the
        model).
    ends: the ids that end a response, None to take those that tokenizer and configuration name, and the token that the chat
        template puts after an answer.
    """

    mask: int | None = None
    shifted: bool | None = None
    ends: Sequence[int] | None = None


OPTIONS = (Form, Repository, Tokens)  # those of `read_masked_weights` are the parameters of these, and the two of its own


def read_masked_weights(
    source: str | Path, *, name: str, max_rows: int | None = None, rows_memory: int = ROWS_MEMORY, **options: Any
) -> MaskedWeights:
    """Load a model and its tokenizer. source: a hub id, or a folder as `save_pretrained` writes it.

    max_rows, rows_memory: see `MaskedWeights`.
    options: the fields of `Form`, `Repository` (LLaDA and Dream need its trust_remote_code) and `Tokens`.
    Raises ModelError where the model cannot be read or used.
    """
    form, files, tokens = (taken(kind, options) for kind in OPTIONS)
    with reading(name, MASKED):
        config: Any = transformers.AutoConfig.from_pretrained(source, **files.options)
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(source, **files.options)
        own_code = "auto_map" in config.to_dict()
        kind = transformers.AutoModel if own_code else transformers.AutoModelForMaskedLM
    model = read_whole(kind, source, name, MASKED, form=form, files=files, spare=True, config=config)
    by_type = getattr(config, "shifted_logits", config.model_type in SHIFTED)
    mask = find_mask(config, tokenizer, name) if tokens.mask is None else tokens.mask
    ends = find_ends(config, tokenizer, model) if tokens.ends is None else frozenset(tokens.ends)
    _check_ids(model, name, mask=[mask], ends=ends)
    return MaskedWeights(
        model,
        tokenizer,
        mask=mask,
        ends=ends,
        name=name,
        max_rows=max_rows,
        rows_memory=rows_memory,
        shifted=by_type if tokens.shifted is None else tokens.shifted,
        ours=True,
    )


def _check_ids(model: Any, name: str, **given: Iterable[int]) -> None:
    """Refuse ids that the model has no embedding for."""
    count = model.get_input_embeddings().num_embeddings
    for option, ids in given.items():
        if unknown := [token for token in ids if not 0 <= token < count]:
            raise ValueError(f"{option} names the token {unknown[0]}, but {name} has 0 to {count - 1}: give one of those")


def find_mask(config: Any, tokenizer: Any, name: str) -> int:
    """The id of the mask token, as the configuration or the tokenizer names it."""
    for owner in (config, tokenizer):
        if (found := getattr(owner, "mask_token_id", None)) is not None:
            return int(found)
    raise ModelError(f"{name}: neither configuration nor tokenizer names a mask token. Give its id: load(..., mask=ID).")


def find_ends(config: Any, tokenizer: Any, model: Any) -> frozenset[int]:
    """The end-of-text ids that configurations and tokenizer name, and the end of a turn; else a BERT's separator.

    LLaDA's instructed models end an answer with a token that no configuration names.
    """
    generation = getattr(model, "generation_config", None)
    named = [getattr(owner, "eos_token_id", None) for owner in (config, tokenizer, generation)]
    return frozenset(end_ids(*named, find_turn_end(tokenizer)) or end_ids(getattr(tokenizer, "sep_token_id", None)))


def find_turn_end(tokenizer: Any) -> int | None:
    """The special token that the chat template puts right after an answer; None where it puts none."""
    if not tokenizer.chat_template:
        return None
    turns = [{"role": "user", "content": "Is it so?"}, {"role": "assistant", "content": MARK}]
    try:
        written = tokenizer.apply_chat_template(turns, tokenize=False)
    except Exception:  # noqa: BLE001 - templates raise what they like; one that takes no answers tells nothing
        return None
    behind = tokenizer(written.rpartition(MARK)[2].strip(), add_special_tokens=False).input_ids
    special = behind and tokenizer.decode(behind[:1], skip_special_tokens=True) == ""
    return behind[0] if special and tokenizer.decode(behind[:1]).strip() else None
