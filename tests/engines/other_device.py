"""A device that does not exist: its tensors compute on the CPU, but refuse to meet tensors of the CPU, as a GPU's do.

Only scalars may be mixed. Tensors get there and back as with a real device, by `device=` and `.to(...)`; reading their values
with `.tolist()` or `.item()` works, and `.numpy()` does not. It calls itself "meta", which torch knows everywhere.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

DEVICE = torch.device("meta")
CPU = torch.device("cpu")
aten = torch.ops.aten
MATH = 0  # of the ways to compute attention, the one that every device has


class There(Tensor):
    """A tensor of the device; `elem` has its values."""

    elem: Tensor

    @staticmethod
    def __new__(cls, elem: Tensor) -> There:
        made = Tensor._make_wrapper_subclass(
            cls, elem.size(), strides=elem.stride(), storage_offset=elem.storage_offset(), dtype=elem.dtype, device=DEVICE
        )  # type: ignore[attr-defined]
        made.elem = elem
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:
        return f"There({self.elem})"


class WrongDeviceError(Exception):
    """Tensors of two devices met."""


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """An operation on the CPU with what its tensors hold; what comes of it is of the device where they are."""
    tensors = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, Tensor)]
    there = [each for each in tensors if isinstance(each, There)]
    asked = next((each for each in tree_flatten((args, kwargs))[0] if isinstance(each, torch.device)), None)
    moves = func.overloadpacket in (aten._to_copy, aten.copy_, aten.to)
    if there and not moves and any(not isinstance(each, There) and each.dim() for each in tensors):
        kinds = [("there" if isinstance(each, There) else "cpu", tuple(each.shape)) for each in tensors]
        raise WrongDeviceError(f"{func} met {kinds}")
    if func is aten._fused_sdp_choice.default:
        return MATH
    plain, named = tree_map_only(There, lambda each: each.elem, (args, kwargs))
    plain, named = tree_map_only(torch.device, lambda _: CPU, (plain, named))
    found = func(*plain, **named)
    stays = bool(there) if asked is None else asked == DEVICE
    if func.overloadpacket is aten.copy_:
        return args[0]
    if not stays:
        return found
    known = {id(each.elem): each for each in there}  # what was changed in place is the same tensor
    return tree_map_only(Tensor, lambda each: known[id(each)] if id(each) in known else There(each), found)


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


class _Values(TorchFunctionMode):
    """Tensors made of Python's values: torch gives those of its meta device none."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and given.get("device") is not None:
            device = torch.device(given.pop("device"))
            return func(*args, **given).to(device)
        if func is Tensor.tolist and isinstance(args[0], There):
            return args[0].elem.tolist()
        if func is Tensor.numpy and isinstance(args[0], There):
            raise WrongDeviceError("values of the device were read as numpy's")
        return func(*args, **given)


class OtherDevice:
    """Within, `device="meta"` is the device."""

    def __enter__(self) -> OtherDevice:
        self._modes = (_Values(), _Operations())
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)


def send(model: torch.nn.Module) -> torch.nn.Module:
    """A model with all its tensors on the device, in place."""
    for module in model.modules():
        for name, parameter in [*module._parameters.items()]:
            if parameter is not None:
                module._parameters[name] = torch.nn.Parameter(There(parameter.detach()), requires_grad=False)
        for name, buffer in [*module._buffers.items()]:
            if buffer is not None:
                module._buffers[name] = There(buffer)
    return model
