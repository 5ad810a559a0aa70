"""Where and when a run was made: versions, device and date, for the first line of its results file.

Nothing of it decides what is drawn up to rounding, so a file may be resumed with other versions, on another device, on another
day: it keeps what its first run wrote.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from exptilt.core import Engine

_NAMED = {"llama_cpp": "llama-cpp-python"}  # packages that are not called like their module
_TOLD = ("exptilt", "numpy", "torch", "transformers", "tokenizers", "vllm", "llama_cpp", "ray")


def made(engine: Engine | None = None) -> dict[str, Any]:
    """The record of a run that begins now. engine: where it is in this process, for the device that its model is on."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}".strip(),
        "device": None if engine is None else device_of(engine),
        "versions": {name: found for name in _TOLD if name in sys.modules and (found := _version(name)) is not None},
    }


@cache
def _version(module: str) -> str | None:
    told = getattr(sys.modules[module], "__version__", None)
    if isinstance(told, str):
        return str.__str__(told)  # torch has a kind of str of its own
    try:
        return version(_NAMED.get(module, module))
    except PackageNotFoundError:
        return None


def device_of(engine: Engine) -> str | None:
    """What the model of an engine computes on, such as "cpu" or "cuda:0 (NVIDIA H100 80GB HBM3)"; None where it does not tell."""
    device = getattr(getattr(getattr(engine, "backend", None), "network", None), "device", None)
    if device is None:
        return None
    torch = sys.modules.get("torch")
    if torch is not None and getattr(device, "type", "") == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device)


def made_words(made: Mapping[str, Any]) -> str:
    """The record on one line, such as "exptilt 0.1.0, torch 2.13.0, Python 3.11.4, cpu, 2026-11-28"."""
    versions = [f"{name} {version}" for name, version in made.get("versions", {}).items() if name in ("exptilt", "torch", "vllm")]
    python = [f"Python {made['python']}"] if made.get("python") else []
    rest = [str(made[name]) for name in ("device",) if made.get(name)]
    return ", ".join([*versions, *python, *rest, str(made.get("date", ""))[:10]]).removesuffix(", ")
