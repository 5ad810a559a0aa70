"""Adapters of peft, such as LoRA: layers beside those of a base model, kept as they are or merged into the weights.

Both are the same distribution up to the rounding of the weights' dtype. Merged weights cost nothing more than those of the base;
kept ones leave the base's weights alone, so that it may be somebody else's or quantised.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers.utils.hub import cached_file

from exptilt.engines.checkpoints import Repository, reading
from exptilt.engines.requirements import require
from exptilt.errors import ModelError

CONFIG = "adapter_config.json"


def is_adapter(source: str | Path, files: Repository) -> bool:
    """Whether a folder or a hub's repository holds an adapter instead of a whole model."""
    if isinstance(source, Path):
        folder = source / (files.subfolder or "")
        return (folder / CONFIG).is_file() and not (folder / "config.json").is_file()
    return _offered(source, CONFIG, files) and not _offered(source, "config.json", files)


def _offered(source: str, file: str, files: Repository) -> bool:
    """Whether a hub's repository has a file; False where the hub cannot be reached, which reading the model will tell."""
    quiet = dict.fromkeys(("gated_repo", "missing_entries", "connection_errors"), False)
    options = {f"_raise_exceptions_for_{name}": value for name, value in quiet.items()}
    try:
        return cached_file(source, file, **_hub(files), **options) is not None
    except OSError:  # there is no such repository
        return False


def _hub(files: Repository) -> dict[str, Any]:
    """Where files are, as peft takes it."""
    return {name: value for name, value in files.options.items() if name != "trust_remote_code"}


def base_of(source: str | Path, name: str, files: Repository) -> tuple[str | Path, Repository]:
    """The model that an adapter was trained on, as its configuration names it, and which of its files to read."""
    config = _config(source, name, files)
    base = config.base_model_name_or_path
    if not base:
        raise ModelError(f"{name} does not name the model that it adapts: give that model, and adapter={str(source)!r}")
    folder = Path(base).expanduser()
    if not folder.is_dir() and base.startswith(("/", ".", "~")):
        raise ModelError(
            f"{name} adapts the model in {base}, but there is no such folder: give the model by its name, and "
            f"adapter={str(source)!r}"
        )
    return (folder if folder.is_dir() else base), replace(files, revision=config.revision, subfolder=None)


def adapted(model: Any, source: str | Path, name: str, files: Repository, merge: bool | None, *, own: bool) -> Any:
    """A model with the adapter of a folder or a hub's repository. model: changed in place.

    merge: whether it becomes part of the weights; None where that is possible and they are float32, which loses nothing.
    own: whether the model's weights are nobody else's, so that they may get rows for tokens that the adapter adds.
    Raises ModelError where the adapter cannot be read, does not fit the model, or lacks weights.
    """
    config = _config(source, name, files)
    import peft

    with reading(name, "a model that the adapter was trained on"):
        _make_room(model, peft.load_peft_weights(str(source), device="cpu", **_hub(files)), name, own)
        config.inference_mode = True
        found = peft.get_peft_model(model, config)
        report = found.load_adapter(str(source), "default", **_hub(files))
    if left := sorted({*report.missing_keys, *report.unexpected_keys}):
        raise ModelError(
            f"the adapter {source} does not fit {name}: {', '.join(left[:3])} are in only one of them. Give the model that it "
            "was trained on."
        )
    if merge or (merge is None and _can_merge(found) and model.dtype in (torch.float32, torch.float64)):
        return merged(found, name)
    return found


def _make_room(model: Any, weights: Mapping[str, torch.Tensor], name: str, own: bool) -> None:
    """Give a model as many rows of embeddings as an adapter that was trained with other tokens has; it fills them."""
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    there, rows = embeddings.weight.shape[0], _rows(weights, model, embeddings)
    if rows is None or rows == there:
        return
    if not own:
        raise ModelError(
            f"the adapter of {name} is for a vocabulary of {rows} tokens, and the model in memory has {there}, which stay as "
            f"they are: give merge=True, which works on a copy, or call model.resize_token_embeddings({rows}) first"
        )
    if head is not None and head.weight is not embeddings.weight and _rows(weights, model, head) != rows:
        raise ModelError(
            f"the adapter of {name} has embeddings of {rows} tokens for a model of {there}, but no output layer for them: save "
            "it with save_embedding_layers=True"
        )
    model.resize_token_embeddings(rows, mean_resizing=False)


def _rows(weights: Mapping[str, torch.Tensor], model: Any, layer: Any) -> int | None:
    """How many rows an adapter's file has for a layer of the model; None where it leaves it alone."""
    place = next(place for place, module in model.named_modules() if module is layer)
    found = [weights.get(f"base_model.model.{place}{part}.weight") for part in ("", ".base_layer")]
    return next((weight.shape[0] for weight in found if weight is not None), None)


def merged(model: Any, name: str) -> Any:
    """The base model with the weights of its active adapters added; changed in place. Raises ModelError where they cannot be."""
    if not _can_merge(model):
        why = (
            "the weights are quantised, and would be rounded again"
            if _quantised(model)
            else "its kind of adapter has no such form"
        )
        raise ModelError(f"the adapter of {name} cannot become part of the weights: {why}. Give merge=False.")
    with reading(name, "a model whose adapters can be merged"):
        whole = model.merge_and_unload(safe_merge=True)
    if "peft_config" in vars(whole):  # it would still say that there are adapters
        del whole.peft_config
    return whole


def merged_copy(model: Any, name: str) -> Any:
    """The same, of a copy with weights of its own."""
    check_adapters(model, name)
    return merged(copy.deepcopy(model), name)


def check_adapters(model: Any, name: str) -> None:
    """Refuse adapters that put tokens of their own before every text, which no key-values of a prefix would have."""
    found = getattr(model, "peft_config", None)
    for kind in found.values() if isinstance(found, dict) else ():
        _check_kind(kind, name)


def _check_kind(kind: Any, name: str) -> None:
    if kind.is_prompt_learning or kind.is_adaption_prompt:
        raise ModelError(
            f"{name} has an adapter of the kind {kind.peft_type.value}, which adds tokens or key-values to every text it reads: "
            "only adapters that change layers can be used, such as LoRA"
        )


def adapter_state(model: Any) -> str:
    """What decides how adapters change a model besides their weights; empty without adapters."""
    lines = [
        f"{name} {module.active_adapters} {module.disable_adapters} {module.merged_adapters} {getattr(module, 'scaling', None)}"
        for name, module in _layers(model)
    ]
    return "\n".join(lines)


def merges(model: Any) -> list[list[str]]:
    """Which adapters are part of the weights now, layer by layer: peft merges past torch's count of writes."""
    return [list(module.merged_adapters) for _, module in _layers(model)]


def _layers(model: Any) -> Iterator[tuple[str, Any]]:
    if "peft" not in sys.modules:
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer):
            yield name, module


def _can_merge(model: Any) -> bool:
    return not _quantised(model) and getattr(model, "merge_and_unload", None) is not None


def _quantised(model: Any) -> bool:
    return getattr(model.config, "quantization_config", None) is not None


def _config(source: str | Path, name: str, files: Repository) -> Any:
    require(name, "peft", ("peft",))
    import peft

    with reading(name, "an adapter of peft"):
        config = peft.PeftConfig.from_pretrained(str(source), **_hub(files))
    _check_kind(config, name)
    return config
