"""Log-probabilities are checked where they enter: an impossible one would become an impossible weight, silently.

A token that was drawn had a positive probability, so its log-probability is finite; one that is only scored may have
none (-inf). Neither is NaN or positive, beyond the rounding of the network that computed it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from exptilt.draft import Draft
from exptilt.engines.certainty import Certainty
from exptilt.errors import ModelError
from exptilt.keys import Floats

ROUNDING = 1e-4  # nats above 0 that a network in float32 or a server's decimals may leave


def check_drawn(name: str, drafts: Sequence[Draft], starts: Sequence[int]) -> None:
    """Refuse log-probabilities that no drawn token can have, from decision `starts[i]` of each draft on. Raises ModelError.

    name: of the engine that drew them.
    """
    drawn: list[float] = []
    for draft, start in zip(drafts, starts, strict=True):
        drawn += (draft.logq or ())[start:]
    if not drawn or (math.isfinite(sum(drawn)) and max(drawn) <= ROUNDING):  # NaN and infinities stay in a sum
        return
    for draft, start in zip(drafts, starts, strict=True):
        values = np.asarray((draft.logq or ())[start:], dtype=np.float64)
        bad = np.flatnonzero(~((values > -math.inf) & (values <= ROUNDING)))  # this refuses NaN too
        if bad.size:
            raise ModelError(
                f"{name} says that decision {start + bad[0]} of the draft {draft.text[:60]!r}, which it drew, has "
                f"log-probability {values[bad[0]]}: give an engine whose log-probabilities are finite and not above 0"
            )


def check_scored(name: str, scores: Iterable[Floats]) -> None:
    """Refuse scores that are NaN or above 0; -inf stands for a token of probability zero. Raises ModelError.

    name: of the engine that scored.
    """
    for score in scores:
        values = np.asarray(score, dtype=np.float64)
        bad = np.flatnonzero(~(values <= ROUNDING))  # this refuses NaN too
        if bad.size:
            raise ModelError(
                f"{name} gives a token of a draft the log-probability {values[bad[0]]}: give an engine whose log-probabilities "
                "are numbers not above 0"
            )


def check_certain(name: str, certainties: Iterable[Certainty]) -> None:
    """Refuse measurements of certainty that are NaN. Raises ModelError. name: of the engine that measured."""
    for each in certainties:
        if np.isnan([each.entropy, each.kl_to_uniform, each.kl_from_uniform]).any():
            raise ModelError(f"{name} measures a certainty of NaN: its logits are not finite, so it cannot be used")
