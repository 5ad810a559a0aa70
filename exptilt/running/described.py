"""Samplers and selects in words, from their descriptions in the settings of a run (`exptilt.describe`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar, NoReturn

from exptilt import samplers
from exptilt.blocks import Block
from exptilt.core import Sampler, Target
from exptilt.describe import describe
from exptilt.errors import TargetError
from exptilt.keys import Key


def kind_of(sampler: Any) -> str:
    """The class of a described sampler, such as "ETS"."""
    return str(sampler.get("type", "sampler")) if isinstance(sampler, Mapping) else str(sampler)


def sampler_words(sampler: Any) -> str:
    """A described sampler in words; of exptilt's own samplers only what differs from the defaults."""
    kind = kind_of(sampler)
    own = getattr(samplers, kind, None)
    defaults = {item.name: describe(item.default) for item in fields(own) if item.default is not MISSING} if own else {}
    values = sampler if isinstance(sampler, Mapping) else {}
    given = {
        name: value for name, value in values.items() if name not in ("type", "code") and value != defaults.get(name, MISSING)
    }
    return f"{kind} {', '.join(_parameter(name, value) for name, value in given.items())}".strip()


def _parameter(name: str, value: Any) -> str:
    if isinstance(value, Mapping) and value.get("type") == "Block":
        return f"block {Block(tuple(value['ends']), value['tokens'], value['steps']).words}"
    if isinstance(value, Mapping) and "type" in value:
        return f"of ({sampler_words(value)})"
    shown = value.get("function", "function") if isinstance(value, Mapping) else value
    shown = repr(shown) if isinstance(shown, str) and not shown.isprintable() else shown
    return f"{name.replace('_', ' ')} {shown}"


def select_words(select: Any) -> str:
    """A described select in a word or two; a user's own by its name."""
    if not isinstance(select, Mapping):
        return str(select)
    if select.get("type") == "Vote":
        return "vote" if select.get("weighted", True) else "majority vote"
    return {"MinimumBayesRisk": "mbr"}.get(kind_of(select), str(select.get("function", kind_of(select))))


@dataclass(frozen=True)
class StoredSampler:
    """The sampler of a results file, as its header describes it: it can be shown, and draws nothing.

    described: its class and fields as JSON values.
    """

    described: Any
    weighted: ClassVar[bool] = False

    def __repr__(self) -> str:
        return f"<{sampler_words(self.described)}, read from a results file>"

    def needs(self, target: Target) -> NoReturn:
        """Refuse to be used."""
        raise TargetError(f"{self!r} can only be shown: make the sampler again to draw with it")

    def __call__(self, target: Target, prompt: Any, key: Key) -> NoReturn:
        self.needs(target)


def words_of(sampler: Sampler) -> str:
    """A sampler in words, also one that was read from a results file."""
    return sampler_words(sampler.described if isinstance(sampler, StoredSampler) else describe(sampler))
