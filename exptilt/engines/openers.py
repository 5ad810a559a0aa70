"""How each kind of model is opened; its packages are imported when it is asked for, not before.

The options of a kind are the keyword parameters of the functions that read its models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from exptilt.engines.files import find_source, model_file, shipped
from exptilt.engines.generation import tell_generation
from exptilt.engines.image import ImageEngine
from exptilt.engines.language import LanguageEngine
from exptilt.engines.options import check_options, options_of
from exptilt.engines.requirements import prepare_torch, require
from exptilt.engines.sampling import LATER, Sampling

Options = Mapping[str, Any]
TINY_MDLM: Options = {"max_tokens": 64, "block": 8, "order": "left"}
DIGITS: Options = {"steps": 20, "null": 10}


@dataclass(frozen=True)
class Asked:
    """What `load` is asked for, apart from the options of one kind of model.

    name: as the user wrote it; for a model in memory, what it is.
    source: what stands after the kind.
    sampling: the sampling parameters that were given.
    system, template, template_kwargs: as in `LanguageEngine`.
    """

    name: str
    source: str
    sampling: Options = field(default_factory=dict)
    system: str | None = None
    template: bool = True
    template_kwargs: Options = field(default_factory=dict)


class Kind(NamedTuple):
    """A kind of model: what stands after its name, and how one is opened."""

    follows: str
    open: Callable[[Asked, Options], LanguageEngine[Any] | ImageEngine]


@contextmanager
def closed_on_error(opened: Any) -> Iterator[None]:
    """Close what was opened for an engine that then refuses its parameters."""
    try:
        yield
    except BaseException:
        opened.close()
        raise


def _engine(asked: Asked, backend: Any, sampling: Any = None) -> LanguageEngine[Any]:
    with closed_on_error(backend):
        chosen = sampling or Sampling(**asked.sampling)
        return LanguageEngine(backend, chosen, asked.system, asked.template, asked.template_kwargs)


def _transformers(asked: Asked, options: Options, source: Any) -> LanguageEngine[Any]:
    from exptilt.engines.hf.loading import OPTIONS, read_weights

    check_options(asked.name, options, options_of(*OPTIONS))
    sampling = Sampling(**asked.sampling)  # values out of range are refused before anything is read
    weights = read_weights(source(), name=asked.name, **options)
    tell_generation(asked.name, weights.model.generation_config, asked.sampling)
    return _engine(asked, weights, sampling)


def hf(asked: Asked, options: Options) -> LanguageEngine[Any]:
    """A causal language model in transformers."""
    prepare_torch(asked.name)
    return _transformers(asked, options, lambda: find_source(asked.source, asked.name))


def held(asked: Asked, options: Options, model: Any) -> LanguageEngine[Any]:
    """A causal language model of transformers that the caller holds."""
    prepare_torch(asked.name)
    from exptilt.engines.hf.loading import OF_HELD, OPTIONS, check_model, held_weights

    check_model(model, asked.name)
    if settled := sorted(set(options) & {*options_of(*OPTIONS)} - {*options_of(*OF_HELD)}):
        raise ValueError(f"{', '.join(settled)}: {asked.name} is in memory already, as it is: leave this out")
    check_options(asked.name, options, options_of(*OF_HELD))
    sampling = Sampling(**asked.sampling)
    weights = held_weights(model, name=asked.name, **options)
    tell_generation(asked.name, weights.model.generation_config, asked.sampling)
    return _engine(asked, weights, sampling)


def gguf(asked: Asked, options: Options) -> LanguageEngine[Any]:
    """A GGUF file, converted for transformers once."""
    file = model_file(asked.source, asked.name)
    prepare_torch(asked.name)
    require(asked.name, "gguf", ("gguf", "accelerate"))
    from exptilt.engines.hf.loading import converted

    return _transformers(asked, options, lambda: converted(file))


def tiny(asked: Asked, options: Options) -> LanguageEngine[Any]:
    """A causal language model that ships with exptilt."""
    prepare_torch(asked.name)
    return _transformers(asked, options, lambda: shipped(asked.name))


def llamacpp(asked: Asked, options: Options) -> LanguageEngine[Any]:
    """A GGUF file as it is, in llama.cpp."""
    file = model_file(asked.source, asked.name)
    require(asked.name, "llamacpp", ("llama_cpp", "jinja2"))
    from exptilt.engines.llamacpp import Weights
    from exptilt.engines.llamacpp.loading import read_weights

    check_options(asked.name, options, options_of(Weights))
    return _engine(asked, read_weights(file, name=asked.name, **options))


def vllm(asked: Asked, options: Options) -> LanguageEngine[Any]:
    """A causal language model in vLLM, in this process."""
    if (device := options.get("device")) is not None:
        raise ValueError(f"device={device!r} is vLLM's own choice for {asked.name!r}: leave it out, or set CUDA_VISIBLE_DEVICES")
    require(asked.name, "vllm", ("vllm", "transformers"))
    from exptilt.engines.vllm.loading import read_model

    model = read_model(find_source(asked.source, asked.name), name=asked.name, **options)
    tell_generation(asked.name, model.generation, asked.sampling)
    return _engine(asked, model)


def openai(asked: Asked, options: Options) -> LanguageEngine[Any]:
    """A model behind a server that speaks OpenAI's protocol."""
    require(asked.name, "openai", ("httpx2",))
    from exptilt.engines.openai import OpenAIBackend, connect

    own = options_of(OpenAIBackend)
    check_options(asked.name, options, [*options_of(connect), *own])
    connection = {name: value for name, value in options.items() if name not in own}
    server = connect(asked.source, template=asked.template, **connection)
    with closed_on_error(server):
        mine = {name: value for name, value in options.items() if name in own}
        return _engine(asked, OpenAIBackend(server, template=asked.template, **mine))


def mdlm(asked: Asked, options: Options) -> LanguageEngine[Any]:
    """A masked-diffusion model of transformers."""
    return _masked(asked, options, {}, lambda: find_source(asked.source, asked.name))


def tiny_mdlm(asked: Asked, options: Options) -> LanguageEngine[Any]:
    """A masked-diffusion model that ships with exptilt, under the sampling parameters that it is good at."""
    return _masked(asked, options, TINY_MDLM, lambda: shipped(asked.name))


def image(asked: Asked, options: Options) -> ImageEngine:
    """An image-diffusion pipeline of diffusers."""
    return _pictures(asked, options, {}, lambda: find_source(asked.source, asked.name))


def digits(asked: Asked, options: Options) -> ImageEngine:
    """A diffusion model of handwritten digits that ships with exptilt."""
    return _pictures(asked, options, DIGITS, lambda: shipped(asked.name))


def _pictures(asked: Asked, options: Options, start: Options, source: Any) -> ImageEngine:
    words = {**asked.sampling, "system": asked.system, "template": not asked.template, "template_kwargs": asked.template_kwargs}
    if given := [name for name, value in words.items() if value]:
        raise ValueError(
            f"{asked.name!r} draws pictures and takes no {', '.join(given)}, which are of texts: leave them out; it takes steps"
        )
    prepare_torch(asked.name)
    require(asked.name, "image", ("diffusers", "PIL"))
    from exptilt.engines.image.loading import open_engine, read_image_model
    from exptilt.engines.image.sampling import ImageSampling

    own = options_of(ImageSampling)
    check_options(asked.name, options, [*options_of(read_image_model), *own])
    chosen = {**start, **options}
    sampling = ImageSampling(**{name: chosen[name] for name in own if name in chosen})
    network = read_image_model(source(), name=asked.name, **{name: each for name, each in chosen.items() if name not in own})
    return open_engine(network, sampling, options.get("max_rows"))


def _masked(asked: Asked, options: Options, start: Options, source: Any) -> LanguageEngine[Any]:
    if stop := asked.sampling.get("stop"):
        raise ValueError(
            f"stop={stop!r}: {asked.name!r} decides positions in any order, so it takes no stop strings: leave them out"
        )
    if lacking := sorted(set(asked.sampling) & set(LATER) - {"min_p"}):
        raise ValueError(
            f"{', '.join(lacking)}: {asked.name!r} decides positions in any order, so what comes before a token is not known "
            "when it is drawn: leave this out"
        )
    prepare_torch(asked.name)
    from exptilt.engines.diffusion import DiffusionSampling
    from exptilt.engines.diffusion.loading import OPTIONS, read_masked_weights

    own = [name for name in options_of(DiffusionSampling) if name not in options_of(Sampling)]
    check_options(asked.name, options, [*options_of(read_masked_weights, *OPTIONS), *own])
    given = {name: value for name, value in asked.sampling.items() if name != "stop"}
    sampling = DiffusionSampling(**{**start, **given, **{name: options[name] for name in own if name in options}})
    read = {name: value for name, value in options.items() if name not in own}
    return _engine(asked, read_masked_weights(source(), name=asked.name, **read), sampling)


KINDS: Mapping[str, Kind] = {
    "hf": Kind("HUB-ID-OR-FOLDER", hf),
    "gguf": Kind("FILE", gguf),
    "llamacpp": Kind("FILE", llamacpp),
    "vllm": Kind("HUB-ID-OR-FOLDER", vllm),
    "openai": Kind("MODEL", openai),
    "mdlm": Kind("HUB-ID-OR-FOLDER", mdlm),
    "image": Kind("HUB-ID-OR-FOLDER", image),
    "tiny": Kind("", tiny),
    "tiny-small": Kind("", tiny),
    "tiny-chain": Kind("", tiny),
    "tiny-mdlm": Kind("", tiny_mdlm),
    "digits": Kind("", digits),
}
