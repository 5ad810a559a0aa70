"""Recipes: how a prompt is answered, by the name of a model.

A model's name may end in "@" and a sampler or an alias (`exptilt.names.ALIASES`) with a number, as in `smollm2@bon16`: the number
is how many responses it draws.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

from exptilt import names
from exptilt.core import Engine, PromptReward, Reward, Sampler, Target
from exptilt.engines.language import LanguageEngine
from exptilt.errors import ModelError, did_you_mean
from exptilt.names import Chosen
from exptilt.populations.until import Until
from exptilt.running.request import Select
from exptilt.serve.refusals import Refusal

READY = ("plain", "majority", "bon16", "ets")
"""What every model is offered as besides, after "@"; those that need a reward only where the server has one."""

_COUNTED = (
    "n",
    "beams",
    "candidates",
    "particles",
    "draws",
    "steps",
)  # what the number after a sampler's name means, the first it has
_AT_ONCE = ("beams", "candidates", "rollouts", "particles", "chains")  # settings whose product is drawn at once


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
        ready = (f"{self.name}@{suffix}" for suffix in READY if self.usual.reward != "none" or _rewardless(suffix))
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
        made = replace(made, until=None) if word == "plain" else made  # one response is all there is to ask about
        return made if chosen.alias.reward is None else replace(made, reward=chosen.alias.reward, beta=1.0)

    def target(self, recipe: Recipe, sampling: Mapping[str, Any], raw: bool = False) -> Target:
        """The target of a recipe under a request's sampling parameters. raw: without the chat template."""
        engine = sampled(_bare(self.engine) if raw else self.engine, sampling)
        proposal = self.proposal and sampled(_bare(self.proposal) if raw else self.proposal, sampling)
        return Target(engine, self.rewards[recipe.reward], recipe.beta, proposal)


def _rewardless(name: str) -> bool:
    """Whether what stands after "@" is a method that needs no reward."""
    alias = names.ALIASES.get(name)
    return alias is not None and alias.reward == "none"


def _bare(engine: Engine) -> Engine:
    """The engine without its chat template, where it has one."""
    return replace(engine, template=False, system=None) if isinstance(engine, LanguageEngine) else engine


_NONE: Mapping[str, Any] = {"frequency_penalty": 0, "presence_penalty": 0, "logit_bias": {}}
"""Sampling parameters that not every engine has, with the values that change nothing: clients send these by default."""


def sampled(engine: Engine, sampling: Mapping[str, Any]) -> Engine:
    """The engine under these sampling parameters. Raises Refusal that names the one that it does not have or cannot follow."""
    for name, value in sampling.items():
        if name in _NONE and value == engine.settings.get(name, _NONE[name]):
            continue
        try:
            engine = engine.with_sampling(
                **({"temperature": 1.0, "top_k": 1} if (name, value) == ("temperature", 0) else {name: value})
            )
        except TypeError:
            raise Refusal(f"the model {engine.name} has no {name}: leave it out", param=name, code="unsupported_value") from None
        except (ValueError, ModelError) as error:  # the model cannot follow it
            raise Refusal(str(error), param=name, code="invalid_value") from error
    return engine


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
