"""`/offers`: what the server's page lets a person choose from: models, samplers with their settings, rewards and the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING
from typing import Any, get_args, get_origin

from exptilt import names
from exptilt.errors import UsageError
from exptilt.names import Chosen
from exptilt.samplers.command import Setting
from exptilt.serve.config import Limits
from exptilt.serve.recipes import Catalogue, Recipe


def offers(catalogue: Catalogue, limits: Limits) -> dict[str, Any]:
    """All that a request may name, as JSON values."""
    known = {name: chosen for name, chosen in names.known_samplers().items() if not isinstance(chosen, UsageError)}
    simple = [name for name, chosen in known.items() if chosen.holds is None]
    return {
        "name": catalogue.name,
        "max_tokens": min(limits.max_tokens, catalogue.engine.max_tokens),
        "models": [{"id": model, **_recipe(catalogue.recipe(model))} for model in catalogue.models],
        "samplers": [_sampler(chosen, simple) for chosen in known.values()],
        "rewards": [*catalogue.rewards],
        "selects": [*names.SELECTS.names],
        "answers": [*names.ANSWERS.names],
        "rules": [rule.help for rule in names.RULES.values()],
    }


def _recipe(recipe: Recipe) -> dict[str, Any]:
    """How a model answers where a request says nothing."""
    chosen = recipe.chosen
    start = {name: setting.default for name, setting in chosen.settings.items()}
    read = {name: chosen.settings[name].read(value) for name, value in recipe.settings.items()}
    return {
        "sampler": chosen.name,
        "inner": None if chosen.inner is None else chosen.inner.name,
        "settings": {name: _value(value) for name, value in (start | read).items() if _type(chosen.settings[name])},
        **{name: getattr(recipe, name) for name in ("select", "answer", "reward", "beta", "until")},
    }


def _sampler(chosen: Chosen, simple: list[str]) -> dict[str, Any]:
    """A sampler. inners: the settings that it has with each sampler that it can hold; None where it holds none."""
    inners = None
    if chosen.holds is not None:
        holding = {inner: names.choose_sampler(chosen.name, inner) for inner in simple}
        inners = {inner: _settings(each.settings) for inner, each in holding.items() if _fits(each)}
    return {
        "name": chosen.name,
        "help": chosen.help.replace(" (--inner)", ""),
        "settings": _settings(chosen.settings),
        "inner": None if chosen.inner is None else chosen.inner.name,
        "inners": inners,
        "select": chosen.alias.select,
        "reward": chosen.alias.reward,
    }


def _fits(chosen: Chosen) -> bool:
    """Whether the sampler can hold the one inside of it."""
    try:
        chosen.make({})
    except (UsageError, ValueError, TypeError):
        return False
    return True


def _settings(given: Mapping[str, Setting]) -> list[dict[str, Any]]:
    """Those of a sampler's settings that a request can give: functions and other objects are the server's own."""
    return [
        {
            "name": setting.name,
            "type": _type(setting),
            "optional": setting.optional,
            "default": _value(setting.default),
            "choices": list(setting.choices),
            "help": setting.help,
        }
        for setting in given.values()
        if _type(setting) is not None
    ]


def _type(setting: Setting) -> str | None:
    """The word by which the page knows a setting's type; None for what no request can give."""
    if setting.choices:
        return "choice"
    if get_origin(setting.kind) is tuple:
        return "numbers" if get_args(setting.kind)[0] in (int, float) else None
    known = {int | str: "number or text", int: "whole", float: "number", str: "text", bool: "flag"}
    return known.get(setting.kind)


def _value(value: Any) -> Any:
    """A setting's value as JSON; None for one that is not there, or is an object of the server's own."""
    if value is MISSING or not isinstance(value, bool | int | float | str | tuple):
        return None
    return list(value) if isinstance(value, tuple) else value
