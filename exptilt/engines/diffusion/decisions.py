"""From the network's logits at masked positions to decisions: confidence, tokens, log-probabilities.

Tokens are drawn by inverse CDF with the row's own uniforms, or given where the row is scored; both go through
`exptilt.engines.distribution_torch`. Logits are made a bounded number at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from exptilt.engines.diffusion.network import MaskedNetwork
from exptilt.engines.diffusion.row import Row
from exptilt.engines.distribution_torch import Laws, draw, log_probability
from exptilt.keys import Floats

Guesses = dict[int, tuple[int, float]]
"""For an asked position, by its index: the token drawn for it and the log-probability of that token (nats)."""
COLUMN = {"margin": 1, "entropy": 2}  # of the table of `measures`; 0 for every other order


class Step:
    """One step of a batch.

    rows: those that take it, `asked` filled.
    features: the network's features of all asked positions, row after row: [n, width].
    starts: int [rows + 1], where each row's positions begin in it.
    """

    def __init__(self, network: MaskedNetwork, rows: Sequence[Row], features: Tensor) -> None:
        self.network = network
        self.rows = rows
        self.features = features
        self.starts = np.cumsum([0, *[len(row.asked) for row in rows]])
        self.laws = Laws.of([row.sampling for row in rows], network.vocabulary, network.device)

    def guess(self) -> Guesses:
        """For "low-confidence" rows: a token for every asked position."""
        inside = [(i, n) for i, row in enumerate(self.rows) if row.sampling.order == "low-confidence" for n in self._asked(i)]
        uniforms = [float(self.rows[i].uniforms.random()) for i, _ in inside]
        tokens, logq = self._draw([n for _, n in inside], [i for i, _ in inside], uniforms)
        return {n: pair for (_, n), pair in zip(inside, zip(tokens, logq, strict=True), strict=True)}

    def sureness(self, guesses: Guesses) -> Floats:
        """How sure the network is of each asked position, by the measure of its row; float64 [n]."""
        sureness = np.zeros(int(self.starts[-1]))
        indices = [n for i, row in enumerate(self.rows) if row.looks for n in self._asked(i)]
        measured = [row.sampling for row in self.rows if row.looks for _ in row.asked]
        if not indices:
            return sureness
        temperatures = torch.tensor([sampling.temperature for sampling in measured], device=self.features.device)[:, None]
        values, used = [], 0
        for logits in self.network.chunks(self._at(indices)):
            here = slice(used, used := used + len(logits))
            values.append(measures(logits, temperatures[here], {sampling.order for sampling in measured[here]}))
        table = torch.cat(values).cpu().numpy()
        sureness[indices] = table[np.arange(len(indices)), [COLUMN.get(sampling.order, 0) for sampling in measured]]
        for index, (_, logq) in guesses.items():
            sureness[index] = logq
        return sureness

    def decide(self, chosen: Sequence[Sequence[int]], guesses: Guesses) -> tuple[list[int], list[float]]:
        """Tokens and log-probabilities (nats) of the chosen positions, row after row: drawn, guessed before, or given.

        chosen: for each row, indices into its `asked`.
        """
        picks = [(i, int(self.starts[i]) + index, k) for i, some in enumerate(chosen) for k, index in enumerate(some)]
        found = dict(guesses)
        drawn = [(i, n) for i, n, _ in picks if self.rows[i].given is None and n not in guesses]
        uniforms = [float(self.rows[i].uniforms.random()) for i, _ in drawn]
        tokens, logq = self._draw([n for _, n in drawn], [i for i, _ in drawn], uniforms)
        found |= {n: pair for (_, n), pair in zip(drawn, zip(tokens, logq, strict=True), strict=True)}
        scored = [(i, n, _following(self.rows[i], k)) for i, n, k in picks if self.rows[i].given is not None]
        values = self._rate([n for _, n, _ in scored], [i for i, _, _ in scored], [token for _, _, token in scored])
        found |= {n: (token, value) for (_, n, token), value in zip(scored, values, strict=True)}
        return [found[n][0] for _, n, _ in picks], [found[n][1] for _, n, _ in picks]

    def _asked(self, row: int) -> range:
        return range(self.starts[row], self.starts[row + 1])

    def _at(self, indices: Sequence[int]) -> Tensor:
        return self.features[torch.tensor(indices, device=self.features.device)]

    def _draw(self, indices: list[int], owners: list[int], uniforms: list[float]) -> tuple[list[int], list[float]]:
        if not indices:
            return [], []
        device = self.features.device
        numbers = torch.tensor(uniforms, dtype=torch.float64, device=device)
        owner = torch.tensor(owners, device=device)
        tokens, logq, used = [], [], 0
        for logits in self.network.chunks(self._at(indices)):
            here = slice(used, used := used + len(logits))
            some, values = draw(logits, self.laws.take(owner[here]), numbers[here])
            tokens += some.tolist()
            logq += values.tolist()
        return tokens, logq

    def _rate(self, indices: list[int], owners: list[int], tokens: list[int]) -> list[float]:
        if not indices:
            return []
        device = self.features.device
        owner, wanted = torch.tensor(owners, device=device), torch.tensor(tokens, device=device)
        values, used = [], 0
        for logits in self.network.chunks(self._at(indices)):
            here = slice(used, used := used + len(logits))
            values += log_probability(logits, self.laws.take(owner[here]), wanted[here]).tolist()
        return values


def measures(logits: Tensor, temperatures: Tensor, orders: set[str]) -> Tensor:
    """Probability of the likeliest token, its lead over the second, minus the entropy: float64 [n, 3].

    All at the row's temperature and before truncation; what no order asks for is left zero.
    """
    shares = torch.log_softmax(logits / temperatures, dim=-1).exp()
    table = torch.zeros(len(logits), 3, dtype=torch.float64, device=logits.device)
    first, second = shares.topk(2, dim=-1).values.double().T
    table[:, 0], table[:, 1] = first, first - second
    if "entropy" in orders:
        table[:, 2] = -torch.special.entr(shares).sum(dim=-1, dtype=torch.float64)
    return table


def _following(row: Row, nth: int) -> int:
    """The given token of the nth decision after those the row has."""
    assert row.given is not None
    return row.given.tokens[len(row.positions) + nth]
