"""Exact values of what the doctor estimates, by enumeration of table targets."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from exptilt.core import Engine, Reward
from exptilt.doctor.pilot import Pilot, Sounding
from exptilt.draft import Draft
from exptilt.engines import TableEngine
from exptilt.running.result import Result
from exptilt.running.run import run
from exptilt.testing.toys import Tokens, Toy, reward_of


def soundings(toy: Toy, prompts: int, draws: int, seed: int = 0) -> list[Sounding]:
    """Pilots of a toy, whose prompts are all alike."""
    outcomes = run(toy.target, [f"prompt {number}" for number in range(prompts)], Pilot(draws), seed=seed, concurrency=1)
    return [Sounding.of(outcome) for outcome in outcomes if isinstance(outcome, Result)]


def law(toy: Toy) -> tuple[dict[Tokens, float], dict[Tokens, float]]:
    """p(y), and h(y) = exp(r/β)/Z."""
    engine = toy.target.engine
    assert isinstance(engine, TableEngine)
    p = {tokens: math.exp(value) for tokens, value in engine.enumerate().items()}
    return p, {tokens: toy.gamma[tokens] / toy.z / p[tokens] for tokens in p}


def ess_share(toy: Toy) -> float:
    """1/(1+χ²)."""
    p, h = law(toy)
    return 1 / sum(p[tokens] * h[tokens] ** 2 for tokens in p)


def kl(toy: Toy) -> float:
    """KL(π‖p), nats."""
    p, h = law(toy)
    return sum(p[tokens] * h[tokens] * math.log(h[tokens]) for tokens in p)


def mean_length(toy: Toy) -> float:
    p, _ = law(toy)
    return sum(mass * len(tokens) for tokens, mass in p.items())


def explained(toy: Toy, count: int) -> float:
    """The share of Var(h) that the first `count` tokens explain."""
    p, h = law(toy)
    mass: dict[Tokens, float] = {}
    energy: dict[Tokens, float] = {}
    for tokens in p:
        mass[tokens[:count]] = mass.get(tokens[:count], 0.0) + p[tokens]
        energy[tokens[:count]] = energy.get(tokens[:count], 0.0) + p[tokens] * h[tokens]
    return (sum(energy[name] ** 2 / mass[name] for name in mass) - 1) / (1 / ess_share(toy) - 1)


def acceptance(toy: Toy, seed: int) -> float:
    """Acceptance of a suffix redraw under π."""
    p, h = law(toy)
    mass: dict[Tokens, float] = {}
    for tokens in p:
        for place in range(len(tokens)):
            mass[tokens[:place]] = mass.get(tokens[:place], 0.0) + p[tokens]
    total = 0.0
    for old in p:
        for new in p:
            for place in range(len(old)):
                if new[:place] != old[:place] or len(new) <= place:
                    continue
                gain = (reward_of(seed, new) - reward_of(seed, old)) / toy.target.beta
                accepted = min(1.0, math.exp(gain) * len(old) / len(new))
                total += p[old] * h[old] / len(old) * p[new] / mass[old[:place]] * accepted
    return total


def coin(size: int) -> TableEngine:
    """`size` tosses of a fair coin: 0 or 1, no end of text before the cap."""
    return TableEngine(lambda prefix: np.array([0.5, 0.5, 0.0]), size, 2)


def of_tokens(rate: Callable[[Tokens], float]) -> Reward:
    """A reward that looks at tokens alone."""

    def reward(prompt: str, drafts: list[Draft]) -> list[float]:
        return [float(rate(draft.tokens)) for draft in drafts]

    return reward


class AllHeads:
    """1.0 where every toss is 1; a toss that is not is seen at once."""

    def __call__(self, prompt: str, drafts: list[Draft]) -> list[float]:
        return [float(all(draft.tokens)) for draft in drafts]

    bound = __call__


def whole_responses_only(engine: TableEngine) -> Engine:
    """The engine of a server that cannot continue drafts."""
    return Blunt(engine.next_probs, engine.max_tokens, engine.end)


class Blunt(TableEngine):
    """What an engine can do belongs to its class."""

    can = frozenset[str]()
