"""Prompts to token ids and token ids to text, for any transformers tokenizer or one with the same methods.

Text is always decoded from all tokens of a response and never encoded again: token ids are a draft's identity.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from hashlib import blake2b
from typing import Any
from weakref import WeakSet

from exptilt.blocks import Block
from exptilt.draft import Chat, Prompt
from exptilt.errors import PromptError

KEPT_PROMPTS = 4096
_NONE: Mapping[str, Any] = {}
MARK = "[[the response goes on here]]"  # the mark that shows where a template puts the end of a prefill
BROKEN = "\ufffd"  # decoders write it for bytes that are not a whole character


class Text:
    """A tokenizer behind a lock, with the prompts that were encoded before.

    ends: token ids that end a response, as the tokenizer and the model's configurations name them.
    closed: whether plain prompts keep an end that the tokenizer puts behind them, as encoders want; before a response it would
        end the text.
    """

    def __init__(self, tokenizer: Any, ends: Iterable[int], *, closed: bool = False) -> None:
        self.tokenizer = tokenizer
        self.ends = frozenset(ends)
        self.closed = closed
        self._lock = threading.RLock()  # tokenizers are not safe to share between threads
        self._prompts: OrderedDict[tuple[Prompt, str], tuple[int, ...]] = OrderedDict()
        self._pieces: dict[int, str] = {}
        self._stop_tokens: dict[Sequence[str], frozenset[int]] = {}
        _texts.add(self)

    @property
    def has_template(self) -> bool:
        return bool(self.tokenizer.chat_template)

    @property
    def alphabet(self) -> str:
        """A digest of the vocabulary: every token with its id, added ones included."""
        return self._alphabet

    @cached_property
    def _alphabet(self) -> str:
        with self._lock:
            vocabulary = sorted(self.tokenizer.get_vocab().items(), key=lambda item: (item[1], item[0]))
        return blake2b(repr(vocabulary).encode(), digest_size=16).hexdigest()

    def encode(self, prompt: Prompt, variables: Mapping[str, Any] = _NONE) -> tuple[int, ...]:
        """Token ids of a text as it is, with what the tokenizer puts around it, or of a chat by the template.

        variables: of the template, as JSON values.
        """
        for part in [prompt] if isinstance(prompt, str) else [turn.content for turn in prompt.turns]:
            _check_characters(part)
        key = (prompt, json.dumps(variables, sort_keys=True) if variables else "")
        with self._lock:
            if key not in self._prompts:
                ids = self._plain(prompt) if isinstance(prompt, str) else self._chat(prompt, variables)
                self._prompts[key] = tuple(ids)
                if len(self._prompts) > KEPT_PROMPTS:
                    self._prompts.popitem(last=False)
            self._prompts.move_to_end(key)
            return self._prompts[key]

    def seen(self, chat: Chat, variables: Mapping[str, Any]) -> tuple[int, ...]:
        """What the model reads of a chat."""
        return self.encode(chat, variables)

    def _plain(self, prompt: str) -> list[int]:
        ids = self.tokenizer(prompt).input_ids
        bos = self.tokenizer.bos_token_id
        doubled = bos is not None and ids[:2] == [bos, bos]  # the text begins with it, as text that a template wrote does
        ids = ids[1:] if doubled else ids
        if not self.closed and ids and ids[-1] in self.ends:
            bare = self.tokenizer(prompt, add_special_tokens=False).input_ids
            ends = [start + len(bare) for start in range(len(ids)) if ids[start : start + len(bare)] == bare]
            return ids[: ends[0]] if ends and self.ends.issuperset(ids[ends[0] :]) else ids
        return ids

    def _chat(self, chat: Chat, variables: Mapping[str, Any]) -> list[int]:
        """The ids of a chat: up to where the response begins, which is behind the prefill where there is one."""
        messages, prefill = chat.messages, chat.prefill
        if prefill is not None:
            messages[-1]["content"] = prefill + MARK
        try:
            asked = {"tokenize": False, "add_generation_prompt": prefill is None, **variables}
            written = self.tokenizer.apply_chat_template(messages, **asked)
        except Exception as error:
            raise PromptError(
                f"the model's chat template refuses the prompt ({type(error).__name__}: {error}). "
                "Try without a system text, or give one string with template=False."
            ) from error
        for turn in chat.turns:
            if turn.role not in ("user", "assistant") and turn.content.strip() not in written:
                raise PromptError(
                    f"the model's chat template leaves out the {turn.role} message: put its text into the user's message"
                )
        if prefill is not None:
            written = _before_mark(written, prefill)
        return self.tokenizer(written, add_special_tokens=False).input_ids

    def decode(self, responses: Sequence[Sequence[int]]) -> list[str]:
        """The text of each response, without end-of-text and other special tokens."""
        bare = [response[:-1] if response and response[-1] in self.ends else response for response in responses]
        if not bare:
            return []
        with self._lock:
            return self.tokenizer.batch_decode(
                [list(response) for response in bare], skip_special_tokens=True, clean_up_tokenization_spaces=False
            )

    def stops(self, tokens: Sequence[int], stop: Sequence[str]) -> bool:
        """Whether a response contains a stop string, given that it did not before its last token.

        The whole response is decoded only where its last token can complete one: where the token's own text holds
        the last character of a stop string, or bytes that may be part of one. Special tokens are in no text: where a stop string
        is one, the token itself stops.
        """
        if tokens[-1] in self._special(tuple(stop)):
            return True
        piece = self._piece(tokens[-1])
        if not any(text[-1] in piece or text[-1].isspace() for text in stop) and BROKEN not in piece:
            return False
        [whole] = self.decode([tokens])
        return any(text in whole for text in stop)

    def ends_step(self, block: Block, prior: Sequence[int], drawn: Sequence[int]) -> bool:
        """Whether a step that drew these tokens after `prior` ends with the last of them, given that it did not before.

        Texts are decoded only where the last token can complete an end, as in `stops`.
        """
        if drawn[-1] in block.ids or drawn[-1] in self._special(block.texts):
            return True
        piece = self._piece(drawn[-1])
        if not any(text[-1] in piece or text[-1] == " " for text in block.texts) and BROKEN not in piece:
            return False
        before, now = self.decode([prior, [*prior, *drawn]])
        return block.ends_in(before, now)

    def check_stop(self, stop: Sequence[str], what: str = "stop=") -> None:
        """Refuse strings that no response can contain. what: what they are to the caller. Raises ValueError."""
        self._special(tuple(stop), what)

    def _special(self, stop: tuple[str, ...], what: str = "stop=") -> frozenset[int]:
        """The special tokens among strings. Raises ValueError for one with other text around it."""
        if stop not in self._stop_tokens:
            with self._lock:
                vocabulary = self.tokenizer.get_vocab() if stop else {}
            found: set[int] = set()
            for text in stop:
                named = [token for token in vocabulary if len(token) > 1 and token in text]
                special = [token for token in named if self._piece(vocabulary[token]) == ""]
                if special and text not in special:
                    raise ValueError(
                        f"{what}{text!r} has the special token {special[0]!r} with other text around it, which no response "
                        f"contains: give {special[0]!r} alone"
                    )
                found |= {vocabulary[text]} if special else set()
            self._stop_tokens[stop] = frozenset(found)
        return self._stop_tokens[stop]

    def _piece(self, token: int) -> str:
        """The text of one token alone; some decoders drop a space in front of it."""
        if token not in self._pieces:
            with self._lock:
                self._pieces[token] = self.tokenizer.decode([token], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return self._pieces[token]


_texts: WeakSet[Text] = WeakSet()


def _unlock_all() -> None:
    """In a forked process: another thread of the parent may have held a lock, which would never be released."""
    for text in _texts:
        text._lock = threading.RLock()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_unlock_all)


def end_ids(*named: int | Iterable[int] | None) -> set[int]:
    """The end-of-text ids that configurations and tokenizers name, each one id, several or none."""
    return {token for some in named if some is not None for token in ([some] if isinstance(some, int) else some)}


def _check_characters(text: str) -> None:
    """Refuse half characters, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"the prompt has half a character ({text[error.start]!r}, number {error.start + 1}), not a text: decode it anew"
        ) from error


def _before_mark(written: str, prefill: str) -> str:
    """What a template wrote, up to the end of the prefill. Templates that strip messages take spaces before it away."""
    before, *after = written.split(MARK)
    bare = prefill.lstrip()
    if len(after) != 1 or not before.endswith(bare):
        raise PromptError(
            f"the model's chat template changes the assistant's message {prefill[:80]!r}, so that it cannot be continued: "
            "leave that message out, or write the prompt as one string with template=False"
        )
    return before if before.endswith(prefill) else before.removesuffix(bare) + prefill


def check_system(has_template: bool, system: str | None, template: bool, name: str) -> None:
    """Refuse a text for the system turn where there is no chat template to put it in."""
    if system is not None and not (template and has_template):
        raise ValueError(
            f"a system text needs a chat template, and {name} {'has none' if template else 'runs without it (template=False)'}: "
            "put the text at the start of the prompt instead"
        )


def check_cap(max_tokens: int, context: int | None, name: str) -> None:
    """Refuse a cap on responses as long as the model's context (None: no limit)."""
    if context is not None and max_tokens >= context:
        raise ValueError(
            f"max_tokens={max_tokens} leaves no room for a prompt in the {context} tokens of {name}'s context: give fewer"
        )


def check_tokens(tokens: Sequence[int], vocabulary: int, name: str) -> None:
    """Refuse a draft's tokens where the model has no such ids."""
    if tokens and not 0 <= min(tokens) <= max(tokens) < vocabulary:
        raise ValueError(
            f"a draft has tokens from {min(tokens)} to {max(tokens)}, but {name} has 0 to {vocabulary - 1}: "
            "give it drafts of engines with the same alphabet, without masked positions"
        )


def check_room(prompt: int, max_tokens: int, context: int | None, name: str) -> None:
    """Refuse a prompt of so many tokens that a whole response no longer fits the model's context (None: no limit)."""
    if context is not None and prompt + max_tokens > context:
        raise PromptError(
            f"the prompt has {prompt} tokens and max_tokens is {max_tokens}, together {prompt + max_tokens}, "
            f"but the context of {name} has {context}: shorten the prompt or lower max_tokens"
        )
