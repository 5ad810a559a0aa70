"""The vocabulary and chat template of a GGUF file, with those methods of a transformers tokenizer that `Text` calls."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any, NamedTuple, NoReturn

import llama_cpp  # pyright: ignore[reportMissingImports]
from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from exptilt.engines.llamacpp.network import Network


class Encoded(NamedTuple):
    """What calling a tokenizer returns."""

    input_ids: list[int]


class GGUFTokenizer:
    """The tokenizer of a GGUF file.

    network: the model of the same file.
    chat_template: the source of a Jinja template, or None.
    """

    def __init__(self, network: Network) -> None:
        self.network = network  # which owns what `handle` points to
        self.handle = network.vocabulary_handle
        self.chat_template = network.chat_template

    @cached_property
    def ends(self) -> frozenset[int]:
        """All tokens that llama.cpp counts as the end of a text: those the header names and those known by their text."""
        size = llama_cpp.llama_vocab_n_tokens(self.handle)
        return frozenset(token for token in range(size) if llama_cpp.llama_vocab_is_eog(self.handle, token))

    def get_vocab(self) -> dict[str, int]:
        """Every token with its id, without those that only pad the vocabulary to the size of the model's matrix."""
        unused = llama_cpp.LLAMA_TOKEN_ATTR_UNUSED
        return {
            self._text(token): token
            for token in range(llama_cpp.llama_vocab_n_tokens(self.handle))
            if not llama_cpp.llama_vocab_get_attr(self.handle, token) & unused
        }

    @property
    def bos_token_id(self) -> int | None:
        token = llama_cpp.llama_vocab_bos(self.handle)
        return None if token < 0 else token

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> Encoded:
        """Token ids of a text, with those that the model wants around it."""
        return Encoded(self._encode(text, special=add_special_tokens))

    def apply_chat_template(self, turns: Sequence[Mapping[str, str]], *, tokenize: bool = False, **options: Any) -> str:
        """A conversation as the template writes it. Raises TemplateError where the template refuses."""
        names = {"bos_token": llama_cpp.llama_vocab_bos, "eos_token": llama_cpp.llama_vocab_eos}
        tokens = {name: "" if (token := find(self.handle)) < 0 else self._text(token) for name, find in names.items()}
        return self._template.render(messages=turns, **tokens, **options)

    def decode(self, tokens: Sequence[int], **options: Any) -> str:
        return self.batch_decode([tokens])[0]

    def batch_decode(self, responses: Sequence[Sequence[int]], **options: Any) -> list[str]:
        """The text of each response, without special tokens; bytes that are not a character become U+FFFD."""
        return [self._decode(response) for response in responses]

    @cached_property
    def _template(self) -> Any:
        """The template in the environment that transformers gives it."""
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
        environment.globals |= {"raise_exception": _refuse, "strftime_now": lambda form: datetime.now().strftime(form)}
        return environment.from_string(self.chat_template or "")

    def _text(self, token: int) -> str:
        return llama_cpp.llama_vocab_get_text(self.handle, token).decode(errors="replace")

    def _encode(self, text: str, *, special: bool) -> list[int]:
        raw = text.encode()
        room = (llama_cpp.llama_token * (len(raw) + 16))()
        count = llama_cpp.llama_tokenize(self.handle, raw, len(raw), room, len(room), special, True)
        if count < 0:
            raise ValueError(f"llama.cpp cannot tokenize {text[:80]!r}")
        return room[:count]

    def _decode(self, tokens: Sequence[int]) -> str:
        given = (llama_cpp.llama_token * len(tokens))(*tokens)
        size = 16 * len(tokens) + 64
        while True:
            room = ctypes.create_string_buffer(size)
            length = llama_cpp.llama_detokenize(self.handle, given, len(tokens), room, size, True, False)
            if length >= 0:
                return room.raw[:length].decode(errors="replace")
            size = -length


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)
