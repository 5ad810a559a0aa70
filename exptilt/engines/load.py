"""`load`: an engine by name. The packages that an engine needs are imported when it is loaded, not before."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from exptilt.core import Engine
from exptilt.engines.sampling import Sampling
from exptilt.errors import ModelError

SHIPPED = ("tiny", "tiny-small")
PLANNED = {
    "vllm": "models served by vLLM",
    "openai": "servers that speak the OpenAI protocol",
    "mdlm": "masked-diffusion models",
}
KNOWN = '"hf:HUB-ID-OR-FOLDER", "gguf:FILE", "tiny" and "tiny-small"'
MODELS = Path(__file__).resolve().parents[1] / "models"


def load(
    name: str,
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int | None = None,
    max_tokens: int = 256,
    stop: Sequence[str] = (),
    dtype: str = "float32",
    device: str | None = None,
    system: str | None = None,
    template: bool = True,
    **weights: Any,
) -> Engine:
    """Load a model and fix its sampling parameters: the law p(y|x).

    name: "hf:HUB-ID-OR-FOLDER", any causal language model of transformers; "gguf:FILE", converted once and then read
        from a cache; "tiny" or "tiny-small", two small models that ship with exptilt and solve word problems.
    temperature, top_p, top_k, max_tokens, stop: see `exptilt.engines.sampling.Sampling`.
    dtype: "float32", "bfloat16" or "float16"; only float32 keeps drafts independent of what else is in the batch.
    device: such as "cpu" or "cuda:1"; None takes CUDA where there is one.
    system: a text for the system turn of the model's chat template; template=False feeds prompts without template.
    weights: max_rows, rows decoded at once; memory, bytes for the key-values of prefixes (see `Weights`).

    Raises ModelError where the model is unknown, cannot be read or needs a package that is not installed; ValueError
    for parameters out of range.
    """
    sampling = Sampling(temperature, top_p, top_k, max_tokens, stop)
    kind, _, rest = name.partition(":")
    if kind in PLANNED:
        raise ModelError(
            f"{name!r}: this version of exptilt cannot load {PLANNED[kind]} yet; it is planned. It can load {KNOWN}."
        )
    if not (name in SHIPPED or (kind in ("hf", "gguf") and rest)):
        raise ModelError(f"{name!r} is not the name of a model: exptilt knows {KNOWN}.")
    _require(name, "hf", ("torch", "transformers"))
    # Threads that wait for each other should soon sleep: spinning makes small models many times slower on shared cores.
    if not {"torch", "OMP_WAIT_POLICY"} & {*sys.modules, *os.environ}:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    source = _gguf(rest, name) if kind == "gguf" else _source(rest, name) if kind == "hf" else _shipped(name)

    from exptilt.engines.hf import HFEngine
    from exptilt.engines.hf.loading import read_weights

    read = read_weights(source, name=name, dtype=dtype, device=device, **weights)
    return HFEngine(read, sampling, system, template)


def _require(name: str, extra: str, packages: Sequence[str]) -> None:
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise ModelError(f"{name!r} needs {' and '.join(missing)}, not installed here. Install: pip install 'exptilt[{extra}]'")


def _source(rest: str, name: str) -> str | Path:
    """A folder where there is one of this name, else a hub id."""
    path = Path(rest).expanduser()
    if path.is_dir():
        return path
    if rest.startswith(("/", ".", "~")):
        raise ModelError(f"{name!r}: there is no folder {path}. Give a folder as save_pretrained writes it, or a hub id.")
    return rest


def _gguf(file: str, name: str) -> Path:
    path = Path(file).expanduser()
    if not path.is_file():
        raise ModelError(f"{name!r}: there is no file {path}. Give the path of a GGUF file after 'gguf:'.")
    _require(name, "gguf", ("gguf", "accelerate"))
    from exptilt.engines.hf.loading import converted

    return converted(path)


def _shipped(name: str) -> Path:
    folder = MODELS / name
    if not folder.is_dir():
        raise ModelError(f"{name!r} is missing from this installation: there is no folder {folder}. Install exptilt again.")
    return folder
