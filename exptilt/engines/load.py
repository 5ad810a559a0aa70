"""`load`: an engine by name. The packages that an engine needs are imported when it is loaded, not before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from exptilt.core import Engine
from exptilt.engines.language import LanguageEngine
from exptilt.engines.requirements import prepare_torch, require
from exptilt.engines.sampling import Sampling
from exptilt.errors import ModelError

SHIPPED = ("tiny", "tiny-small")
SHIPPED_MASKED: Mapping[str, Mapping[str, Any]] = {"tiny-mdlm": {"max_tokens": 64, "block": 8, "order": "left"}}  # their laws
MAX_TOKENS = 256
KNOWN = (
    '"hf:HUB-ID-OR-FOLDER", "gguf:FILE", "llamacpp:FILE", "vllm:HUB-ID-OR-FOLDER", "openai:MODEL", "mdlm:HUB-ID-OR-FOLDER", '
    '"tiny", "tiny-small" and "tiny-mdlm"'
)
MODELS = Path(__file__).resolve().parents[1] / "models"


def load(
    name: str,
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int | None = None,
    max_tokens: int | None = None,
    stop: Sequence[str] = (),
    dtype: str = "float32",
    device: str | None = None,
    system: str | None = None,
    template: bool = True,
    **weights: Any,
) -> Engine:
    """Load a model and fix its sampling parameters: the law p(y|x).

    name: "hf:HUB-ID-OR-FOLDER", any causal language model of transformers; "gguf:FILE", converted once and then read
        from a cache; "tiny" or "tiny-small", two small models that ship with exptilt and solve word problems;
        "llamacpp:FILE", a GGUF file as it is, quantised weights included, in llama.cpp; "vllm:HUB-ID-OR-FOLDER", the same
        models as "hf:" in vLLM; both in this process;
        "openai:MODEL", a model behind a server that speaks OpenAI's protocol;
        "mdlm:HUB-ID-OR-FOLDER", a masked-diffusion model; "tiny-mdlm", a small one that ships with exptilt.
    temperature, top_p, top_k, max_tokens, stop: see `exptilt.engines.sampling.Sampling`; max_tokens is 256 where not given,
        64 for "tiny-mdlm". Masked-diffusion models take no stop strings.
    dtype: "float32", "bfloat16" or "float16"; only float32 keeps drafts independent of what else is in the batch.
    device: such as "cpu" or "cuda:1"; None takes CUDA where there is one.
    system: a text for the system turn of the model's chat template; template=False feeds prompts without template.
    weights: for "openai:", where the server is and how to ask it: base_url, mode, seeds, concurrency, timeout and more
        (see `exptilt.engines.openai.connect` and `OpenAIBackend`). For the others: max_rows and
        rows_memory, how many rows decode at once and how many bytes of key-values they may take; memory, bytes for the
        key-values of prefixes (see `Weights`).
        For "llamacpp:": max_rows, memory, threads, tokenizer, ends (see `exptilt.engines.llamacpp.loading.read_weights`).
        For "vllm:": max_rows, and any option of vLLM's engine (see `exptilt.engines.vllm.loading.read_model`).
        For "mdlm:": block, per_step, order, threshold, cache, guidance, of `exptilt.engines.diffusion.DiffusionSampling`, and
        trust_remote_code, mask, shifted, max_rows, rows_memory (see `exptilt.engines.diffusion.loading.read_masked_weights`).

    Raises ModelError where the model is unknown, cannot be read or needs a package that is not installed; ValueError
    for parameters out of range.
    """
    kind, _, rest = name.partition(":")
    if name in SHIPPED_MASKED or (kind == "mdlm" and rest):
        law = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "max_tokens": max_tokens, "stop": stop}
        return _masked(name, rest, law, {"dtype": dtype, "device": device, **weights}, system, template)
    sampling = Sampling(temperature, top_p, top_k, MAX_TOKENS if max_tokens is None else max_tokens, stop)
    if kind == "openai" and rest:
        if (dtype, device) != ("float32", None):
            raise ValueError(f"dtype={dtype!r} and device={device!r} are the server's own choice for {name!r}: leave them out")
        return _served(name, rest, sampling, system, template, **weights)
    if kind == "llamacpp" and rest:
        return _in_llamacpp(name, rest, sampling, system, template, {"dtype": dtype, "device": device, **weights})
    if kind == "vllm" and rest:
        if device is not None:
            raise ValueError(f"device={device!r} is vLLM's own choice for {name!r}: leave it out, or set CUDA_VISIBLE_DEVICES")
        return _in_vllm(name, rest, sampling, system, template, {"dtype": dtype, **weights})
    if not (name in SHIPPED or (kind in ("hf", "gguf") and rest)):
        raise ModelError(f"{name!r} is not the name of a model: exptilt knows {KNOWN}.")
    prepare_torch(name)
    source = _gguf(rest, name) if kind == "gguf" else find_source(rest, name) if kind == "hf" else _shipped(name)

    from exptilt.engines.hf.loading import read_weights

    read = read_weights(source, name=name, dtype=dtype, device=device, **weights)
    return LanguageEngine(read, sampling, system, template)


def _served(
    name: str,
    model: str,
    sampling: Sampling,
    system: str | None,
    template: bool,
    seeds: bool = True,
    extra: Mapping[str, Any] | None = None,
    **connection: Any,
) -> Engine:
    require(name, "openai", ("httpx2",))
    from exptilt.engines.openai import OpenAIBackend, connect

    server = connect(model, template=template, **connection)
    with _closed_on_error(server):
        return LanguageEngine(OpenAIBackend(server, seeds=seeds, extra=extra, template=template), sampling, system, template)


def _in_llamacpp(
    name: str, file: str, sampling: Sampling, system: str | None, template: bool, weights: Mapping[str, Any]
) -> Engine:
    path = _file(file, name)
    require(name, "llamacpp", ("llama_cpp", "jinja2"))
    from exptilt.engines.llamacpp.loading import read_weights

    read = read_weights(path, name=name, **weights)
    with _closed_on_error(read):
        return LanguageEngine(read, sampling, system, template)


def _in_vllm(name: str, rest: str, sampling: Sampling, system: str | None, template: bool, weights: Mapping[str, Any]) -> Engine:
    require(name, "vllm", ("vllm", "transformers"))
    from exptilt.engines.vllm.loading import read_model

    model = read_model(find_source(rest, name), name=name, **weights)
    with _closed_on_error(model):
        return LanguageEngine(model, sampling, system, template)


@contextmanager
def _closed_on_error(opened: Any) -> Iterator[None]:
    """Close what was opened for an engine that then refuses its parameters."""
    try:
        yield
    except BaseException:
        opened.close()
        raise


def _masked(
    name: str, rest: str, law: Mapping[str, Any], weights: Mapping[str, Any], system: str | None, template: bool
) -> Engine:
    """A masked-diffusion engine. law: parameters that are None or empty count as not given."""
    if law["stop"]:
        raise ValueError(
            f"stop={law['stop']!r}: {name!r} decides positions in any order and takes no stop strings; leave them out"
        )
    prepare_torch(name)
    from exptilt.engines.diffusion import DiffusionSampling
    from exptilt.engines.diffusion.loading import read_masked_weights

    given = {key: value for key, value in law.items() if key != "stop" and value is not None}
    more = {key: value for key, value in weights.items() if key in DiffusionSampling.__dataclass_fields__}
    sampling = DiffusionSampling(**{**SHIPPED_MASKED.get(name, {}), **given, **more})
    read = {key: value for key, value in weights.items() if key not in more}
    source = _shipped(name) if name in SHIPPED_MASKED else find_source(rest, name)
    return LanguageEngine(read_masked_weights(source, name=name, **read), sampling, system, template)


def find_source(rest: str, name: str) -> str | Path:
    """A folder where there is one of this name, else a hub id."""
    path = Path(rest).expanduser()
    if path.is_dir():
        return path
    if rest.startswith(("/", ".", "~")):
        raise ModelError(f"{name!r}: there is no folder {path}. Give a folder as save_pretrained writes it, or a hub id.")
    return rest


def _gguf(file: str, name: str) -> Path:
    path = _file(file, name)
    require(name, "gguf", ("gguf", "accelerate"))
    from exptilt.engines.hf.loading import converted

    return converted(path)


def _file(file: str, name: str) -> Path:
    path = Path(file).expanduser()
    if not path.is_file():
        raise ModelError(f"{name!r}: there is no file {path}. Give the path of a GGUF file after the colon.")
    return path


def _shipped(name: str) -> Path:
    folder = MODELS / name
    if not folder.is_dir():
        raise ModelError(f"{name!r} is missing from this installation: there is no folder {folder}. Install exptilt again.")
    return folder
