"""A population as a table: one row for each draft."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from exptilt.draft import Draft, prompt_json
from exptilt.keys import Floats

ROW = ("prompt", "completion", "finish", "reward", "weight", "log_w", "logq", "tokens")
"""The fields of a draft's row."""


def rows_of(drafts: Sequence[Draft], rewards: Floats, weights: Floats, log_w: Floats) -> list[dict[str, Any]]:
    """The rows of drafts with their rewards and weights, each float64 [drafts]; `weights` sum to one."""
    told = [(prompt_json(draft.prompt), draft.text, draft.finish) for draft in drafts]
    weighed = zip(rewards.tolist(), weights.tolist(), log_w.tolist(), strict=True)
    rest = [(None if draft.logq is None else math.fsum(draft.logq), [*draft.tokens]) for draft in drafts]
    return [dict(zip(ROW, (*one, *two, *three), strict=True)) for one, two, three in zip(told, weighed, rest, strict=True)]
