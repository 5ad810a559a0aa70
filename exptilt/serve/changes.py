"""What a request changes of a recipe by its object `exptilt`, each field checked.

It names samplers, selects, answers and stop rules by their short names, and rewards as the server's configuration calls them: a
name of code or of a file is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, get_args, get_origin

from exptilt import names
from exptilt.errors import UsageError, did_you_mean
from exptilt.names import Chosen
from exptilt.names.stop_rules import is_number
from exptilt.objects import Registry
from exptilt.samplers.command import Setting
from exptilt.serve.config import Limits
from exptilt.serve.recipes import Recipe, rows
from exptilt.serve.refusals import Refusal

WORDS = ("sampler", "inner", "select", "answer", "utility", "reward", "beta", "until")
"""What a recipe has besides the settings of its sampler."""

_HUGE = 1e300  # whole numbers in JSON may be beyond the range of floats


def changed(recipe: Recipe, given: Mapping[str, Any], rewards: Collection[str], limits: Limits) -> Recipe:
    """The recipe with what a request's object `exptilt` changes. Raises Refusal that names the field."""
    words = {name: value for name, value in given.items() if name in WORDS and value is not None}
    settings = {name: value for name, value in given.items() if name not in WORDS}
    recipe = _resampled(recipe, words)
    for name, known in (("select", names.SELECTS), ("answer", names.ANSWERS), ("utility", names.UTILITIES)):
        if name in words:
            recipe = replace(recipe, **{name: _named(known, words[name], name)})
    if "reward" in words:
        recipe = replace(recipe, reward=_one_of(rewards, words["reward"], "reward"))
    if "beta" in words:
        recipe = replace(recipe, beta=_number(words["beta"], "beta"))
    if "until" in words:
        recipe = replace(recipe, until=_stop_rule(words["until"]))
    checked = {name: _setting(recipe.chosen, name, value) for name, value in settings.items()}
    recipe = replace(recipe, settings={**recipe.settings, **checked})
    _made(recipe, limits, next(iter(settings), "sampler"))
    return recipe


def _resampled(recipe: Recipe, words: Mapping[str, Any]) -> Recipe:
    """The recipe with another sampler, which begins with settings of its own."""
    name, inner = words.get("sampler", recipe.chosen.name), words.get("inner")
    if "sampler" not in words and inner is None:
        return recipe
    offered = (*names.SAMPLERS.names, *names.ALIASES)
    for field_name, value in (("sampler", name), ("inner", inner)):
        if value is not None and field_name in words:
            _one_of(offered, value, field_name)
    try:
        chosen = names.choose_sampler(name, inner)
    except UsageError as error:
        raise Refusal(str(error), param="exptilt.inner" if inner else "exptilt.sampler", code="invalid_value") from error
    same = chosen.name == recipe.chosen.name and inner is None
    made = replace(recipe, chosen=chosen, settings=recipe.settings if same else {})
    made = made if same else replace(made, select=chosen.alias.select)
    return made if chosen.alias.reward is None or same else replace(made, reward=chosen.alias.reward, beta=1.0)


def _setting(chosen: Chosen, name: str, value: Any) -> Any:
    """A setting of the sampler as a request gives it, a JSON value of the field's own type."""
    where = f"exptilt.{name}"
    setting = chosen.settings.get(name)
    if setting is None:
        known = (*WORDS, "budget", *chosen.settings)
        raise Refusal(
            f"exptilt has no field {name[:80]!r} with the sampler {chosen.name}: "
            f"give {', '.join(known)}.{did_you_mean(name, known)}",
            param=where,
            code="unknown_parameter",
        )
    if not _fits(setting, value):
        raise Refusal(f"{where}={value!r:.80} is of the wrong type: give {_wanted(setting)}", param=where, code="invalid_type")
    return tuple(value) if isinstance(value, list) else value


def _fits(setting: Setting, value: Any) -> bool:
    """Whether a JSON value is of a setting's type. Functions and other objects cannot be given."""
    if value is None:
        return setting.optional
    if setting.choices:
        return value in setting.choices and isinstance(value, str | int) and not isinstance(value, bool)
    if get_origin(setting.kind) is tuple:
        return isinstance(value, list) and all(_fits(_inside(setting), item) for item in value)
    if setting.kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _HUGE  # so not NaN either
    if setting.kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if setting.kind == int | str:
        return isinstance(value, int | str) and not isinstance(value, bool)
    return setting.kind in (str, bool) and isinstance(value, setting.kind)


def _inside(setting: Setting) -> Setting:
    return replace(setting, kind=get_args(setting.kind)[0], optional=False)


def _wanted(setting: Setting) -> str:
    if setting.choices:
        return " or ".join(map(repr, setting.choices))
    if get_origin(setting.kind) is tuple:
        return "a list of numbers"
    known = {
        int | str: "a whole number or a text",
        int: "a whole number",
        float: "a number",
        str: "a text",
        bool: "true or false",
    }
    return known.get(setting.kind, "nothing: it is an object of the server's own, which no request can give")


def _named(registry: Registry, value: str, name: str) -> str:
    return _one_of(registry.names, value, name)


def _one_of(offered: Any, value: str, name: str) -> str:
    if value not in offered:
        near = did_you_mean(value, offered)
        raise Refusal(
            f"exptilt.{name}={value[:80]!r} is not offered here: give {', '.join(offered)}.{near}",
            param=f"exptilt.{name}",
            code="invalid_value",
        )
    return value


def _number(value: float, name: str) -> float:
    if not 0 < value < float("inf"):
        raise Refusal(f"exptilt.{name}={value} must be a positive number", param=f"exptilt.{name}", code="invalid_value")
    return float(value)


def _stop_rule(spec: str) -> str:
    """A stop rule of exptilt's own, or of an installed package by its short name."""
    kind, *rest = spec.split(":")
    ours = kind.replace("-", "_") in names.RULES and all(part in names.ANSWERS.names or is_number(part) for part in rest)
    if not ours and spec not in names.STOP_RULES.names:
        known = "; ".join((*(rule.help for rule in names.RULES.values()), *names.STOP_RULES.names))
        raise Refusal(
            f"exptilt.until={spec[:80]!r} is not a stop rule: write {known}", param="exptilt.until", code="invalid_value"
        )
    try:
        names.stop_rule(spec)
    except (UsageError, ValueError) as error:
        raise Refusal(str(error), param="exptilt.until", code="invalid_value") from error
    return spec


def _made(recipe: Recipe, limits: Limits, first: str) -> None:
    """Make the sampler once, to see that it can be, and that it takes no more than a request may."""
    for name, value in recipe.settings.items():
        if isinstance(value, int) and not isinstance(value, bool) and value > limits.count:
            raise Refusal(
                f"exptilt.{name}={value} is above this server's limit of {limits.count}",
                param=f"exptilt.{name}",
                code="too_large",
            )
    try:
        sampler = recipe.sampler
    except (UsageError, ValueError, TypeError) as error:
        raise Refusal(str(error), param=f"exptilt.{first}", code="invalid_value") from error
    if (count := rows(sampler)) > limits.rows:
        raise Refusal(
            f"this sampler draws {count} responses at once, above this server's limit of {limits.rows}",
            param=f"exptilt.{first}",
            code="too_large",
        )
