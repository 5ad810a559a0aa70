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
from exptilt.engines.image.prompts import Classes, Nothing, PooledTexts, Prompts, Texts
from exptilt.engines.image.sampling import ImageSampling
from exptilt.engines.image.schedules import scheduler_of
from exptilt.engines.options import check_values
from exptilt.engines.scheduler import Scheduler
from exptilt.errors import ModelError

MOST_ROWS = 64  # pictures that go through the network at once, where not given
KNOWN = "a UNet2DModel (with or without classes), a DiT, Stable Diffusion 1 or 2, or Stable Diffusion XL"


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
    check_values({"max_rows": max_rows, "null": null})
    with _reading(name):
        diffusers: Any = importlib.import_module("diffusers")
        pipeline: Any = diffusers.DiffusionPipeline.from_pretrained(source, dtype=number, safety_checker=None)
    parts = {key: part for key, part in pipeline.components.items() if part is not None}
    for part in parts.values():
        if callable(getattr(part, "eval", None)):
            part.eval().to(where)
    if dtype == "float16" and "vae" in parts and parts["vae"].config.get("force_upcast"):
        parts["vae"].float()  # its numbers leave the range of float16
    network, prompts, decoder = _parts(pipeline, parts, name, labels, null)
    found = Network(network, prompts, scheduler_of(parts["scheduler"], scheduler, name), decoder, name)
    found.pipeline, found.part = pipeline, "unet" if "unet" in parts else "transformer"
    return found


def open_engine(network: Network, sampling: ImageSampling, max_rows: int | None = None) -> ImageEngine:
    """An engine of a network, whose callers' pictures are denoised together."""
    most = MOST_ROWS if max_rows is None else max_rows
    batch: Scheduler[Any] = Scheduler(Denoiser(network, SHARED, most), max_rows=most, name=network.name)
    return ImageEngine(network, batch.run, sampling, paths=SHARED, busy=batch.call, closing=batch.close, most=most)


def _parts(
    pipeline: Any, parts: Mapping[str, Any], name: str, labels: Mapping[str, int] | None, null: int | None
) -> tuple[Any, Prompts, Any]:
    """The network, what it is told of prompts, and the decoder of its states."""
    network: Any = parts.get("unet") or parts.get("transformer")
    decoder = parts.get("vae")
    found = _prompts(pipeline, parts, name, labels or {}, null)
    if found is None:
        held = ", ".join(f"{key}: {type(part).__name__}" for key, part in parts.items())
        raise ModelError(f"{name} is a pipeline of another kind than exptilt knows ({held}): give one with {KNOWN}")
    if decoder is not None and (reads := network.config.in_channels) != (codes := decoder.config.latent_channels):
        raise ModelError(
            f"the network of {name} reads {reads} channels, and its autoencoder's codes have {codes}: it is told of another "
            f"picture too, as for filling in parts of one. Give a pipeline that draws pictures from noise alone, with {KNOWN}."
        )
    if not isinstance(found, Classes) and labels:
        raise ValueError(f"labels= names classes, and {name} has none: leave it out")
    if null is not None and not (isinstance(found, Classes) and found.null == null):
        raise ValueError(
            f"null={null} is for models of classes that do not say what stands for none, unlike {name}: leave it out"
        )
    return network, found, decoder


def _prompts(pipeline: Any, parts: Mapping[str, Any], name: str, labels: Mapping[str, int], null: int | None) -> Prompts | None:
    """What the network is told of prompts; None for a pipeline of a kind that is not known."""
    network: Any = parts.get("unet") or parts.get("transformer")
    kind, coded = type(network).__name__, "vae" in parts
    extra = parts.keys() - {"unet", "transformer", "vae", "scheduler", "text_encoder", "tokenizer", "feature_extractor"}
    if kind == "UNet2DModel" and not coded and not extra:
        count = network.config.num_class_embeds
        return Nothing() if count is None else Classes(name, count, _labels(labels, count, name), _null(null, count))
    if kind == "DiTTransformer2DModel" and coded and not extra:
        count = network.config.num_embeds_ada_norm  # and one more, that stands for no class
        return Classes(name, count, _labels(labels or pipeline.labels or {}, count, name), count)
    if kind != "UNet2DConditionModel" or not coded or network.config.time_cond_proj_dim is not None:
        return None
    if "text_encoder" in parts and network.config.addition_embed_type is None and not extra:
        return Texts(name, parts["tokenizer"], parts["text_encoder"])
    if type(pipeline).__name__ == "StableDiffusionXLPipeline" and network.config.addition_embed_type == "text_time":
        size = network.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return PooledTexts(name, pipeline, (height * pipeline.vae_scale_factor, width * pipeline.vae_scale_factor))
    return None


def _labels(labels: Mapping[str, int], count: int, name: str) -> Mapping[str, int]:
    if not isinstance(labels, Mapping):
        raise ValueError(f'labels={labels!r:.60} must name classes with their numbers, such as {{"cat": 0, "dog": 1}}')
    if wrong := [f"{label!r}: {number!r}" for label, number in labels.items() if number not in range(count)]:
        raise ValueError(f"labels has {', '.join(wrong[:3])}, and {name} has the classes 0 to {count - 1}: give each label one")
    return labels


def _null(null: int | None, count: int) -> int | None:
    if null is not None and null not in range(count):
        raise ValueError(f"null={null!r} is not a class: give a number from 0 to {count - 1}")
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
