"""Which share α_i should each step of ETS have in the pooled population of all rollouts?

    python reproduce/step_weights.py         # about 3 minutes on 1 core; prints the table of docs/log/exactness.md

Any fixed α is unbiased; they differ in variance. On random enumerable targets this measures, for several rules, the
relative error of Ẑ and of the posterior of a two-valued answer, over many runs. The cap is once near the typical length
and once far above it, because a chain that ended early fills all steps that are left.
"""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from exptilt.core import Target
from exptilt.draft import Draft
from exptilt.engines.table import TableEngine
from exptilt.keys import Key
from exptilt.samplers import ETS
from exptilt.testing.toys import reward_of

RULES = {
    "equal": lambda i: 1.0,
    "1/i": lambda i: 1.0 / i,
    "1/i²": lambda i: 1.0 / i**2,
    "0.5^i": lambda i: 0.5**i,
    "first step only": lambda i: float(i == 1),
}
CAPS = {"cap near the length": 6, "cap far above it": 24}
BETAS = (1.0, 0.3)
RUNS = 1500


def table(seed: int):
    """Three symbols, the last one ends the text with probability about 0.25."""

    def next_probs(prefix: tuple[int, ...]) -> np.ndarray:
        # The law hangs on the last three tokens only, so that long caps stay enumerable.
        rng = np.random.default_rng([seed, 7, *[token + 1 for token in prefix[-3:]]])
        return np.append(rng.dirichlet([1.5, 1.5]) * 0.75, 0.25)

    return next_probs


def reward(seed: int):
    def rate(prompt: str, drafts: list[Draft]) -> list[float]:
        return [reward_of(seed, draft.tokens[:5]) for draft in drafts]

    return rate


def answer(draft: Draft) -> bool:
    return sum(draft.tokens[:4]) % 2 == 0


def errors(seed: int, cap: int, beta: float, rule: str) -> tuple[float, float]:
    """Root mean squared relative error of Ẑ, and root mean squared error of the posterior of the answer."""
    target = Target(TableEngine(table(seed), cap, 2), reward(seed), beta)
    steps = math.ceil(cap / 2)
    sampler = ETS(4, 2, 2, step_weights=tuple(RULES[rule](i) for i in range(1, steps + 1)))
    zs, posteriors = np.zeros(RUNS), np.zeros(RUNS)
    for run in range(RUNS):
        *_, population = sampler(target, "x", Key(run, "weights"))
        zs[run] = math.exp(population.log_z or 0.0)
        posteriors[run] = sum(w for w, draft in zip(population.weights, population.drafts, strict=True) if answer(draft))
    z, posterior = truth(target)
    return float(np.sqrt(np.mean((zs / z - 1) ** 2))), float(np.sqrt(np.mean((posteriors - posterior) ** 2)))


def truth(target: Target) -> tuple[float, float]:
    """Z and the posterior: reward and answer hang on the first five tokens, so a cap of five enumerates them."""
    engine = target.engine
    assert isinstance(engine, TableEngine)
    short = replace(engine, max_tokens=5, _known={})
    mass = {True: 0.0, False: 0.0}
    for tokens, log_p in short.enumerate().items():
        draft = Draft("x", tokens)
        mass[answer(draft)] += math.exp(log_p + float(target.rate("x", [draft])[0]) / target.beta)
    return mass[True] + mass[False], mass[True] / (mass[True] + mass[False])


def main() -> None:
    print("| cap | β | rule | error of Ẑ | error of the posterior |\n|---|---|---|---|---|")
    for cap_name, cap in CAPS.items():
        for beta in BETAS:
            for rule in RULES:
                found = np.array([errors(seed, cap, beta, rule) for seed in range(5)])
                z, posterior = found.mean(axis=0)
                print(f"| {cap_name} ({cap}) | {beta} | {rule} | {z:.3f} | {posterior:.3f} |", flush=True)


if __name__ == "__main__":
    main()
