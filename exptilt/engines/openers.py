"""How each kind of model is opened; its packages are imported when it is asked for, not before.

The options of a kind are the keyword parameters of the functions that read its models.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from exptilt.engines.files import find_source, model_file, shipped
from exptilt.engines.image import ImageEngine
from exptilt.engines.language import LanguageEngine
from exptilt.engines.requirements import prepare_torch, require
from exptilt.engines.sampling import Sampling
from exptilt.errors import did_you_mean

Options = Mapping[str, Any]
TINY_MDLM: Options = {"max_tokens": 64, "block": 8, "order": "left"}
DIGITS: Options = {"steps": 20, "null": 10}
OTHERS = frozenset({"name", "template", "server"})  # parameters of those functions that `load` sets


@dataclass(frozen=True)
class Asked:
    """What `load` is asked for, apart from the options of one kind of model.

    name: as the user wrote it.
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


def options_of(*functions: Callable[..., Any]) -> list[str]:
    """The names of the options that some functions take."""
    parameters = [each for function in functions for each in inspect.signature(function).parameters.values()]
    named = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY or each.default is not each.empty]
    return [name for name in dict.fromkeys(named) if name not in OTHERS]


def check_options(name: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse options that a model does not have, with those that it has."""
    known = sorted(known)
    if unknown := sorted(set(given) - set(known)):
        has = f"it has {', '.join(known)}" if known else "it has none"
        raise ValueError(f"{name!r} has no option {', '.join(unknown)}: {has}.{did_you_mean(unknown[0], known)}")


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
    from exptilt.engines.hf.loading import read_weights

    check_options(asked.name, options, options_of(read_weights))
    sampling = Sampling(**asked.sampling)  # values out of range are refused before anything is read
    return _engine(asked, read_weights(source(), name=asked.name, **options), sampling)


def hf(asked: Asked, options: Options) -> LanguageEngine[Any]:
    """A causal language model in transformers."""
    prepare_torch(asked.name)
    return _transformers(asked, options, lambda: find_source(asked.source, asked.name))


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

    return _engine(asked, read_model(find_source(asked.source, asked.name), name=asked.name, **options))


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
    prepare_torch(asked.name)
    from exptilt.engines.diffusion import DiffusionSampling
    from exptilt.engines.diffusion.loading import read_masked_weights

    own = [name for name in options_of(DiffusionSampling) if name not in options_of(Sampling)]
    check_options(asked.name, options, [*options_of(read_masked_weights), *own])
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
