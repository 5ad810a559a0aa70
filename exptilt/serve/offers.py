"""What a server offers, made of its flags and its configuration: rewards by name, and models ready-made."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from exptilt import names
from exptilt.core import Engine, PromptReward, Reward, Target
from exptilt.errors import UsageError
from exptilt.rewards import Zero
from exptilt.serve.changes import changed
from exptilt.serve.config import Config
from exptilt.serve.recipes import Catalogue, Recipe
from exptilt.serve.refusals import Refusal


def catalogue(build: Callable[[], Target], usual: Recipe, config: Config) -> Catalogue:
    """What the server offers: its model under the usual recipe, and those of its configuration.

    build: makes its engines, and the reward that the usual recipe names; called once all else has been checked, for a model
        takes long to load.
    Raises UsageError for rewards and models that mean nothing.
    """
    given, rewards = ("none", usual.reward), dict[str, Reward | PromptReward]()
    for name, spec in config.rewards.items():
        if name in given:
            raise UsageError(f"the reward {name!r} is named twice, by the flags too: give it another name in [rewards]")
        rewards[name] = names.find_reward(spec, usual.answer)
    known = tuple(dict.fromkeys((*given, *rewards)))
    more = {name: _ready(usual, known, name, table, config) for name, table in config.models.items()}
    target = build()
    rewards = {"none": Zero(), usual.reward: target.reward} | rewards
    return Catalogue(config.name or model_name(target.engine), target.engine, target.proposal, rewards, usual, more)


def model_name(engine: Engine) -> str:
    """The last part of an engine's name, without options: what clients call it."""
    return engine.name.partition("?")[0].rpartition(":")[2].rstrip("/").rpartition("/")[2] or "model"


def _ready(usual: Recipe, rewards: Collection[str], name: str, table: Any, config: Config) -> Recipe:
    """The recipe of a ready-made model of the configuration."""
    if not isinstance(table, Mapping):
        raise UsageError(f'the model {name} must be a table: write [models."{name}"]')
    for word in ("sampler", "inner", "select", "answer", "utility", "reward", "until"):
        if not isinstance(table.get(word, ""), str):
            raise UsageError(f"the model {name} has {word} = {table[word]!r}: give a text")
    if isinstance(table.get("beta", 1), bool) or not isinstance(table.get("beta", 1), int | float):
        raise UsageError(f"the model {name} has beta = {table['beta']!r}: give a number")
    try:
        return changed(usual, table, rewards, config.limits)
    except Refusal as error:
        said = error.message.replace("exptilt.", "").removeprefix("exptilt ")
        raise UsageError(f"the model {name} of the configuration: {said}") from error
