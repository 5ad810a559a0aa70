"""Read a pipeline of diffusers from a hub id or a folder, and find what is needed of it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from exptilt.engines.checkpoints import device_or_default, dtype_named
from exptilt.engines.image.decode import Denoiser
from exptilt.engines.image.engine import ImageEngine
from exptilt.engines.image.networks import Network
from exptilt.engines.image.paths import SHARED
from exptilt.engines.image.prompts import Classes, Nothing, Texts
from exptilt.engines.image.sampling import ImageSampling
from exptilt.engines.image.schedules import scheduler_of
from exptilt.engines.scheduler import Scheduler
from exptilt.errors import ModelError

MOST_ROWS = 64  # pictures that go through the network at once, where not given
KNOWN = "a UNet2DModel (with or without classes), a DiT, or a UNet2DConditionModel with one text encoder"


def read_image_model(
    source: str | Path,
    *,
    name: str,
    dtype: str = "float32",
    device: str | None = None,
    max_rows: int | None = None,
    scheduler: str | None = None,
    labels: Mapping[str, int] | None = None,
    null: int | None = None,
) -> Network:
    """Load a pipeline. source: a hub id, or a folder as `save_pretrained` of a pipeline writes it.

    dtype, device: as for language models.
    max_rows: pictures that go through the network at once.
    scheduler: "ddpm", "ddim" or "euler-ancestral" instead of the one that the pipeline came with.
    labels: names of classes with their numbers, where the pipeline has none.
    null: the class number that stood for "no class" in training, needed for guidance where the pipeline does not tell.
    Raises ModelError where it cannot be read or used.
    """
    number, where = dtype_named(dtype), device_or_default(device)
    if max_rows is not None and not (isinstance(max_rows, int) and max_rows >= 1):
        raise ValueError(f"max_rows={max_rows!r} must be a whole number of 1 or more")
    with _reading(name):
        diffusers: Any = importlib.import_module("diffusers")
        pipeline: Any = diffusers.DiffusionPipeline.from_pretrained(source, dtype=number, safety_checker=None)
    parts = {key: part for key, part in pipeline.components.items() if part is not None}
    for part in parts.values():
        if callable(getattr(part, "eval", None)):
            part.eval().to(where)
    network, prompts, decoder = _parts(pipeline, parts, name, labels, null)
    found = Network(network, prompts, scheduler_of(parts["scheduler"], scheduler, name), decoder, name)
    found.pipeline, found.part = pipeline, "unet" if "unet" in parts else "transformer"
    return found


def open_engine(network: Network, sampling: ImageSampling, max_rows: int | None = None) -> ImageEngine:
    """An engine of a network, whose callers' pictures are denoised together."""
    most = max_rows or MOST_ROWS
    batch: Scheduler[Any] = Scheduler(Denoiser(network, SHARED, most), max_rows=most, name=network.name)
    return ImageEngine(network, batch.run, sampling, paths=SHARED, busy=batch.call, closing=batch.close, most=most)


def _parts(
    pipeline: Any, parts: Mapping[str, Any], name: str, labels: Mapping[str, int] | None, null: int | None
) -> tuple[Any, Classes | Texts | Nothing, Any]:
    """The network, what it is told of prompts, and the decoder of its states."""
    network: Any = parts.get("unet") or parts.get("transformer")
    decoder = parts.get("vae")
    kind = type(network).__name__
    extra = sorted(parts.keys() - {"unet", "transformer", "vae", "scheduler", "text_encoder", "tokenizer", "feature_extractor"})
    if kind == "UNet2DModel" and decoder is None and not extra:
        count = network.config.num_class_embeds
        if count is None:
            return network, Nothing(), None
        return network, Classes(name, count, labels or {}, _null(null, count)), None
    if kind == "DiTTransformer2DModel" and decoder is not None and not extra:
        count = network.config.num_embeds_ada_norm  # and one more, that stands for no class
        return network, Classes(name, count, labels or pipeline.labels or {}, count), decoder
    if kind == "UNet2DConditionModel" and decoder is not None and "text_encoder" in parts and not extra:
        return network, Texts(name, parts["tokenizer"], parts["text_encoder"]), decoder
    held = ", ".join(f"{key}: {type(part).__name__}" for key, part in parts.items())
    raise ModelError(f"{name} is a pipeline of another kind than exptilt knows ({held}): give one with {KNOWN}")


def _null(null: int | None, count: int) -> int | None:
    if null is not None and not 0 <= null < count:
        raise ValueError(f"null={null} is not a class: the model has 0 to {count - 1}")
    return null


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Read files of diffusers without progress bars, and turn whatever it raises into one ModelError."""
    from diffusers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())[:400]
        raise ModelError(
            f"{name} cannot be read by diffusers: {type(error).__name__}: {reason} Check the name, the files and, for a hub id, "
            "the connection; it must be a pipeline, a folder with model_index.json."
        ) from error
    finally:
        logging.set_verbosity(level)
        logging.enable_progress_bar()
