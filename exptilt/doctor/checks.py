"""Is the reward fit for sampling? Checked before a long run: a target π ∝ p·exp(r/β) needs a fixed function r."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from exptilt.core import Engine, PromptReward, Reward
from exptilt.draft import Draft, Prompt
from exptilt.errors import RewardError
from exptilt.keys import Floats, Key
from exptilt.rating import rate

_SOME = 8  # as many drafts are rated again


@dataclass(frozen=True)
class Checks:
    """What was seen of a reward on some drafts of one prompt.

    changed: the largest difference between two ratings of the same drafts in the same call; 0 for a fixed function.
    alone: the largest difference between a draft rated alone and among others.
    rated: how many drafts were compared.
    partial: whether it gave numbers for unfinished drafts, as `value=` of ETS and SMC needs; None where the engine cannot make
        any.
    """

    changed: float
    alone: float
    rated: int
    partial: bool | None


def check_reward(engine: Engine, reward: Reward | PromptReward, prompt: Prompt, drafts: Sequence[Draft], key: Key) -> Checks:
    """Rate up to 8 drafts twice, and each alone; a PromptReward is bound to the prompt first. Raises RewardError."""
    bound = reward.bind(engine, prompt, key.child("bind")) if isinstance(reward, PromptReward) else reward
    some = list(drafts[:_SOME])
    first, again = rate(bound, prompt, some), rate(bound, prompt, some)
    singles = np.concatenate([rate(bound, prompt, [draft]) for draft in some])
    return Checks(_gap(first, again), _gap(first, singles), len(some), _rates_partial(engine, bound, prompt, some, key))


def _gap(one: Floats, other: Floats) -> float:
    return float(np.max(np.where(one == other, 0.0, np.abs(one - np.where(one == other, 0.0, other))), initial=0.0))


def _rates_partial(engine: Engine, reward: Reward, prompt: Prompt, drafts: Sequence[Draft], key: Key) -> bool | None:
    longest = max(drafts, key=lambda draft: draft.decided)
    if "continue" not in engine.can or longest.decided < 2:
        return None
    (partial,) = engine.extend([longest.cut(longest.decided // 2 - 1)], [key.child("partial")], 1)
    if partial.finish is not None:
        return None
    try:
        rate(reward, prompt, [partial])
    except RewardError:
        return False
    return True
