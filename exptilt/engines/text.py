"""Prompts to token ids and token ids to text, for any tokenizer of transformers or one with the same methods.

Text is always decoded from all tokens of a response and never encoded again: token ids are a draft's identity.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from functools import cached_property
from hashlib import blake2b
from typing import Any

from exptilt.errors import PromptError

KEPT_PROMPTS = 4096
BROKEN = "\ufffd"  # what a decoder writes for bytes that are not a whole character


class Text:
    """A tokenizer behind a lock, with the prompts that were encoded before.

    ends: token ids that end a response, as the tokenizer and the model's configurations name them.
    """

    def __init__(self, tokenizer: Any, ends: Iterable[int]) -> None:
        self.tokenizer = tokenizer
        self.ends = frozenset(ends)
        self._lock = threading.RLock()  # tokenizers are not safe to share between threads
        self._prompts: OrderedDict[tuple[str, str | None, bool], tuple[int, ...]] = OrderedDict()
        self._pieces: dict[int, str] = {}

    @property
    def has_template(self) -> bool:
        return bool(self.tokenizer.chat_template)

    @cached_property
    def alphabet(self) -> str:
        """A digest of the vocabulary: every token with its id, added ones included."""
        with self._lock:
            vocabulary = sorted(self.tokenizer.get_vocab().items(), key=lambda item: (item[1], item[0]))
        return blake2b(repr(vocabulary).encode(), digest_size=16).hexdigest()

    def encode(self, prompt: str, system: str | None, template: bool) -> tuple[int, ...]:
        """Token ids of a prompt: a user's turn where `template` and the tokenizer has one, else the text itself."""
        if not prompt.strip():
            raise PromptError(f"the prompt {prompt!r} is empty: give the model something to answer")
        wanted = (prompt, system, template)
        with self._lock:
            if wanted not in self._prompts:
                self._prompts[wanted] = self._encode(prompt, system, template)
                if len(self._prompts) > KEPT_PROMPTS:
                    self._prompts.popitem(last=False)
            self._prompts.move_to_end(wanted)
            return self._prompts[wanted]

    def _encode(self, prompt: str, system: str | None, template: bool) -> tuple[int, ...]:
        if not (template and self.has_template):
            return tuple(self.tokenizer(prompt).input_ids)
        turns = [{"role": "user", "content": prompt}]
        if system is not None:
            turns.insert(0, {"role": "system", "content": system})
        try:
            ids = self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
        except Exception as error:
            raise PromptError(
                f"the model's chat template refuses the prompt ({type(error).__name__}: {error}). "
                "Try without a system text, or template=False."
            ) from error
        return tuple(ids)

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
        the last character of a stop string, or bytes that may be part of one.
        """
        piece = self._piece(tokens[-1])
        if not any(text[-1] in piece or text[-1].isspace() for text in stop) and BROKEN not in piece:
            return False
        [whole] = self.decode([tokens])
        return any(text in whole for text in stop)

    def _piece(self, token: int) -> str:
        """The text of one token alone; some decoders drop a space in front of it."""
        if token not in self._pieces:
            with self._lock:
                self._pieces[token] = self.tokenizer.decode([token], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return self._pieces[token]


def end_ids(*named: int | Iterable[int] | None) -> set[int]:
    """The end-of-text ids that configurations and tokenizers name, each one id, several or none."""
    return {token for some in named if some is not None for token in ([some] if isinstance(some, int) else some)}


def check_system(text: Text, system: str | None, template: bool, name: str) -> None:
    """Refuse a text for the system turn where there is no chat template to put it in."""
    if system is not None and not (template and text.has_template):
        raise ValueError(
            f"a system text needs a chat template, and {name} {'has none' if template else 'runs without'}: "
            "put the text at the beginning of the prompt instead"
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
