"""What the networks of pipelines are told of a prompt: a class, a text, or nothing."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from exptilt.draft import Prompt, question
from exptilt.errors import PromptError, did_you_mean

EMPTY = ""  # the text that stands for no text
KEPT = 256  # texts whose encodings are kept


class Nothing:
    """An unconditional model: every prompt asks for the same."""

    null = None

    def condition(self, prompt: Prompt) -> int:
        return 0

    def arguments(self, conditions: Sequence[Any], device: str, dtype: torch.dtype) -> dict[str, Any]:
        return {}


class Classes:
    """A class-conditional model. A prompt is the name of a class, or its number.

    count: how many classes there are. names: those that have a name, with their numbers. null: the number that stands for no
    class.
    """

    def __init__(self, model: str, count: int, names: Mapping[str, int], null: int | None) -> None:
        self.model, self.count, self.null = model, count, null
        self.names = {name.strip().lower(): number for name, number in names.items()}

    def condition(self, prompt: Prompt) -> int:
        asked = question(prompt).strip().lower()
        number = self.names.get(asked, int(asked) if asked.isascii() and asked.isdigit() else -1)
        if not 0 <= number < self.count or number == self.null:
            known = list(self.names) or [str(each) for each in range(self.count) if each != self.null]
            some = ", ".join(known) if len(known) <= 12 else f"{', '.join(known[:5])}, … {known[-1]} ({len(known)} in all)"
            raise PromptError(f"{self.model} has no class {asked!r:.80}: give one of {some}.{did_you_mean(asked, known)}")
        return number

    def arguments(self, conditions: Sequence[Any], device: str, dtype: torch.dtype) -> dict[str, Any]:
        return {"class_labels": torch.tensor(conditions, device=device)}


class Texts:
    """A model of pictures to texts, each encoded once."""

    null = EMPTY

    def __init__(self, model: str, tokenizer: Any, encoder: Any) -> None:
        self.model, self.tokenizer, self.encoder = model, tokenizer, encoder
        self._kept: OrderedDict[str, Any] = OrderedDict()

    def condition(self, prompt: Prompt) -> str:
        text, most = question(prompt), self.tokenizer.model_max_length
        if (length := len(self.tokenizer(text).input_ids)) > most:
            raise PromptError(f"the prompt {text[:60]!r} has {length} tokens, and {self.model} reads {most}: shorten it")
        return text

    def arguments(self, conditions: Sequence[Any], device: str, dtype: torch.dtype) -> dict[str, Any]:
        return {"encoder_hidden_states": torch.stack([self._encoded(text) for text in conditions]).to(device, dtype)}

    def _encoded(self, text: str) -> Any:
        if text not in self._kept:
            most = self.tokenizer.model_max_length
            ids = self.tokenizer(text, padding="max_length", max_length=most, truncation=True, return_tensors="pt").input_ids
            self._kept[text] = self.encoder(ids.to(self.encoder.device))[0][0]
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(text)
        return self._kept[text]
