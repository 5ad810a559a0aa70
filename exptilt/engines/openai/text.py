"""Prompts to tokens and tokens to text, as a server does both (`exptilt.engines.backend.Texts`).

A server that returns token ids encodes and decodes by its own tokenizer. Elsewhere strings are tokens (`pieces`), and so is a
prompt: the text that a template made of it, or its messages where the server applies the template itself.

A prefill is tested: the text that the server makes of a chat must end with it, character by character. Of a chat server only
the number of tokens is seen, and a prompt that is continued has no tokens that end its last message.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from exptilt.draft import Chat, Prompt
from exptilt.engines.openai.pieces import Pieces
from exptilt.engines.openai.server import Server
from exptilt.engines.openai.wire import malformed, spent
from exptilt.errors import AnswerError, PromptError
from exptilt.keys import Key

KEPT_PROMPTS = 4096
_NONE: Mapping[str, Any] = {}
CONTINUED: Mapping[str, bool] = {"add_generation_prompt": False, "continue_final_message": True}  # as vLLM and SGLang call it
BEGUN = Chat.of([{"role": "user", "content": "Count to four."}, {"role": "assistant", "content": "One, two,"}])
CURE = "leave the assistant's last message out, or load a model whose template continues it"


class ServedText:
    """The texts of a served model. variables: further fields of requests that the chat template reads."""

    has_template = True  # whether the model has one is seen when a chat is encoded
    ends = frozenset[int]()  # the server says how a response ended

    def __init__(self, server: Server, variables: Mapping[str, Any]) -> None:
        self.server, self.variables, self.pieces = server, variables, Pieces()
        self._prompts: OrderedDict[tuple[Prompt, str], tuple[int, ...]] = OrderedDict()
        self._continues: bool | None = None  # whether the chat endpoint continues a last message; None while not tried
        self._lock = threading.Lock()

    @property
    def alphabet(self) -> str:
        """A digest of how the server's tokenizer encodes a specimen text, or "text" where tokens are strings."""
        return self.server.abilities.alphabet

    def encode(self, prompt: Prompt, variables: Mapping[str, Any] = _NONE) -> tuple[int, ...]:
        key = (prompt, json.dumps(variables, sort_keys=True) if variables else "")
        with self._lock:
            if key in self._prompts:
                self._prompts.move_to_end(key)
                return self._prompts[key]
        encoded = self.server.private(partial(self._encode, prompt, self._fields(variables)))
        with self._lock:
            self._prompts[key] = encoded
            if len(self._prompts) > KEPT_PROMPTS:
                self._prompts.popitem(last=False)
        return encoded

    def seen(self, chat: Chat, variables: Mapping[str, Any]) -> int | tuple[int, ...] | None:
        """The ids of a chat where the server tells them; else how many its chat endpoint counts, or None where it does not."""
        if self.server.abilities.mode != "chat":
            return self.encode(chat, variables)
        return self.server.private(partial(self._counted, chat, self._fields(variables)))

    def _fields(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """The further fields of a request by which the template is applied."""
        if not variables:
            return dict(self.variables)
        return {**self.variables, "chat_template_kwargs": {**self.variables.get("chat_template_kwargs", {}), **variables}}

    def _counted(self, chat: Chat, fields: Mapping[str, Any]) -> int | None:
        try:
            return self._size({"messages": chat.messages, **fields})
        except AnswerError as error:
            if not error.status:
                raise
            raise PromptError(f"the server refuses them ({error.said or error.status})") from error

    def decode(self, responses: Sequence[Sequence[int]]) -> list[str]:
        if self.server.abilities.mode != "ids":
            return [self.pieces.text(response) for response in responses]
        return [self.server.private(partial(self._detokenized, response)) for response in responses]

    def messages(self, prompt: Sequence[int]) -> dict[str, Any]:
        """The fields of a request to the chat endpoint that ask for what follows an encoded prompt."""
        asked = json.loads(self.pieces.text(prompt))
        return {**asked, **(CONTINUED if asked["messages"][-1]["role"] == "assistant" else {})}

    def _encode(self, prompt: Prompt, fields: Mapping[str, Any]) -> tuple[int, ...]:
        """fields: those that the template reads."""
        mode = self.server.abilities.mode
        if mode == "chat":
            assert isinstance(prompt, Chat)
            if prompt.prefill is not None and not self._chat_continues():
                raise PromptError(
                    f"{self.server.model} is behind a chat server that does not continue the assistant's last message, judging "
                    f"by its token counts: {CURE}"
                )
            return self.pieces.ids([json.dumps({"messages": prompt.messages, **fields})])
        if isinstance(prompt, str):
            return self.pieces.ids([prompt]) if mode == "text" else self._tokenized({"prompt": prompt})
        if mode == "text":
            written = _text(self._templated("/apply-template", {"messages": prompt.messages, **fields}), "prompt")
            _check_continued(prompt, written)
            return self.pieces.ids([written])
        begun = CONTINUED if prompt.prefill is not None else {"add_generation_prompt": True}
        tokens = self._tokenized({"messages": prompt.messages, **fields, **begun})
        if prompt.prefill is not None:
            _check_continued(prompt, self._detokenized(tokens))
        return tokens

    def _tokenized(self, given: dict[str, Any]) -> tuple[int, ...]:
        answer = self._templated("/tokenize", given)
        tokens = answer.get("tokens")
        if not isinstance(tokens, list) or not all(type(token) is int for token in tokens):
            raise malformed(answer, "tokens is not a list of whole numbers")
        return tuple(tokens)

    def _detokenized(self, tokens: Sequence[int]) -> str:
        if not tokens:
            return ""
        return _text(self.server.ask("/detokenize", {"tokens": list(tokens)}, Key(0, "detokenize")), "prompt")

    def _templated(self, path: str, given: dict[str, Any]) -> dict[str, Any]:
        try:
            return self.server.ask(path, given, Key(0, path))
        except AnswerError as error:
            if not error.status:  # the server is at fault, not the prompt
                raise
            raise PromptError(
                f"the server cannot encode the prompt ({error.said or error.status}). If its model has no chat template, or "
                "one that refuses a system text, load with template=False."
            ) from error

    def _chat_continues(self) -> bool:
        """Whether the chat endpoint reads fewer tokens of a chat where it is told to continue its last message."""
        with self._lock:
            if self._continues is None:
                closed, continued = (self._prompt_size(fields) for fields in ({}, CONTINUED))
                self._continues = closed is not None and continued is not None and continued < closed
            return self._continues

    def _prompt_size(self, fields: Mapping[str, bool]) -> int | None:
        """How many tokens the chat endpoint counts in a prompt; None where it refuses the fields or does not count."""
        try:
            return self._size({"messages": BEGUN.messages, **self.variables, **fields})
        except PromptError:
            return None
        except AnswerError as error:
            if not error.status:  # the server is at fault, not the fields
                raise
            return None

    def _size(self, body: dict[str, Any]) -> int | None:
        return spent(self.server.ask("chat/completions", {self.server.abilities.cap: 16, **body}, Key(0, "size"))).prompt


def _check_continued(chat: Chat, written: str) -> None:
    """Refuse what a template made of a chat with a prefill where it does not end with it."""
    if chat.prefill is not None and not written.endswith(chat.prefill):
        raise PromptError(
            f"the server does not continue the assistant's last message {chat.prefill[:80]!r}: its template makes it a prompt "
            f"that ends in {written[-40:]!r}. {CURE[0].upper()}{CURE[1:]}."
        )


def _text(answer: Mapping[str, Any], field: str) -> str:
    if not isinstance(answer.get(field), str):
        raise malformed(answer, f"{field} is not a text")
    return answer[field]
