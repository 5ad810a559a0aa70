"""What the networks of pipelines are told of a prompt: a class, a text, or nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

import torch

from exptilt.draft import Prompt, question
from exptilt.errors import PromptError, did_you_mean

EMPTY = ""  # the text that stands for no text
KEPT = 256  # texts whose encodings are kept


class Prompts(Protocol):
    """What a network is told of a prompt.

    null: the condition that stands for no class or no text; None where nothing does.
    settings: what of it is not in the weights, as JSON values.
    """

    null: Any

    @property
    def settings(self) -> dict[str, Any]: ...

    def condition(self, prompt: Prompt) -> Any:
        """What stands for a prompt among those that go through the network together. Raises PromptError."""
        ...

    def arguments(self, conditions: Sequence[Any], device: str, dtype: torch.dtype) -> dict[str, Any]:
        """Arguments of the network for as many states as there are conditions."""
        ...


class Nothing:
    """An unconditional model: every prompt asks for the same."""

    null = None

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {}

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
        self.settings: dict[str, Any] = {"labels": self.names, "null": null}

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
        self.settings: dict[str, Any] = {}
        self._encoded = lru_cache(KEPT)(self._encode)

    def condition(self, prompt: Prompt) -> str:
        return _fitting(question(prompt), self.tokenizer, self.model)

    def arguments(self, conditions: Sequence[Any], device: str, dtype: torch.dtype) -> dict[str, Any]:
        return {"encoder_hidden_states": torch.stack([self._encoded(text) for text in conditions]).to(device, dtype)}

    @torch.no_grad()
    def _encode(self, text: str) -> Any:
        most = self.tokenizer.model_max_length
        ids = self.tokenizer(text, padding="max_length", max_length=most, truncation=True, return_tensors="pt").input_ids
        return self.encoder(ids.to(self.encoder.device))[0][0]


class PooledTexts:
    """A model of pictures to texts that is told of a text as a whole too, and of the picture's size: Stable Diffusion XL.

    pipeline: encodes texts, by one encoder or two. size: height and width of the pictures, in pixels.
    """

    null = EMPTY

    def __init__(self, model: str, pipeline: Any, size: tuple[int, int]) -> None:
        self.model, self.pipeline = model, pipeline
        self.settings: dict[str, Any] = {}
        self.sizes = [*size, 0, 0, *size]  # of a picture before it was cut, where it was cut, and its own
        self._encoded = lru_cache(KEPT)(self._encode)

    def condition(self, prompt: Prompt) -> str:
        text = question(prompt)
        for tokenizer in (self.pipeline.tokenizer, self.pipeline.tokenizer_2):
            if tokenizer is not None:
                _fitting(text, tokenizer, self.model)
        return text

    def arguments(self, conditions: Sequence[Any], device: str, dtype: torch.dtype) -> dict[str, Any]:
        words, wholes = zip(*map(self._encoded, conditions), strict=True)
        more = {
            "text_embeds": torch.stack(wholes).to(device, dtype),
            "time_ids": torch.tensor([self.sizes] * len(conditions), device=device, dtype=dtype),
        }
        return {"encoder_hidden_states": torch.stack(words).to(device, dtype), "added_cond_kwargs": more}

    @torch.no_grad()
    def _encode(self, text: str) -> tuple[Any, Any]:
        """A text word by word, and as a whole. What stands for no text is zeros in some pipelines, which they know."""
        words, no_words, whole, no_whole = self.pipeline.encode_prompt(text, device=self.pipeline.text_encoder_2.device)
        return (no_words[0], no_whole[0]) if text == EMPTY else (words[0], whole[0])


def _fitting(text: str, tokenizer: Any, model: str) -> str:
    """The text. Raises PromptError where it is longer than the model reads."""
    if (length := len(tokenizer(text).input_ids)) > tokenizer.model_max_length:
        raise PromptError(
            f"the prompt {text[:60]!r} has {length} tokens, and {model} reads {tokenizer.model_max_length}: shorten it"
        )
    return text
