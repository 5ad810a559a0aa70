"""Recipes: how a prompt is answered, by the name of a model and what a request changes of it.

A model's name may end in "@" and a sampler with a number, as in `smollm2@bon16`: the number is how many responses it draws.
A request changes single settings by its object `exptilt`. It names samplers, selects, answers and stop rules by their short
names, and rewards as the server's configuration calls them; a name of code or of a file is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, get_args, get_origin

from exptilt import names
from exptilt.core import Engine, PromptReward, Reward, Sampler, Target
from exptilt.engines.language import LanguageEngine
from exptilt.errors import UsageError, did_you_mean
from exptilt.names import Chosen
from exptilt.objects import Registry
from exptilt.populations.until import Until
from exptilt.running.request import Select
from exptilt.samplers.command import Setting
from exptilt.serve.config import Limits
from exptilt.serve.refusals import Refusal

READY = ("plain", "majority", "bon16", "ets")
"""What every model is offered as besides, after "@"; those that need a reward only where the server has one."""

WORDS = ("sampler", "inner", "select", "answer", "utility", "reward", "beta", "until")
"""What a recipe has besides the settings of its sampler."""

_COUNTED = ("n", "candidates", "particles", "draws", "steps")  # what the number after a sampler's name means, the first it has
_AT_ONCE = ("candidates", "rollouts", "particles", "chains")  # settings whose product is drawn at once


@dataclass(frozen=True)
class Recipe:
    """How a prompt is answered.

    chosen: the sampler, by its name.
    settings: those that differ from the ones that it begins with.
    select, answer, utility, until: as the command line names them.
    reward: its name in the server's configuration; "none" for none.
    beta: β > 0.
    """

    chosen: Chosen
    settings: Mapping[str, Any] = field(default_factory=dict)
    select: str = "draw"
    answer: str = "number"
    utility: str = "rouge1"
    reward: str = "none"
    beta: float = 1.0
    until: str | None = None

    @property
    def sampler(self) -> Sampler:
        """Raises UsageError or ValueError for settings that mean nothing."""
        return self.chosen.make(self.settings)


@dataclass(frozen=True)
class Catalogue:
    """What a server offers: one model, its rewards by name, and recipes by the names of models.

    name: the model's, as clients call it; requests of that name are answered by `usual`.
    more: the recipes of other names.
    """

    name: str
    engine: Engine
    proposal: Engine | None
    rewards: Mapping[str, Reward | PromptReward]
    usual: Recipe
    more: Mapping[str, Recipe] = field(default_factory=dict)

    @property
    def models(self) -> list[str]:
        """The names that are listed; others follow from samplers' names."""
        ready = (f"{self.name}@{suffix}" for suffix in READY if suffix in ("plain", "majority") or self.usual.reward != "none")
        return [*dict.fromkeys((self.name, *ready, *self.more))]

    def recipe(self, model: str) -> Recipe:
        """The recipe of a model's name. Raises Refusal for one that is not offered."""
        if model in self.more:
            return self.more[model]
        if model == self.name:
            return self.usual
        base, at, suffix = model.rpartition("@")
        if at and base == self.name and (found := self._suffixed(suffix)) is not None:
            return found
        near = did_you_mean(model, self.models)
        raise Refusal(
            f"there is no model {model[:80]!r} here: give {', '.join(self.models)}.{near}",
            404,
            param="model",
            code="model_not_found",
        )

    def _suffixed(self, suffix: str) -> Recipe | None:
        """The recipe of what stands after "@"; None where that is not a sampler."""
        if suffix == "plain":
            return replace(
                self.usual,
                chosen=names.choose_sampler("independent"),
                settings={"n": 1},
                select="draw",
                reward="none",
                until=None,
            )
        found = re.fullmatch(r"([a-z-]+?)([0-9]{0,6})", suffix)
        if found is None or found[1] not in (*names.SAMPLERS.names, *names.ALIASES):
            return None
        word, number = found.groups()
        chosen = names.choose_sampler(word)
        counted = next((name for name in _COUNTED if name in chosen.settings), None)
        if number and counted is None:
            return None
        own = self.usual.settings if chosen.name == self.usual.chosen.name else {}
        settings = {**own, counted: int(number)} if number and counted else own
        made = replace(self.usual, chosen=chosen, settings=settings, select=chosen.alias.select)
        return made if chosen.alias.reward is None else replace(made, reward=chosen.alias.reward, beta=1.0)

    def target(self, recipe: Recipe, sampling: Mapping[str, Any], raw: bool = False) -> Target:
        """The target of a recipe under a request's sampling parameters. raw: without the chat template."""
        engine = sampled(_bare(self.engine) if raw else self.engine, sampling)
        proposal = self.proposal and sampled(_bare(self.proposal) if raw else self.proposal, sampling)
        return Target(engine, self.rewards[recipe.reward], recipe.beta, proposal)


def _bare(engine: Engine) -> Engine:
    """The engine without its chat template, where it has one."""
    return replace(engine, template=False, system=None) if isinstance(engine, LanguageEngine) else engine


def sampled(engine: Engine, sampling: Mapping[str, Any]) -> Engine:
    """The engine under these sampling parameters. Raises Refusal that names the one that it does not have or cannot follow."""
    for name, value in sampling.items():
        try:
            engine = engine.with_sampling(
                **({"temperature": 1.0, "top_k": 1} if (name, value) == ("temperature", 0) else {name: value})
            )
        except TypeError:
            raise Refusal(f"the model {engine.name} has no {name}: leave it out", param=name, code="unsupported_value") from None
        except ValueError as error:
            raise Refusal(str(error), param=name, code="invalid_value") from error
    return engine


# -------------------------------------------------------------------------------------------------- what a request changes


def changed(recipe: Recipe, given: Mapping[str, Any], rewards: Mapping[str, Any], limits: Limits) -> Recipe:
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
        return isinstance(value, int | float) and not isinstance(value, bool)
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
    ours = kind.replace("-", "_") in names.RULES and all(part in names.ANSWERS.names or _is_number(part) for part in rest)
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


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


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


def rows(sampler: Sampler) -> int:
    """How many responses a sampler draws at once, as its settings tell; 1 where they do not."""
    given = dict(_counts(sampler))
    count = given.get("batch") or given.get("n") or 1
    for name in _AT_ONCE:
        count *= given.get(name, 1)
    return count


def _counts(sampler: Any) -> Iterator[tuple[str, int]]:
    if not is_dataclass(sampler):
        return
    for item in fields(sampler):
        value = getattr(sampler, item.name)
        if isinstance(value, int) and not isinstance(value, bool):
            yield item.name, value
        elif is_dataclass(value) and not isinstance(value, type):
            yield from _counts(value)


def parts(recipe: Recipe) -> tuple[Sampler, Select, Until | None]:
    """The sampler, the select and the stop rule of a recipe."""
    select = names.select(recipe.select, recipe.answer, recipe.utility)
    return recipe.sampler, select, None if recipe.until is None else names.stop_rule(recipe.until)
