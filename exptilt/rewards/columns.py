"""Columns of a data set as further parameters of a reward: a verifier takes the right answer by the name of its column.

    def exact(prompt, drafts, answer):
        return [float(draft.text.strip() == answer) for draft in drafts]

Parameters after the first two are columns by name: those without a default must be there, those with one may be, and `**columns`
takes all. A reward made of other rewards implements `ReadsColumns`, and hands them on.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from exptilt.core import PromptReward, Reward
from exptilt.draft import Chat, Draft, Prompt
from exptilt.rating import Bounded, reward_name, told_maximum

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@runtime_checkable
class ReadsColumns(Protocol):
    """A reward that becomes one of a single problem by the columns of that problem."""

    @property
    def columns(self) -> frozenset[str]:
        """The columns that must be there."""
        ...

    def given(self, columns: Mapping[str, Any]) -> Reward | PromptReward:
        """The reward of one problem. columns: all that the problem has."""
        ...


def wanted(reward: object) -> frozenset[str]:
    """The columns that a reward must be given; none for most."""
    if isinstance(reward, ReadsColumns):
        return reward.columns
    if isinstance(reward, PromptReward) or not callable(reward):
        return frozenset()
    return frozenset(name for name, needed in parameters(reward)[0].items() if needed)


def filled(reward: Reward | PromptReward, columns: Mapping[str, Any]) -> Reward | PromptReward:
    """The reward of one problem: itself where it reads no columns."""
    if isinstance(reward, ReadsColumns):
        return reward.given(columns)
    if isinstance(reward, PromptReward):
        return reward
    values = taken(reward, columns)
    return Filled(reward, values) if values else reward


def reads_any(reward: object) -> bool:
    """Whether a reward may differ between problems by their columns, so that `filled` has something to do."""
    if isinstance(reward, ReadsColumns):
        return True
    return callable(reward) and not isinstance(reward, PromptReward) and parameters(reward) != ({}, False)


def taken(reward: Reward, columns: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the columns that a reward takes, as far as its parameters tell."""
    if isinstance(reward, ReadsColumns):
        return dict(columns)
    named, takes_all = parameters(reward)
    return {name: value for name, value in columns.items() if takes_all or name in named}


def parameters(function: Callable[..., Any], skip: int = 2) -> tuple[dict[str, bool], bool]:
    """The named parameters after the first `skip`, each with whether it has no default, and whether all names are taken."""
    try:
        found = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # some built-in functions have no signature
        return {}, False
    first = [each for each in found if each.kind in _POSITIONAL][:skip]
    named = {each.name: each.default is each.empty for each in found if each.kind in _NAMED and each not in first}
    return named, any(each.kind is each.VAR_KEYWORD for each in found)


@dataclass(frozen=True)
class Filled:
    """A reward with the columns of one problem. values: by the names of its parameters."""

    reward: Reward
    values: Mapping[str, Any] = field(hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "__qualname__", reward_name(self.reward))
        object.__setattr__(self, "reads", getattr(self.reward, "reads", None))

    @property
    def reward_max(self) -> float | None:
        """The upper bound that the reward tells of itself."""
        return told_maximum(self.reward)

    def __call__(self, prompt: Prompt, drafts: list[Draft]) -> Any:
        return self.reward(prompt, drafts, **self.values)

    def bound(self, prompt: Prompt, drafts: list[Draft]) -> Sequence[float | None]:
        """What the reward knows of unfinished drafts."""
        return self.reward.bound(prompt, drafts) if isinstance(self.reward, Bounded) else [None] * len(drafts)


@dataclass(frozen=True)
class TRL:
    """A reward function as TRL's trainers call it: `f(completions, **columns)`, also with `prompts`, as a reward here.

    function: gets as many values of each column as there are completions, all of them of one problem. A completion is a string,
        or a list with the assistant's message where the prompt is a chat, as in TRL. It returns a float for each.
    """

    function: Callable[..., Sequence[float]]

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise ValueError(f"TRL({self.function!r}) is not callable: give a function (completions, **columns) -> floats")
        object.__setattr__(self, "__qualname__", f"TRL({reward_name(self.function)})")

    @property
    def columns(self) -> frozenset[str]:
        """The parameters without a default that are not the trainer's own."""
        named, _ = parameters(self.function, skip=0)
        return frozenset(name for name, needed in named.items() if needed and name not in _TRAINERS)

    def given(self, columns: Mapping[str, Any]) -> Reward:
        """The reward of one problem."""
        return _OfTRL(self, dict(columns))

    def __call__(self, prompt: Prompt, drafts: list[Draft]) -> Any:
        return self.given({})(prompt, drafts)


_TRAINERS = frozenset({"prompts", "completions", "completion_ids", "completions_ids", "trainer_state"})


@dataclass(frozen=True)
class _OfTRL:
    """A `TRL` reward of one problem."""

    reward: TRL
    columns: Mapping[str, Any] = field(hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "__qualname__", reward_name(self.reward))

    def __call__(self, prompt: Prompt, drafts: list[Draft]) -> Any:
        named, takes_all = parameters(self.reward.function, skip=0)
        texts = [[{"role": "assistant", "content": each.text}] if isinstance(prompt, Chat) else each.text for each in drafts]
        own = {
            "prompts": [prompt.messages if isinstance(prompt, Chat) else prompt for _ in drafts],
            "completions": texts,
            "completion_ids": [list(each.tokens) for each in drafts],
        }
        values = {name: [value] * len(drafts) for name, value in self.columns.items()}
        given = {name: value for name, value in {**values, **own}.items() if takes_all or name in named}
        return self.reward.function(**given)
