"""Accepted draws under a stopping rule that looks at counts only: the weight that keeps their estimate of Z unbiased.

Draw y ~ p again and again and accept each with probability a(y) = exp((r(y) - r_max)/β). Given which draws are accepted, the
accepted ones are independent draws from π. A run that ends with k accepted of T drawn is a lattice path from (0, 0) to (T, k),
and all paths to one end have the same probability; so P(the first draw was accepted | end) = N*/N, the share of the paths to
that end whose first step is an acceptance, and its mean over ends is Z/exp(r_max/β). Hence the weight of each accepted draft

    w = exp(r_max/β)·N*(T, k)/(k·N(T, k)).

Girshick, Mosteller and Savage, "Unbiased estimates for certain binomial sampling problems with applications", 1946. Averaging
the draws up to the stop, k/T, is biased.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from exptilt.keys import Floats

Rule = Callable[[int, int], bool]
"""Whether a run ends at (drawn, accepted). It is asked after each draw, and must end every run."""


def first_share(rule: Rule, drawn: int, accepted: int) -> float:
    """N*/N at the end (drawn, accepted): the share of the paths to it, by the rule, whose first step is an acceptance.

    Raises ValueError for a point where the rule does not end, or that no path reaches.
    """
    if not (0 <= accepted <= drawn and drawn >= 1 and rule(drawn, accepted)):
        raise ValueError(f"the rule does not end at {accepted} accepted of {drawn} drawn")
    every, firsts = _paths(rule, drawn)[:, accepted]
    if every == 0.0:
        raise ValueError(f"no run ends with {accepted} accepted of {drawn} drawn: the rule ends it before")
    return float(firsts / every)


def _paths(rule: Rule, drawn: int) -> Floats:
    """How many paths reach (drawn, k) for every k, up to a common factor: float64 [2, drawn + 1], of all and by an acceptance."""
    counts = np.array([[1.0, 1.0], [0.0, 1.0]])
    for step in range(1, drawn):
        alive = counts * [not rule(step, k) for k in range(step + 1)]
        counts = np.pad(alive, ((0, 0), (0, 1))) + np.pad(alive, ((0, 0), (1, 0)))
        counts *= 0.5  # both sides of the ratio shrink equally, and large counts stay finite
    return counts


def log_weight(rule: Rule, drawn: int, accepted: int, log_top: float) -> float:
    """log w of each accepted draft of a run that ended there; log_top: r_max/β. -inf where the share is zero."""
    share = first_share(rule, drawn, accepted)
    return -math.inf if share == 0.0 else log_top + math.log(share) - math.log(accepted)
