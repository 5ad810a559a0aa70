"""Random enumerable targets: small distributions with unequal lengths and caps, and masked ones, each with a random reward."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from exptilt.core import Target
from exptilt.draft import Draft
from exptilt.engines.masked_table import MaskedTableEngine, Order
from exptilt.engines.table import TableEngine
from exptilt.testing.enumeration import Law, gamma

Tokens = tuple[int, ...]


def random_table(seed: int, symbols: int, concentration: float = 1.0) -> Any:
    """A next-token table drawn from a Dirichlet distribution, the same for the same seed and prefix."""

    def next_probs(prefix: Tokens) -> np.ndarray:
        return np.random.default_rng([seed, 7, *[token + 1 for token in prefix]]).dirichlet(np.full(symbols, concentration))

    return next_probs


def random_fill(seed: int, symbols: int) -> Any:
    """A table of hole probabilities drawn from a Dirichlet distribution."""

    def probs(state: Tokens, position: int) -> np.ndarray:
        return np.random.default_rng([seed, 8, position, *[token + 1 for token in state]]).dirichlet(np.ones(symbols))

    return probs


@dataclass(frozen=True)
class Toy:
    """A target with its exact distribution.

    gamma: γ(y) = p(y)·exp(r(y)/β) of every response; its sum is Z.
    name: what messages call it.
    """

    target: Target
    gamma: Law
    name: str = "a toy"

    @property
    def z(self) -> float:
        return sum(self.gamma.values())

    @property
    def pi(self) -> Law:
        return {tokens: mass / self.z for tokens, mass in self.gamma.items()}


def reward_of(seed: int, tokens: Tokens) -> float:
    return float(np.random.default_rng([seed, 9, *[token + 1 for token in tokens]]).normal())


def _toy(
    engine: TableEngine | MaskedTableEngine, proposal: TableEngine | MaskedTableEngine | None, seed: int, beta: float
) -> Toy:
    def reward(prompt: str, drafts: list[Draft]) -> list[float]:
        return [reward_of(seed, draft.tokens) for draft in drafts]

    kind = "a masked table" if isinstance(engine, MaskedTableEngine) else "an autoregressive table"
    name = f"{kind} (seed {seed}{', with a proposal' if proposal else ''})"
    law = gamma(engine.enumerate(), lambda tokens: reward_of(seed, tokens), beta)
    return Toy(Target(engine, reward, beta, proposal), law, name)


def autoregressive(
    seed: int, *, symbols: int = 2, cap: int = 3, beta: float = 1.0, proposal: bool = False, concentration: float = 1.0
) -> Toy:
    """A table over `symbols` tokens, the last of which ends the text: responses of 1 to `cap` tokens."""
    engine = TableEngine(random_table(seed, symbols, concentration), cap, symbols - 1)
    other = TableEngine(random_table(seed + 5000, symbols, concentration), cap, symbols - 1) if proposal else None
    return _toy(engine, other, seed, beta)


def masked(
    seed: int, *, symbols: int = 2, length: int = 3, order: Order = "random", beta: float = 1.0, proposal: bool = False
) -> Toy:
    """A masked distribution over `length` positions. A proposal decides in an order that does not depend on its network."""
    engine = MaskedTableEngine(random_fill(seed, symbols), length, order)
    other = MaskedTableEngine(random_fill(seed + 5000, symbols), length, order) if proposal else None
    return _toy(engine, other, seed, beta)


def constrained(toy: Toy, allowed: Callable[[Tokens], bool]) -> Toy:
    """The same target with a reward of -inf for every response that is not allowed."""
    rated = toy.target.reward
    assert callable(rated)

    def reward(prompt: str, drafts: list[Draft]) -> list[float]:
        values = rated(prompt, drafts)
        return [float(value) if allowed(draft.tokens) else -math.inf for draft, value in zip(drafts, values, strict=True)]

    law = {tokens: mass if allowed(tokens) else 0.0 for tokens, mass in toy.gamma.items()}
    return Toy(replace(toy.target, reward=reward), law, f"{toy.name}, with a hard constraint")
