"""Every name of torch and transformers that the fast paths rely on and that a release may remove, in one place.

`KNOWN` holds the versions with which they are known to work, as pyproject.toml does.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

KNOWN: Mapping[str, tuple[str, str]] = {"torch": ("2.6", "3"), "transformers": ("5.0", "5.40")}
"""For each package the first version that is known to work, and the first later one that is not."""

ordinary_attention = sdpa_attention_forward


def untested() -> str | None:
    """Why the installed packages are not known to work, or None."""
    for package, (first, beyond) in KNOWN.items():
        installed = (torch if package == "torch" else transformers).__version__
        if not _numbers(first) <= _numbers(installed) < _numbers(beyond):
            return f"{package} {installed} is installed, and they are known to work from {first} on, but not from {beyond} on"
    return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def packs() -> bool:
    """Whether torch has oneDNN's products of weights that were laid out beforehand."""
    return torch.backends.mkldnn.is_available()


def halves() -> bool:
    """Whether the processor multiplies in bfloat16 itself."""
    asked = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return packs() and any(ask is not None and ask() for ask in asked)


def packed(weight: Tensor) -> Tensor:
    """A weight [out, in] laid out for `product`; its `to_dense()` gives the very same numbers back."""
    return torch.ops.mkldnn._reorder_linear_weight(weight)


def product(states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """states [rows, in] times a packed weight, plus bias: [rows, out]."""
    return torch.ops.mkldnn._linear_pointwise.default(states, weight, bias, "none", [], "")


def hooked(module: nn.Module) -> bool:
    """Whether a module does more than its class says: hooks, or a forward function of its own."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


def llama_kinds(model: Any) -> frozenset[type]:
    """The classes that a model of Llama's shape is made of in transformers, besides torch's; empty for other models."""
    name = type(model).__name__.removesuffix("ForCausalLM")
    if type(model) not in (transformers.LlamaForCausalLM, transformers.Qwen2ForCausalLM, transformers.MistralForCausalLM):
        return frozenset()
    home = sys.modules[type(model).__module__]
    parts = ("ForCausalLM", "Model", "DecoderLayer", "Attention", "MLP", "RMSNorm", "RotaryEmbedding")
    return frozenset(getattr(home, name + part) for part in parts) | {type(ACT2FN["silu"])}


def writes(tensor: Tensor) -> int:
    """How often a tensor was written to."""
    return tensor._version


def attends_by_interface(model: Any) -> bool:
    """Whether every layer of a model attends through transformers' interface, and by torch's own attention now."""
    config = model.config.get_text_config(decoder=True)
    return bool(model._supports_attention_backend and config._attn_implementation == "sdpa")


def register(name: str, attend: Any) -> None:
    """Make `attend` known to transformers as an implementation of attention whose masks are those of torch's own."""
    transformers.AttentionInterface.register(name, attend)
    transformers.AttentionMaskInterface.register(name, sdpa_mask)


def freeze_positions(model: Any, last: int) -> None:
    """Fix, in place, the frequencies of a model's rotary embeddings as they are for a text whose last position is this."""
    for module in model.modules():
        kinds = getattr(module, "rope_type", None)
        if kinds is None:
            continue
        states = torch.zeros(1, 1, 1, device=model.device, dtype=model.dtype)
        position = torch.tensor([[last]], device=model.device)
        for more in [{}] if isinstance(kinds, str) else [{"layer_type": layer} for layer in kinds]:
            module(states, position, **more)
        module.rope_type = "fixed" if isinstance(kinds, str) else dict.fromkeys(kinds, "fixed")
