"""Toys for training: a table of logits as a network, and distributions that can be enumerated."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import exptilt as xt
from exptilt.engines import TableEngine
from exptilt.keys import Floats
from exptilt.testing.toys import random_table

SYMBOLS, LENGTH, END = 3, 4, 2
PROMPT = "say something"


def table(seed: int = 0) -> TableEngine:
    """A random model of 3 tokens, the last of which ends a response, and at most 4 of them: 31 responses."""
    return TableEngine(random_table(seed, SYMBOLS), LENGTH, END)


def ones(prompt: Any, drafts: Any) -> list[float]:
    """A reward: how many tokens are 1, and a bonus for ending early."""
    return [draft.tokens.count(1) + 0.7 * (draft.finish == "stop") for draft in drafts]


class TableNetwork(nn.Module):
    """A network that can be any distribution: logits for each prefix of at most `LENGTH` tokens, all zero at first.

    A text is one token of the prompt, of no meaning, and the prefix.
    """

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Embedding((SYMBOLS + 1) ** LENGTH, SYMBOLS)
        nn.init.zeros_(self.logits.weight)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any) -> Any:
        code, codes = torch.zeros_like(input_ids[:, 0]), []
        for column in range(input_ids.shape[1]):
            code = code if column == 0 else code * (SYMBOLS + 1) + 1 + input_ids[:, column]
            codes.append(code)
        return SimpleNamespace(logits=self.logits(torch.stack(codes, 1)))

    def log_prob(self, tokens: tuple[int, ...]) -> float:
        """log π_θ(y), in nats."""
        with torch.no_grad():
            logs = self(torch.tensor([[0, *tokens[:-1]]])).logits.log_softmax(-1)
        return sum(float(logs[0, place, token]) for place, token in enumerate(tokens))


def exact(engine: TableEngine, factors: Any) -> dict[tuple[int, ...], float]:
    """log of the target p·exp(factor), normalised, by enumeration. factors: takes tokens and log p."""
    logs = {tokens: log_p + factors(tokens, log_p) for tokens, log_p in engine.enumerate().items()}
    top = float(np.logaddexp.reduce([*logs.values()]))
    return {tokens: log - top for tokens, log in logs.items()}


def divergence(log_target: dict[tuple[int, ...], float], log_model: Any) -> float:
    """KL(target‖model) in nats; log_model takes tokens."""
    return sum(np.exp(log) * (log - log_model(tokens)) for tokens, log in log_target.items() if log > -np.inf)


def drawn(folder: Path, engine: Any, reward: Any, beta: float, n: int, prompts: Any = (PROMPT,), name: str = "drawn") -> Path:
    """A results file of independent draws."""
    store = folder / f"{name}.jsonl"
    xt.run(xt.Target(engine, reward, beta), [*prompts], xt.Independent(n), store=store)
    return store


def shares(values: Floats) -> Floats:
    return np.exp(values - np.logaddexp.reduce(values))
