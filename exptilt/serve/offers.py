"""What a server offers, made of its flags and its configuration: rewards by name, and models ready-made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from exptilt import names
from exptilt.core import Engine, PromptReward, Reward, Target
from exptilt.errors import UsageError
from exptilt.rewards import Zero
from exptilt.serve.changes import changed
from exptilt.serve.config import Config
from exptilt.serve.recipes import Catalogue, Recipe
from exptilt.serve.refusals import Refusal


def catalogue(target: Target, usual: Recipe, config: Config) -> Catalogue:
    """What the server offers: its model under the usual recipe, and those of its configuration.

    target: its engines, and the reward that the usual recipe names.
    Raises UsageError for rewards and models that mean nothing.
    """
    rewards: dict[str, Reward | PromptReward] = {"none": Zero(), usual.reward: target.reward}
    for name, spec in config.rewards.items():
        if name in rewards:
            raise UsageError(f"the reward {name!r} is named twice, by the flags too: give it another name in [rewards]")
        rewards[name] = names.find_reward(spec, usual.answer)
    name = config.name or model_name(target.engine)
    made = Catalogue(name, target.engine, target.proposal, rewards, usual)
    return replace(made, more={each: _ready(made, each, table, config) for each, table in config.models.items()})


def model_name(engine: Engine) -> str:
    """The last part of an engine's name, without options: what clients call it."""
    return engine.name.partition("?")[0].rpartition(":")[2].rstrip("/").rpartition("/")[2] or "model"


def _ready(catalogue: Catalogue, name: str, table: Any, config: Config) -> Recipe:
    """The recipe of a ready-made model of the configuration."""
    if not isinstance(table, Mapping):
        raise UsageError(f'the model {name} must be a table: write [models."{name}"]')
    for word in ("sampler", "inner", "select", "answer", "utility", "reward", "until"):
        if not isinstance(table.get(word, ""), str):
            raise UsageError(f"the model {name} has {word} = {table[word]!r}: give a text")
    if isinstance(table.get("beta", 1), bool) or not isinstance(table.get("beta", 1), int | float):
        raise UsageError(f"the model {name} has beta = {table['beta']!r}: give a number")
    try:
        return changed(catalogue.usual, table, catalogue.rewards, config.limits)
    except Refusal as error:
        said = error.message.replace("exptilt.", "").removeprefix("exptilt ")
        raise UsageError(f"the model {name} of the configuration: {said}") from error
