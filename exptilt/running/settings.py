"""The settings of two runs, compared: the message that refuses a results file of other settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exptilt.running.lines import encode


def changes(before: Any, after: Any) -> str:
    """Where two settings differ, such as "seed: 0 → 1; sampler.n: 4 → 8"; empty where they are equal."""
    old, new = _flat(before), _flat(after)
    return "; ".join(
        f"{name}: {_show(old, name)} → {_show(new, name)}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name, Ellipsis) != new.get(name, Ellipsis)
    )


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Nested settings as {"sampler.block": 64}."""
    if not isinstance(value, Mapping) or not value:
        return {name: value}
    parts = [_flat(item, f"{name}.{key}" if name else str(key)) for key, item in value.items()]
    return {path: leaf for part in parts for path, leaf in part.items()}


def _show(flat: Mapping[str, Any], name: str) -> str:
    return encode(flat[name]) if name in flat else "(not set)"


def without_code(settings: Any) -> Any:
    """Settings without the digests of the user's own code and of what it holds."""
    if isinstance(settings, Mapping):
        return {name: without_code(value) for name, value in settings.items() if name not in ("code", "state")}
    return [without_code(item) for item in settings] if isinstance(settings, list) else settings
