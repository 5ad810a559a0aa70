"""Options of models: which there are, other libraries' names for them, and what is said of those that a model does not have."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from exptilt.errors import did_you_mean

OTHERS = frozenset({"name", "template", "server", "ours", "generation"})  # parameters of those functions that `load` sets
ALIASES = {"max_new_tokens": "max_tokens", "torch_dtype": "dtype", "stop_strings": "stop", "stop_sequences": "stop"}
_QUANTISED = 'give quantization_config={"quant_method": "bitsandbytes", ...} with hf:'
_ADAPTER = "give adapter=FOLDER with hf:"
HINTS: Mapping[str, str] = {
    "load_in_4bit": _QUANTISED,
    "load_in_8bit": _QUANTISED,
    "quantization": "give quantization_config with hf:",
    "eos_token_id": "give stop_token_ids for further tokens that end a response",
    "do_sample": "tokens are always drawn; for greedy decoding give top_k=1",
    "num_return_sequences": "the sampler says how many are drawn, such as Independent(16)",
    "n": "the sampler says how many are drawn, such as Independent(16)",
    "seed": "give the seed to sample or run",
    "lora": _ADAPTER,
    "peft_model": _ADAPTER,
    "adapter_name_or_path": _ADAPTER,
    "gpu_memory_utilization": "it is vLLM's; with hf: give rows_memory and memory in bytes",
    "max_model_len": "it is vLLM's; with hf: the context is the model's own",
    "tensor_parallel_size": 'it is vLLM\'s; with hf: give device_map="auto"',
}
"""What to give instead of options that a kind of model does not have under these names."""


def renamed(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options by the names that they have here; those that are None count as not given."""
    found: dict[str, Any] = {}
    for name, value in given.items():
        own = ALIASES.get(name, name)
        if value is None:
            continue
        if own in found or (own != name and given.get(own) is not None):
            raise ValueError(f"{name}={value!r} is {own} by another name, and that is given too: give one of them")
        found[own] = str(value).removeprefix("torch.") if own == "dtype" else value
    return found


def options_of(*functions: Callable[..., Any]) -> list[str]:
    """The names of the options that some functions take."""
    parameters = [each for function in functions for each in inspect.signature(function).parameters.values()]
    named = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY or each.default is not each.empty]
    return [name for name in dict.fromkeys(named) if name not in OTHERS]


LEAST: Mapping[str, int] = {
    "max_rows": 1,
    "rows_memory": 1,
    "memory": 0,
    "threads": 1,
    "attempts": 1,
    "concurrency": 1,
    "mask": 0,
    "null": 0,
}
"""Options that are whole numbers, with the least of each; they mean the same for every kind of model that has them."""
CHOICES = frozenset({"fast", "merge", "trust_remote_code", "seeds", "processed", "shifted"})
"""Options that are true or false."""


def check_values(given: Mapping[str, Any]) -> None:
    """Refuse values out of range, before a model is read that may take minutes; None stands for what is not given."""
    for name, value in given.items():
        if value is None:
            continue
        if name in LEAST and (isinstance(value, bool) or not isinstance(value, int) or value < LEAST[name]):
            raise ValueError(f"{name}={value!r} must be a whole number of {LEAST[name]} or more")
        if name in CHOICES and not isinstance(value, bool):
            raise ValueError(f"{name}={value!r} must be True or False")


def check_options(name: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse options that a model does not have, with those that it has."""
    known = sorted(known)
    if unknown := sorted(set(given) - set(known)):
        has = f"it has {', '.join(known)}" if known else "it has none"
        hints = "".join(f" For {option}: {HINTS[option]}." for option in unknown if option in HINTS)
        raise ValueError(f"{name!r} has no option {', '.join(unknown)}: {has}.{hints or did_you_mean(unknown[0], known)}")
