"""Rewards of pictures from models: what a classifier says of them, and how near they are to a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from exptilt.draft import Draft, Prompt, question
from exptilt.engines.requirements import prepare_torch, require
from exptilt.errors import ModelError, RewardError
from exptilt.keys import Floats
from exptilt.rewards.pictures import Picture, bytes_of, pictures_of


def colours(picture: Picture) -> Any:
    """A picture as processors of transformers take it: [height, width, 3] whole numbers."""
    flat = bytes_of(picture)
    return np.repeat(flat[:, :, None], 3, axis=2) if flat.ndim == 2 else flat


@dataclass(frozen=True)
class ImageClassifier:
    """The log-probability (nats) of a class by a classifier of pictures.

    source: a hub id or folder of an image classifier of transformers; or a torch module or function from float32
        [pictures, colours, height, width], 0 to 1, to logits [pictures, classes].
    label: the class, by its number or, for models of transformers, its name; None for the class that the prompt names.
    device: where a model of transformers runs.
    """

    source: str | Path | Callable[[Any], Any] = field()
    label: int | str | None = None
    device: str | None = field(default=None, compare=False)
    _model: Any = field(init=False, repr=False, compare=False)
    _processor: Any = field(init=False, repr=False, compare=False, default=None)

    def __post_init__(self) -> None:
        prepare_torch("ImageClassifier")
        if not isinstance(self.source, str | Path):
            object.__setattr__(self, "_model", self.source)
        else:
            require("ImageClassifier", "image", ("PIL",))
            model, processor = _read(str(self.source), "AutoModelForImageClassification", self.device)
            object.__setattr__(self, "_model", model)
            object.__setattr__(self, "_processor", processor)
        if self.label is not None:
            self._number(str(self.label))

    def __call__(self, prompt: Prompt, drafts: Sequence[Draft]) -> Floats:
        import torch

        pictures = pictures_of("ImageClassifier", drafts)
        with torch.inference_mode():
            logits = self._logits(pictures, torch)
        asked = str(question(prompt) if self.label is None else self.label)
        number = self._number(asked)
        if logits.ndim != 2 or len(logits) != len(pictures) or not number < logits.shape[1]:
            raise RewardError(
                f"the classifier returned logits of shape {tuple(logits.shape)} for {len(pictures)} pictures, and class {number} "
                "is wanted: return [pictures, classes]"
            )
        return torch.log_softmax(logits.float(), -1)[:, number].double().cpu().numpy()

    def _logits(self, pictures: Sequence[Picture], torch: Any) -> Any:
        if self._processor is not None:
            read = self._processor(images=[colours(each) for each in pictures], return_tensors="pt")
            return self._model(**read.to(self._model.device)).logits
        if len({picture.shape for picture in pictures}) != 1:
            raise RewardError(f"a classifier takes pictures of one size, and these have {sorted({p.shape for p in pictures})}")
        stacked = torch.tensor(np.stack(pictures), dtype=torch.float32)
        return self._model(stacked[:, None] if stacked.ndim == 3 else stacked.permute(0, 3, 1, 2))

    def _number(self, asked: str) -> int:
        if asked.strip().isdigit():
            return int(asked)
        names = getattr(getattr(self._model, "config", None), "id2label", None) or {}
        found = [int(number) for number, name in names.items() if asked.strip().lower() in str(name).lower().split(", ")]
        if not found:
            some = ", ".join(map(str, list(names.values())[:5]))
            raise RewardError(
                f"the classifier has no class {asked!r}: give label= a number" + (f", or one of {some}, …" if some else "")
            )
        return found[0]


@dataclass(frozen=True)
class TextSimilarity:
    """The cosine of a picture and a text in a model of both, such as CLIP.

    source: a hub id or folder of such a model of transformers, with a processor.
    text: the text; the prompt where not given.
    device: where the model runs.
    """

    source: str | Path
    text: str | None = None
    device: str | None = field(default=None, compare=False)
    _model: Any = field(init=False, repr=False, compare=False)
    _processor: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        prepare_torch("TextSimilarity")
        require("TextSimilarity", "image", ("PIL",))
        model, processor = _read(str(self.source), "AutoModel", self.device)
        if not (callable(getattr(model, "get_image_features", None)) and callable(getattr(model, "get_text_features", None))):
            raise ModelError(
                f"{self.source} is a {type(model).__name__}, which compares no pictures with texts: give a CLIP or SigLIP"
            )
        object.__setattr__(self, "_model", model)
        object.__setattr__(self, "_processor", processor)

    def __call__(self, prompt: Prompt, drafts: Sequence[Draft]) -> Floats:
        import torch

        pictures = [colours(each) for each in pictures_of("TextSimilarity", drafts)]
        text = question(prompt) if self.text is None else self.text
        most = self._model.config.text_config.max_position_embeddings
        if (length := len(self._processor.tokenizer(text).input_ids)) > most:
            raise RewardError(
                f"the text {text[:60]!r} has {length} tokens, and {self.source} reads {most}: give text= a shorter one"
            )
        # Padded to its full length, as SigLIP was trained; CLIP does not look at what it is padded with.
        read = self._processor(text=[text], images=pictures, return_tensors="pt", padding="max_length", max_length=most)
        read = read.to(self._model.device)
        with torch.inference_mode():
            outputs = self._model(**read)
        picture, words = outputs.image_embeds.float(), outputs.text_embeds.float()
        return torch.nn.functional.cosine_similarity(picture, words).double().cpu().numpy()


def _read(source: str, kind: str, device: str | None) -> tuple[Any, Any]:
    """A model of transformers with its processor."""
    import transformers

    from exptilt.engines.checkpoints import Form, Repository, read_whole, reading

    form = Form(dtype="auto", device=device)
    model = read_whole(getattr(transformers, kind), source, source, "a model of pictures", form=form, files=Repository())
    with reading(source, "a model of pictures"):
        processor = (transformers.AutoProcessor if kind == "AutoModel" else transformers.AutoImageProcessor).from_pretrained(
            source
        )
    return model.eval(), processor
