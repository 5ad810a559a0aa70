"""How guided samplers choose among partial drafts: by scores, with a floor under everything that is not excluded.

The weights of ETS and SMC divide by the probability of what was chosen, so they are proper whatever the scores are, on one
condition: what can still lead to a response of positive γ must be chosen with a positive probability. A score is an
estimate. Where all K rollouts of a draft happened to be excluded (-inf), or exp(r/β) underflows beside another's, the
estimate is 0 although the energy is not, and its mass would be lost forever: under a constraint that 2.2 % of the
responses meet, E[Ẑ]/Z was 0.01. So scores are mixed with equal shares of a floor δ:

    P(j) = (1 - δ)·s_j/Σs + δ/M,     1/M where Σs = 0,     over the M drafts that are not finished and excluded.

The score of a finished draft is exact, exp(r/β) itself: one that is excluded has no mass to lose, and is never chosen;
where all are finished there is no floor, and P = s/Σs. Drafts of equal scores are equally likely, so that β → ∞ gives p. A
small δ leaves rare and very large weights, a large one ignores the scores; `reproduce/floors.py` measures both, and the
default is near the best over smooth rewards and hard constraints together (docs/exactness.md).
"""

from __future__ import annotations

import math

import numpy as np

from exptilt.keys import Floats
from exptilt.populations.diagnostics import log_shares

FLOOR = 0.2
"""The default δ of ETS and SMC."""


def log_picks(log_s: Floats, unfinished: np.ndarray, floor: float) -> Floats | None:
    """log P(j) of every draft, float64 [M]; None where nothing is left to choose: all finished, all excluded.

    log_s: log-scores, float64 [M], -inf for a score of 0.
    unfinished: bool [M].
    floor: δ, above 0 and below 1.
    """
    scored = log_s > -math.inf
    if not unfinished.any():
        return log_shares(log_s) if scored.any() else None
    left = scored | unfinished
    even = np.where(left, -math.log(left.sum()), -math.inf)
    return np.logaddexp(log_shares(log_s) + math.log1p(-floor), even + math.log(floor)) if scored.any() else even


def check_floor(record: object, floor: float) -> None:
    """Refuse, at construction, a floor outside (0, 1)."""
    if not 0 < floor < 1:
        raise ValueError(
            f"{type(record).__name__}(floor={floor}): give a share above 0 and below 1. At 0 a draft whose rollouts were all "
            "excluded could never be chosen, at 1 a finished one could not, and its part of Z would be lost"
        )
