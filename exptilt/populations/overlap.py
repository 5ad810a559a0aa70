"""Overlap: how well a proposal q covers the model p in practice, by p/q of what was drawn from q.

The mean of p/q over draws from q is 1, whatever q is. Where few draws carry that mean, so do they carry every average that p/q
corrects: energies of candidates by rollouts, log Ẑ, votes. ETS (2601.21484) calls it a failure signature of ETS-IS.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from exptilt.populations.diagnostics import is_heavy, k_limit, log_shares, pareto_k


@dataclass(frozen=True)
class Overlap:
    """Of continuations drawn from a proposal, by p/q over their own tokens.

    count: how many there are.
    largest: the log of the largest p/q, nats; -inf where p excludes all.
    variation: the coefficient of variation of p/q, 0 where q is p.
    k_hat: the shape of its tail (`pareto_k`); inf where there are too few to tell.
    """

    count: int
    largest: float
    variation: float
    k_hat: float

    @classmethod
    def of(cls, log_ratios: Sequence[float]) -> Overlap:
        """log_ratios: log p/q of each continuation, nats, one at least; -inf where p excludes it."""
        ratios = np.array(log_ratios, dtype=np.float64)
        if ratios.max() == -math.inf:
            return cls(len(ratios), -math.inf, 0.0, -math.inf)
        shares = np.exp(log_shares(ratios))
        spread = max(0.0, len(ratios) * float(shares @ shares) - 1.0)
        return cls(len(ratios), float(ratios.max()), math.sqrt(spread), pareto_k(ratios))

    @property
    def effective(self) -> float:
        """How many draws from the model itself they count as, n/(1 + variation²)."""
        return self.count / (1.0 + self.variation**2)

    @property
    def heavy(self) -> bool:
        """Whether the tail of p/q is too heavy for averages to settle: k̂ above its limit, where there are enough to tell."""
        return is_heavy(self.k_hat, self.count)

    @property
    def poor(self) -> bool:
        """Whether few draws carry what p/q corrects: less than half of them count, and less than ten or with a heavy tail."""
        return self.effective < self.count / 2 and (self.effective < 10 or self.heavy)

    def warning(self, engine: str, proposal: str) -> str | None:
        """One sentence where the proposal is too far from the model, with what to do instead; None where it is near enough."""
        if not self.poor:
            return None
        tail = f", and k̂ of p/q is {self.k_hat:.2f} (limit {k_limit(self.count):.2f})" if self.heavy else ""
        return (
            f"The proposal {proposal} seldom draws what {engine} would: its {self.count} continuations count as "
            f"{self.effective:.1f}{tail}. Leave the proposal out, or take one nearer to the model: larger, or at the model's "
            "temperature."
        )
