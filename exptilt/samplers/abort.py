"""Early abort: a draft is drawn in blocks and given up once it can no longer be accepted.

Acceptance asks whether a uniform number u is below a threshold that falls with the reward. u belongs to the draft and not to its
end, so it may be known from the start: where an upper bound of the reward of every way to go on puts the threshold at u or
below, the draft would be rejected however it ends. The decisions are those that would be made without, draw by draw; only the
tokens after them are saved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from exptilt.blocks import Blocks, schedule
from exptilt.core import Target
from exptilt.draft import Draft, Prompt
from exptilt.errors import RewardError
from exptilt.keys import Floats, Key

Possible = Callable[[int, Draft, float], bool]
"""Whether the draft of this number could still be accepted, given an upper bound of its reward."""


def drawn_while(
    target: Target, prompt: Prompt, drafts: Sequence[Draft], keys: Sequence[Key], block: Blocks, possible: Possible
) -> tuple[list[Draft], Floats]:
    """The drafts drawn to their ends, block by block; those given up come back unfinished.

    Also the lowest upper bound that the reward told of each, float64 [drafts], by which `check_bounds` holds it to its word.
    """
    current, lowest = list(drafts), np.full(len(drafts), math.inf)
    rows, step = [row for row, draft in enumerate(drafts) if draft.finish is None], 0
    blocks = schedule(block, target.engine.max_tokens)
    while rows:
        extent = blocks[min(step, len(blocks) - 1)]  # an engine may decide fewer tokens than it was asked for
        fresh = target.engine.extend([current[row] for row in rows], [keys[row].child("block", step) for row in rows], extent)
        for row, draft in zip(rows, fresh, strict=True):
            current[row] = draft
        rows = [row for row in rows if current[row].finish is None]
        bounds = target.bounds(prompt, [current[row] for row in rows])
        lowest[rows] = np.minimum(lowest[rows], bounds)
        rows = [row for row, bound in zip(rows, bounds.tolist(), strict=True) if possible(row, current[row], bound)]
        step += 1
    return current, lowest


def check_bounds(drafts: Sequence[Draft], rewards: Floats, lowest: Floats) -> None:
    """Raise RewardError where a finished draft's reward is above what was said of its beginning."""
    for draft, reward, bound in zip(drafts, rewards.tolist(), lowest.tolist(), strict=True):
        if reward > bound + 1e-9 * max(1.0, abs(bound)):
            raise RewardError(
                f"the reward of {draft.text[:60]!r} is {reward:g}, above the bound {bound:g} that was told of its beginning, so "
                "that others were given up for nothing: correct the reward's `bound`, or draw without block"
            )
