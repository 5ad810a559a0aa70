"""What the rows of an engine have cost, and how it is added up."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass

from exptilt.usage import Work


@dataclass
class Cost:
    """What one row took: tokens evaluated beside those drawn or rated, tokens whose key-values were known, evaluations."""

    prompt: int = 0
    cached: int = 0
    forwards: int = 0


class Ledger:
    """Adds costs to `Work`, which several threads may share."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def count(self, work: Work, costs: Iterable[Cost], *, generated: int = 0, scored: int = 0) -> None:
        """Add the costs of rows, and how many tokens they drew or rated."""
        costs = list(costs)
        with self._lock:
            work.add(
                prompt=sum(cost.prompt for cost in costs),
                cached=sum(cost.cached for cost in costs),
                generated=generated,
                scored=scored,
                forwards=sum(cost.forwards for cost in costs),
            )
