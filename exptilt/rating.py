"""Rewards as samplers call them: what a reward returns is checked, and its errors say where they come from."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine, Mapping, Sequence, Set
from typing import Any, Protocol, runtime_checkable

import numpy as np

from exptilt.draft import Draft, Prompt, check_text
from exptilt.errors import ExptiltError, RewardError, raised_at
from exptilt.keys import Floats

Reward = Callable[..., Sequence[float] | Floats]
"""r(x, y): takes a prompt and drafts, returns one float for each. -inf excludes a draft; NaN and +inf are errors.
Further parameters are columns of a data set, by name.

A reward with the attribute `reads = "text"` is refused for drafts that have an output instead of text. One with the attribute
`reward_max` tells an upper bound of its values, by which answers can be proved (`Population.certified`)."""


def reward_name(reward: object) -> str:
    """What to call a reward in an error message."""
    return getattr(reward, "__qualname__", None) or type(reward).__qualname__


def told_maximum(reward: object) -> float | None:
    """The upper bound that a reward tells of itself by its attribute `reward_max`; None where it tells none."""
    told = getattr(reward, "reward_max", None)
    if told is not None and not (isinstance(told, int | float) and math.isfinite(told)):
        raise RewardError(f"reward {reward_name(reward)} has reward_max={told!r}: give a finite upper bound, or None")
    return told if told is None else float(told)


@runtime_checkable
class Bounded(Protocol):
    """A reward that knows, of a draft that is still being written, how high it can still get: for early abort."""

    def bound(self, prompt: Any, drafts: list[Draft]) -> Sequence[float | None]:
        """An upper bound of the reward of every completion of each unfinished draft; None or +inf where nothing is known.

        A draft's text grows at its end, but for a stop string, which is cut off with what was written of it before.
        """
        ...


def bounds(reward: object, prompt: Prompt, drafts: Sequence[Draft]) -> Floats:
    """Upper bounds of the rewards that unfinished drafts can still get: float64 [drafts], +inf where nothing is known."""
    top = told_maximum(reward)
    found = np.full(len(drafts), math.inf if top is None else top)
    if not drafts or not isinstance(reward, Bounded):
        return found
    name = reward_name(reward)
    try:
        told = [math.inf if value is None else float(value) for value in reward.bound(prompt, list(drafts))]
    except (ExptiltError, KeyboardInterrupt):
        raise
    except BaseException as error:  # as in `rate`
        raise RewardError(
            f"the bound of reward {name} raised {type(error).__name__}: {error}{raised_at(error)}. Correct it."
        ) from error
    if len(told) != len(drafts) or any(map(math.isnan, told)):
        raise RewardError(f"the bound of reward {name} returned {told!r:.80} for {len(drafts)} drafts: give one number for each")
    return np.minimum(found, told)


def rate(reward: Reward, prompt: Prompt, drafts: Sequence[Draft]) -> Floats:
    """Call the reward and check what it returns: float64 of shape [len(drafts)], or a RewardError naming it."""
    if not drafts:
        return np.zeros(0)
    name = reward_name(reward)
    if getattr(reward, "reads", None) == "text":
        check_text(f"reward {name}", drafts)
    try:
        given = reward(prompt, list(drafts))
        values = given.copy() if isinstance(given, np.ndarray) and given.dtype == np.float64 else _floats(name, given)
    except (ExptiltError, KeyboardInterrupt):
        raise
    except BaseException as error:  # SystemExit too: a reward that calls exit() must not end the run
        raise RewardError(
            f"reward {name} raised {type(error).__name__}: {error}{raised_at(error)}. Correct the reward; no score is assumed."
        ) from error
    if values.shape != (len(drafts),):
        raise RewardError(
            f"reward {name} returned values of shape {values.shape} for {len(drafts)} drafts. "
            "Return one float per draft, in the order of the drafts."
        )
    if not values.max() < math.inf:  # NaN is the maximum of whatever it is among
        bad = np.flatnonzero(~(values < math.inf))[0]
        raise RewardError(
            f"reward {name} returned {values[bad]} for the draft {drafts[bad].text[:80]!r}. "
            "Return finite floats; -inf excludes a draft."
        )
    return values


def _floats(name: str, given: Any) -> Floats:
    """What a reward returned, as numbers. Raises RewardError for what stands for none, or for numbers in no order."""
    if isinstance(given, Coroutine):
        given.close()
        raise RewardError(f"reward {name} is an async function: give one that returns the floats themselves")
    if isinstance(given, Mapping | Set | str | bytes):  # a set or a mapping is iterable, but not in the order of the drafts
        raise RewardError(f"reward {name} returned a {type(given).__name__} ({given!r:.60}): return one float for each draft")
    items = list(given)
    if odd := [item for item in items if item is None or isinstance(item, str | bytes)]:
        raise RewardError(f"reward {name} returned {odd[0]!r:.60} for a draft: return a float for each; -inf excludes a draft")
    return np.asarray(items, dtype=np.float64)
