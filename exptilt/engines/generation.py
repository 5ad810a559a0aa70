"""What a checkpoint's generation_config.json would have set: told, since p is the model under the given parameters.

Tokens that end a response are taken from it all the same.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

logger = logging.getLogger("exptilt")
_OURS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
_OFF = {"temperature": (0, 1), "top_p": (1,), "top_k": (0, -1), "min_p": (0,), "repetition_penalty": (1,)}
_THEIRS = (  # what has no counterpart here, with the values that mean nothing
    ("typical_p", 1), ("epsilon_cutoff", 0), ("eta_cutoff", 0), ("no_repeat_ngram_size", 0), ("encoder_repetition_penalty", 1),
    ("bad_words_ids", None), ("suppress_tokens", None), ("begin_suppress_tokens", None), ("forced_bos_token_id", None),
    ("forced_eos_token_id", None), ("sequence_bias", None), ("guidance_scale", 1), ("min_new_tokens", 0), ("num_beams", 1),
)  # fmt: skip
_told: set[str] = set()


def tell_generation(name: str, config: Any, given: Mapping[str, Any]) -> None:
    """Say once what a checkpoint's own generation settings are and are not applied, except those that are given here.

    config: of transformers, or a mapping, or None.
    """
    values = config.to_dict() if config is not None and not isinstance(config, Mapping) else dict(config or {})
    ours = {each: values[each] for each in _OURS if values.get(each) is not None and values[each] not in _OFF[each]}
    ours = {each: value for each, value in ours.items() if each not in given}
    theirs = {each: values[each] for each, off in _THEIRS if values.get(each) not in (None, off, [], ())}
    if not (ours or theirs):
        return
    said = f"{name}: its generation_config.json sets {_words({**ours, **theirs})}, which is not applied"
    said += f": to draw so, load it with {_words(ours)}" if ours else ""
    said += f". There is nothing like {', '.join(theirs)} here" if theirs else ""
    if said not in _told:
        _told.add(said)
        logger.warning("%s.", said)


def _words(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())
