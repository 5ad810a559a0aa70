"""Decoding: all rows in flight take one step together; each step is one evaluation of the network for every row.

`evaluation` says what the network sees, `row` which positions a row asks about and decides, and `decisions` makes the tokens and
their log-probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from exptilt.engines.diffusion.decisions import Step
from exptilt.engines.diffusion.evaluation import Evaluation
from exptilt.engines.diffusion.network import MaskedNetwork
from exptilt.engines.diffusion.row import Row


class MaskedDecoder:
    """The batch of rows in flight: what `exptilt.engines.scheduler` drives. Only its worker calls it."""

    def __init__(self, network: MaskedNetwork, ends: frozenset[int]) -> None:
        self.network = network
        self.evaluation = Evaluation(network)
        self.ends = ends
        self.rows: dict[Row, None] = {}

    def join(self, rows: Sequence[Row]) -> None:
        self.rows |= dict.fromkeys(rows)

    def leave(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self.rows.pop(row, None)
            row.kept.clear()  # its caller holds the row itself until all of the call are done

    @torch.inference_mode()
    def step(self) -> list[Row]:
        """One step of every row; rows that are done leave and are returned."""
        rows = list(self.rows)
        for row in rows:
            row.ask()
        step = Step(self.network, rows, self.evaluation.features(rows))
        guesses = step.guess()
        sureness = step.sureness(guesses)
        chosen = [row.choose(sureness[step.starts[i] : step.starts[i + 1]]) for i, row in enumerate(rows)]
        tokens, logq = step.decide(chosen, guesses)
        ends = np.cumsum([0, *map(len, chosen)])
        mine = [slice(ends[i], ends[i + 1]) for i in range(len(rows))]
        done = [
            row for row, some, part in zip(rows, chosen, mine, strict=True) if row.take(some, tokens[part], logq[part], self.ends)
        ]
        self.leave(done)
        return done
