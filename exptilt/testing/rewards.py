"""The contract of rewards: one finite float for each draft, the same at every call and whatever is rated with it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from exptilt.core import Reward
from exptilt.draft import Draft, Prompt
from exptilt.rating import rate
from exptilt.testing.contract import require


def check_reward(reward: Reward, prompt: Prompt, texts: Sequence[str]) -> None:
    """Check the contract of a reward on finished responses with these texts, two at least.

    Raises RewardError where it raises or does not return proper numbers, ContractError where its values depend on the order of
    the drafts, on what is rated with them, or on when it is called: then no fixed target π exists.
    """
    require(len(texts) > 1, "give two texts or more: with one there is nothing to compare")
    drafts = [Draft(prompt, (number,), None, text, "stop") for number, text in enumerate(texts)]
    values = rate(reward, prompt, drafts)
    for what, others in {
        "asked again": rate(reward, prompt, drafts),
        "in the reverse order": rate(reward, prompt, drafts[::-1])[::-1],
        "rated one by one": np.concatenate([rate(reward, prompt, [draft]) for draft in drafts]),
    }.items():
        differ = np.flatnonzero(~_same(values, others))
        where = int(differ[0]) if differ.size else 0
        require(
            not differ.size,
            f"the reward of {texts[where]!r} is {values[where]}, but {others[where]} when {what}: it must depend on prompt and "
            "draft alone",
        )
    require(rate(reward, prompt, []).shape == (0,), "no drafts must have no rewards")


def _same(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Equal to 1e-6 of the rewards' size: models round differently in batches of other sizes."""
    finite = one[np.isfinite(one)]
    scale = float(np.max(np.abs(finite), initial=1.0))
    both = (one == -math.inf) & (other == -math.inf)
    with np.errstate(invalid="ignore"):
        return both | (np.abs(one - other) <= 1e-6 * scale)
