"""Whether a proposal q covers the reference p: a weight p/q can correct everything but q(y) = 0 where p(y) > 0.

What q cannot draw never enters a population, so its share of Z is silently lost, however many draws there are. A table knows its
whole distribution (`Known`). Other engines' settings mostly show this: logits alone give every token a positive probability,
top_k, top_p and min_p remove tokens, and a stop string ends responses that would go on without it. `check_cover` refuses a
proposal that is known to exclude something; `cover_warning` says when this cannot be known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from exptilt.errors import TargetError

_OF_TOKENS = ("temperature", "top_p", "top_k", "min_p")  # the parameters that decide which tokens have a positive probability


class Drawn(Protocol):
    """What is asked of an engine here."""

    @property
    def name(self) -> str: ...

    @property
    def settings(self) -> Mapping[str, Any]: ...


@runtime_checkable
class Known(Protocol):
    """An engine that knows its whole distribution, as a table does."""

    def never_draws(self, other: Any) -> str | None:
        """What `other` may draw and this engine never does, in words; "" if there is nothing, None if it cannot tell."""
        ...


def check_cover(engine: Drawn, proposal: Drawn) -> None:
    """Refuse a proposal that is known to leave out what the engine can draw. Raises TargetError."""
    ours, theirs = engine.settings, proposal.settings
    if "stop" in ours and "stop" in theirs and _stops(ours) != _stops(theirs):
        raise TargetError(
            f"the proposal {proposal.name} stops at {_stops(theirs)!r} but the engine {engine.name} at "
            f"{_stops(ours)!r}: each has responses that the other lacks, and no weight makes up for that. Give both "
            "the same stop strings and stop_token_ids."
        )
    if missing := _missing(engine, proposal):
        raise TargetError(
            f"the proposal {proposal.name} never draws {missing}, which the engine {engine.name} may: it is lost, and no weight "
            "makes up for it. Give the proposal a positive probability wherever the engine has one."
        )
    if missing is None and _covers(ours, theirs) is False:
        raise TargetError(
            f"the proposal {proposal.name} ({_truncation(theirs)}) excludes tokens that the engine {engine.name} "
            f"({_truncation(ours)}) may draw: they are lost, and no weight makes up for them. Give the proposal top_k=None, "
            "top_p=1.0, min_p=0.0, or truncate the engine in the same way at no higher temperature."
        )


def cover_warning(engine: Drawn, proposal: Drawn) -> str | None:
    """One sentence where it cannot be known whether the proposal covers the engine; None where it does."""
    ours, theirs = engine.settings, proposal.settings
    if _missing(engine, proposal) is not None or _covers(ours, theirs) is not None:
        return None
    declared = _declared(theirs) and not theirs.get("extra")
    cure = "give it top_k=None, top_p=1.0, min_p=0.0" if declared else "see that it gives every token a positive probability"
    return (
        f"It is not known whether the proposal {proposal.name} ({_truncation(theirs)}) can draw everything that the engine "
        f"{engine.name} ({_truncation(ours)}) can; whatever it cannot draw is missing from log Ẑ and from the answers: {cure}."
    )


def _stops(settings: Mapping[str, Any]) -> list[str | int]:
    """The stop strings and stop tokens."""
    return [*sorted(settings["stop"]), *sorted(settings.get("stop_token_ids", ()))]


def _missing(engine: Drawn, proposal: Drawn) -> str | None:
    """As `Known.never_draws` of the proposal; None where it does not know its distribution."""
    return proposal.never_draws(engine) if isinstance(proposal, Known) else None


def _covers(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool | None:
    """Whether every token that the engine may draw can be proposed; None where the settings do not tell.

    Logits divided by the temperature keep their order, so truncation keeps the likeliest tokens, and more of them for a
    larger top_k, a larger top_p and a higher temperature.
    """
    if _model(ours) == _model(theirs) and all(ours.get(name) == theirs.get(name) for name in _OF_TOKENS):
        return True
    if not _declared(theirs) or theirs.get("extra"):  # fields that a server is sent besides its own may do anything
        return None
    if not _truncated(theirs):
        return True
    if not _declared(ours):
        return None
    if not _truncated(ours):
        return False
    if _model(ours) != _model(theirs):
        return None
    found = _covers_by_rank(ours, theirs), _covers_by_mass(ours, theirs), _covers_by_share(ours, theirs)
    return False if False in found else None if None in found else True


def _covers_by_rank(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool | None:
    """Whether the top_k of q leaves out nothing: fewer ranks may do where top_p cuts p as well."""
    if (theirs["top_k"] or math.inf) >= (ours["top_k"] or math.inf):
        return True
    return False if ours["top_p"] == 1 and not ours.get("min_p") else None


def _covers_by_mass(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool | None:
    """Whether the top_p of q leaves out nothing: less mass may do at a higher temperature, more mass at a lower one."""
    mass, heat = theirs["top_p"] - ours["top_p"], theirs["temperature"] - ours["temperature"]
    if theirs["top_p"] == 1 or (mass >= 0 and heat >= 0):
        return True
    if ours.get("min_p"):
        return None
    return False if ours["top_p"] == 1 or (mass <= 0 and heat <= 0) else None


def _covers_by_share(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool | None:
    """Whether the min_p of q leaves out nothing: both keep logits up to some distance below the greatest."""
    reach = [math.inf if not each.get("min_p") else -each["temperature"] * math.log(each["min_p"]) for each in (ours, theirs)]
    if reach[1] >= reach[0]:
        return True
    return False if ours["top_k"] is None and ours["top_p"] == 1 else None


def _declared(settings: Mapping[str, Any]) -> bool:
    return all(name in settings for name in ("temperature", "top_p", "top_k"))  # min_p is named where it is on


def _truncated(settings: Mapping[str, Any]) -> bool:
    """Whether some tokens have probability zero."""
    return settings["top_k"] is not None or settings["top_p"] < 1 or bool(settings.get("min_p"))


def _model(settings: Mapping[str, Any]) -> dict[str, Any]:
    """All that decides the logits."""
    return {name: value for name, value in settings.items() if name not in _OF_TOKENS}


def _truncation(settings: Mapping[str, Any]) -> str:
    known = [f"{name}={settings[name]}" for name in (*_OF_TOKENS, "extra") if settings.get(name, {}) != {}]
    return ", ".join(known) or "which does not tell its truncation"
