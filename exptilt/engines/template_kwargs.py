"""Variables of a chat template, such as Qwen3's `enable_thinking`: what they may be, and whether the template reads them.

A template does not say what it reads, so it is tried: chats are encoded with a variable and without. Where that is the same, the
variable may have the value that the template takes anyway, so other values are tried before it is refused.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from exptilt.draft import Chat
from exptilt.engines.backend import Templated, Texts
from exptilt.errors import PromptError

_TAKEN = frozenset(  # what the engine, or the method that applies a template, sets itself
    {"messages", "conversation", "turns", "add_generation_prompt", "continue_final_message", "tokenize", "chat_template"}
    | {"return_dict", "return_tensors", "return_assistant_tokens_mask", "tokenizer_kwargs", "padding", "truncation"}
    | {"max_length", "bos_token", "eos_token"}
)
_USER, _ANSWER = {"role": "user", "content": "What is 2 + 2?"}, {"role": "assistant", "content": "It is 4."}
_CHATS = (
    Chat.of([_USER]),
    Chat.of([_USER, _ANSWER, _USER]),
    Chat.of([{"role": "system", "content": "Be brief."}, _USER]),
)
_OTHERS: Sequence[Any] = (True, False, "x", 7, [], ["x"], {})  # values that a variable of this kind may have
_log = logging.getLogger("exptilt")


def check_template_kwargs(text: Texts, given: Mapping[str, Any], template: bool, name: str) -> None:
    """Refuse variables that no template would read. Raises ValueError.

    template: whether the chat template is applied.
    name: the model's.
    """
    if not given:
        return
    if taken := sorted(set(given) & _TAKEN):
        raise ValueError(f"template_kwargs holds {', '.join(taken)}, which the engine sets itself: leave it out")
    try:
        json.dumps(given, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"template_kwargs={given!r:.80} are not JSON values ({error}): give texts, numbers, lists") from None
    if not (template and text.has_template):
        why = "runs without it (template=False)" if text.has_template else "has none"
        raise ValueError(f"template_kwargs are variables of the chat template, and {name} {why}: leave them out")
    if not isinstance(text, Templated):
        raise ValueError(f"{name} applies its template without variables: leave template_kwargs out")
    plain = _seen(text, given)
    if isinstance(plain[0], PromptError):
        raise ValueError(f"template_kwargs={given!r:.80} cannot be given to {name}: {plain[0]}")
    for variable in given:
        _check_read(text, given, variable, plain, name)


def _check_read(text: Templated, given: Mapping[str, Any], variable: str, plain: Sequence[Any], name: str) -> None:
    """Refuse a variable that changes nothing, whatever its value; a warning where that cannot be seen."""
    others = {key: value for key, value in given.items() if key != variable}
    tried = [others, *({**others, variable: value} for value in _OTHERS)]
    if any(part is None for part in plain):
        _log.warning(
            "it cannot be seen whether the chat template of %s reads %s: the server does not count prompts", name, variable
        )
        return
    if all(_told(_seen(text, each)) == _told(plain) for each in tried):
        raise ValueError(
            f"the chat template of {name} does not read {variable!r}: without it and with other values every prompt is "
            "the same. Leave it out, or correct its name."
        )


def _seen(text: Templated, variables: Mapping[str, Any]) -> list[Any]:
    """What the model reads of each chat, or the error where the template refuses it."""
    found: list[Any] = []
    for chat in _CHATS:
        try:
            found.append(text.seen(chat, variables))
        except PromptError as error:
            found.append(error)
    return found


def _told(seen: Sequence[Any]) -> list[Any]:
    return [str(part) if isinstance(part, PromptError) else part for part in seen]
