"""`load`: an engine by name.

Models of exptilt's own kinds are opened by `exptilt.engines.openers`. An installed package offers its engines under entry
points of the group `exptilt.engines`; your own engine is named by its file or module, as FILE.py:NAME or package.module:NAME.
Both are an engine, or a function that makes one: it gets the options that it names, and what stands after the name of an entry
point and a colon as its first argument.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Protocol, Self, cast

from exptilt.core import Engine
from exptilt.engines.openers import KINDS, Asked, held
from exptilt.engines.options import check_options, check_values, options_of, renamed
from exptilt.engines.sampling import LATER, Sampling
from exptilt.errors import ModelError, did_you_mean
from exptilt.objects import find_object

GROUP = "exptilt.engines"  # of entry points
OWN = "FILE.py:NAME or package.module:NAME"
MODEL_FILES = ("config.json", "adapter_config.json")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
OTHER_NAMES = {"huggingface": "hf", "transformers": "hf", "hub": "hf", "llama.cpp": "llamacpp", "llama-cpp": "llamacpp"}


class OpenEngine(Engine, Protocol):
    """An engine that holds a model until it is closed, or until the end of `with engine`."""

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...


def load(
    name: Any,
    *,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    max_tokens: int | None = None,
    stop: str | Sequence[str] | None = None,
    system: str | None = None,
    template: bool = True,
    template_kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> OpenEngine:
    """Load a model and fix its sampling parameters: the distribution p(y|x).

    name: "hf:HUB-ID-OR-FOLDER", any causal language model of transformers (a folder of one needs no "hf:"); "gguf:FILE",
        converted once and then read from a cache; "tiny" or "tiny-small", two small models that ship with exptilt and solve
        word problems, or "tiny-chain", which works running totals of 4 to 48 steps;
        "llamacpp:FILE", a GGUF file as it is, quantised weights included, in llama.cpp; "vllm:HUB-ID-OR-FOLDER", the same
        models as "hf:" in vLLM; both in this process;
        "openai:MODEL", a model behind a server that speaks OpenAI's protocol;
        "mdlm:HUB-ID-OR-FOLDER", a masked-diffusion model; "tiny-mdlm", a small one that ships with exptilt;
        "image:HUB-ID-OR-FOLDER", a pipeline of diffusers that draws pictures (`exptilt.engines.image`);
        "digits", a small one that ships with exptilt and draws handwritten digits;
        an engine of an installed package by the name of its entry point; your own as "FILE.py:NAME" or "package.module:NAME";
        or a model of transformers itself, with tokenizer=, which is left as it is (docs/models.md).
    temperature, top_p, top_k, max_tokens, stop: see `exptilt.engines.sampling.Sampling`; 1, 1, all tokens, 256 and none where not
        given, but 64 tokens for "tiny-mdlm". Its min_p, stop_token_ids, repetition_penalty, presence_penalty, frequency_penalty
        and logit_bias are taken as well, and are part of the distribution. Masked-diffusion models have min_p alone of these, and
        take no stop strings.
    system: the system turn of prompts that have none; template=False feeds prompts as they are, without chat template.
    template_kwargs: variables of the chat template, such as {"enable_thinking": False}; behind a server they go to the request
        that applies it. Those that the template does not read are refused.
    options: what the kind of model has besides. All but servers have dtype, "float32" (where not given), "bfloat16" or
        "float16", of which only float32 keeps drafts independent of what else is in the batch, and device, such as "cpu" or
        "cuda:1", which is CUDA where there is one; those in memory have max_rows and memory as well, how many rows decode at once
        and how many bytes prefixes that may come again may take. The others stand at the functions that read the models:
        `read_weights` of `exptilt.engines.hf.loading`, `Weights` of `exptilt.engines.llamacpp`,
        `exptilt.engines.vllm.loading.read_model`, `exptilt.engines.openai.connect` and `OpenAIBackend` (base_url, mode, seeds,
        concurrency, timeout), `exptilt.engines.diffusion.loading.read_masked_weights` and `DiffusionSampling`,
        `exptilt.engines.image.loading.read_image_model` and `ImageSampling`.

    Engines of exptilt's own close with `engine.close()`, or at the end of `with load(...) as engine`; yours as you write them.
    Raises ModelError where the model is unknown, cannot be read or needs a package that is not installed; ValueError
    for options that it does not have and values out of range; UsageError where an object of your own cannot be found.
    """
    sampling = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "max_tokens": max_tokens, "stop": stop}
    asked = {**sampling, **options}
    name = os.fspath(name) if isinstance(name, os.PathLike) else name
    if not isinstance(name, str):
        given, rest = _parted(asked)
        return held(Asked(f"memory:{type(name).__name__}", "", given, system, template, _variables(template_kwargs)), rest, name)
    name = f"hf:{name}" if _is_model_folder(name) else name
    kind, colon, source = name.partition(":")
    if kind in KINDS and bool(source) == bool(KINDS[kind].follows) and not (colon and not source):
        given, rest = _parted(asked)
        return KINDS[kind].open(Asked(name, source, given, system, template, _variables(template_kwargs)), rest)
    prompted = {"system": system, "template": None if template else False, "template_kwargs": template_kwargs or None}
    return _theirs(name, {key: value for key, value in {**asked, **prompted}.items() if value is not None})


def _parted(asked: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What was given of sampling parameters, and of other options, by the names that they have here; their values are checked."""
    options = renamed(asked)
    check_values(options)
    names = ("temperature", "top_p", "top_k", "max_tokens", "stop", *LATER)
    return {name: options.pop(name) for name in names if name in options}, options


def _is_model_folder(name: str) -> bool:
    """Whether a name is a folder with a model of transformers or an adapter in it, and nothing else."""
    return bool(name) and name not in KINDS and any(os.path.isfile(Path(name).expanduser() / file) for file in MODEL_FILES)


def _variables(given: object) -> Mapping[str, Any]:
    if not (given is None or isinstance(given, Mapping)):
        raise ValueError(f'template_kwargs={given!r} has no names: give a dict such as {{"enable_thinking": False}}')
    return dict(given or {})


def known() -> str:
    """What `load` takes, in words."""
    own = [f'"{kind}:{each.follows}"' if each.follows else f'"{kind}"' for kind, each in KINDS.items()]
    theirs = [f'"{name}"' for name in _offered()]
    return f"{', '.join([*own, *theirs])}, or your own as {OWN}"


def _offered() -> dict[str, EntryPoint]:
    """Entry points of installed packages; exptilt's own kinds go before them."""
    return {point.name: point for point in entry_points(group=GROUP) if point.name not in KINDS}


def _theirs(name: str, given: Mapping[str, Any]) -> OpenEngine:
    """An engine that is not exptilt's own."""
    kind, colon, source = name.partition(":")
    if (point := _offered().get(kind)) is not None:
        return _made(name, _imported(point), (source,) if colon else (), given)
    if colon and source and kind.lower() not in OTHER_NAMES and (kind.endswith(".py") or "." in kind) and kind not in KINDS:
        return _made(name, find_object(name), (), given)
    near = _near(name) or ("" if kind in KINDS else did_you_mean(kind, [*KINDS, *_offered()]))
    raise ModelError(f"{name!r} is not the name of a model: exptilt knows {known()}.{near}")


def _near(name: str) -> str:
    """What a name that is none may have been meant as, in a sentence after a space."""
    kind, colon, source = name.partition(":")
    if colon and source and kind.lower() in OTHER_NAMES:
        return f" Did you mean {OTHER_NAMES[kind.lower()]}:{source}?"
    if name.endswith(".py"):
        return f" Which object of it? Write {name}:NAME."
    if name.endswith(".gguf"):
        return f" For a GGUF file write llamacpp:{name}, or gguf:{name} to run it in transformers."
    if name.startswith(("http://", "https://")):
        return f" For a server give the model's name and its address: openai:MODEL with base_url={name!r}."
    if HUB_ID.fullmatch(name):
        return f" Did you mean hf:{name}?"
    return ""


def _imported(point: EntryPoint) -> Any:
    try:
        return point.load()
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        raise ModelError(f"the engine {point.name!r}, which is {point.value}, cannot be imported ({why})") from error


def _made(name: str, found: Any, source: Sequence[str], given: Mapping[str, Any]) -> OpenEngine:
    """The engine that an object is or makes."""
    if isinstance(found, Engine) and not isinstance(found, type):
        check_options(name, given, options_of(Sampling))
        return cast(OpenEngine, found.with_sampling(**given) if given else found)
    if not callable(found):
        raise ModelError(f"{name} is {found!r:.80}, which is neither an engine nor a function that makes one")
    _check_call(name, found, source, given)
    made = found(*source, **given)
    if not isinstance(made, Engine):
        raise ModelError(
            f"{name} returned {made!r:.80}, which is not an engine: give it what `exptilt.core.Engine` lists, most simply by "
            "`exptilt.engines.language.LanguageEngine`"
        )
    return cast(OpenEngine, made)


def _check_call(name: str, function: Callable[..., Any], source: Sequence[str], given: Mapping[str, Any]) -> None:
    """Refuse options that a function does not name, and calls that lack one."""
    signature = inspect.signature(function)
    parameters = signature.parameters.values()
    if all(each.kind is not each.VAR_KEYWORD for each in parameters):
        named = [each.name for each in parameters if each.kind in (each.KEYWORD_ONLY, each.POSITIONAL_OR_KEYWORD)]
        check_options(name, given, named[len(source) :])
    try:
        signature.bind(*source, **given)
    except TypeError as error:
        takes = signature.replace(return_annotation=signature.empty)
        raise ValueError(f"{name!r} cannot be made: {error}. Its parameters are {takes}.") from error
