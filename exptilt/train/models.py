"""Models and tokenizers as training reads them: the weights whole, in float32, and prompts encoded as the engine encodes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

from exptilt.draft import Draft, Prompt
from exptilt.engines.checkpoints import CAUSAL, Form, Repository, digest, read_whole, reading
from exptilt.engines.files import find_source, model_file, shipped
from exptilt.engines.language import LanguageEngine
from exptilt.engines.row import LeftToRight
from exptilt.engines.sampling import Sampling
from exptilt.engines.text import Text, end_ids
from exptilt.errors import CapabilityError, TrainError
from exptilt.train.lessons import Settings

SHIPPED = ("tiny", "tiny-small", "tiny-chain")
KINDS = 'give "hf:HUB-ID-OR-FOLDER", "gguf:FILE", ' + ", ".join(f'"{name}"' for name in SHIPPED)


@dataclass(frozen=True, eq=False)
class Student:
    """A model to be trained or read from, with its tokenizer, as the engine of some results files had it.

    model: of transformers, float32, without dropout.
    reader: an engine that only encodes prompts.
    sampling: the sampling parameters that drafts were drawn with.
    """

    name: str
    model: Any
    tokenizer: Any
    reader: LanguageEngine[Any]
    sampling: Sampling

    @property
    def pad(self) -> int:
        """A token id for padding, which no loss reads."""
        found = self.tokenizer.pad_token_id
        return 0 if found is None else found

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        return self.reader.prompt_tokens(prompt)

    def check(self, drafts: Sequence[Draft]) -> None:
        """Refuse drafts whose tokens are not those of this model's tokenizer. Raises TrainError."""
        size, text = self.model.get_input_embeddings().weight.shape[0], self.reader.backend.text
        top = max(max(draft.tokens) for draft in drafts)
        some = [draft for draft in drafts if draft.finish == "length" and not self.sampling.stop][:5]
        if top >= size or text.decode([draft.tokens for draft in some]) != [draft.text for draft in some]:
            raise TrainError(f"the drafts are not of the tokens of {self.name}: give the model that drew them")


@dataclass(frozen=True, eq=False)
class PromptsOnly:
    """A backend that knows a tokenizer and no weights."""

    name: str
    text: Text
    context: int | None
    vocabulary: int | None
    layout: LeftToRight = field(default_factory=LeftToRight)

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"engine": "prompts", "model": self.name}

    def can(self, sampling: Any) -> frozenset[str]:
        return frozenset()

    def check(self, sampling: Any) -> None:
        """Nothing can be wrong: nothing is drawn."""

    def draw(self, rows: Sequence[Any]) -> None:
        raise CapabilityError(f"{self.name} was read to encode prompts only")

    rate = draw

    def close(self) -> None:
        """There is nothing to release."""


def source_of(name: str) -> str | Path:
    """Where the files of a model are. Raises TrainError for kinds that cannot be trained, ModelError where they are missing."""
    kind, _, rest = name.partition(":")
    if name in SHIPPED:
        return shipped(name)
    if kind == "hf" and rest:
        return find_source(rest, name)
    if kind == "gguf" and rest:
        from exptilt.engines.hf.loading import converted

        return converted(model_file(rest, name))
    raise TrainError(f"{name!r} cannot be trained: {KINDS}")


def read_student(name: str, engines: Sequence[Settings], device: str | None = None) -> Student:
    """Read a model that drew the drafts of results files. engines: the settings of those that may have, p the first.

    Raises TrainError where it is another model.
    """
    source, asked = source_of(name), engines[0]
    if asked.get("engine") not in ("hf", "vllm"):
        raise TrainError(
            f"the drafts were drawn by an engine of the kind {asked.get('engine')!r}, whose tokens need not be those of {name}: "
            'draw them with "hf:", "gguf:", "vllm:" or a model that ships with exptilt'
        )
    with reading(name):
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    form = Form(dtype=asked.get("dtype") or "float32", device=device)
    model = read_whole(transformers.AutoModelForCausalLM, source, name, CAUSAL, form=form, files=Repository())
    known = [each["weights"] for each in engines if "weights" in each]
    if known and digest(model) not in known:
        raise TrainError(
            f"the drafts were drawn by {asked.get('model')}, and {name} has other weights: give the model that drew them, or the "
            "one whose distribution they are weighted for"
        )
    drop_nothing(model)
    return Student(name, model.float(), tokenizer, _reader(name, model, tokenizer, asked), _sampling(asked))


def drop_nothing(model: torch.nn.Module) -> None:
    """Switch dropout off, in place: log-probabilities under dropout are those of another distribution."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(vars(module).get("attention_dropout"), float):
            vars(module)["attention_dropout"] = 0.0


def _sampling(settings: Settings) -> Sampling:
    names = ("temperature", "top_p", "top_k", "max_tokens", "stop")
    return Sampling(**{name: settings[name] for name in names if name in settings})


def _reader(name: str, model: Any, tokenizer: Any, settings: Settings) -> LanguageEngine[Any]:
    config = model.config.get_text_config(decoder=True)
    generation = model.generation_config
    ends = end_ids(getattr(config, "eos_token_id", None), tokenizer.eos_token_id, getattr(generation, "eos_token_id", None))
    backend = PromptsOnly(name, Text(tokenizer, ends), getattr(config, "max_position_embeddings", None), None)
    template = {"template": settings.get("template", True), "template_kwargs": settings.get("template_kwargs") or {}}
    return LanguageEngine(backend, _sampling(settings), settings.get("system"), **template)
