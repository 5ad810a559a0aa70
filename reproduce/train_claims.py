"""What connects test-time scaling, RLHF and RLIF (Jiao, Chen and Li, 2509.04372, section 2), claim by claim, by enumeration.

    python reproduce/train_claims.py          # some seconds on one core, numpy alone; writes docs/train.md and the results

Each claim is a statement about distributions over the responses of one prompt. On random models with few responses both sides are
computed: what the paper predicts, and what comes out when its objective is optimised step by step, or when best-of-n is worked
out exactly over all multisets of n draws. No sampling takes place, so what remains is the rounding of floats and, for the limits
in n, the terms of higher order.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from pages import put_section

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "reproduce" / "results" / "train_claims.json"
HEADING = "What the theory claims, and what is measured"
SEEDS = range(10)
STEPS, RATE = 4000, 0.2  # of mirror ascent
SIZES = (4, 8, 16, 32)  # numbers of draws; the responses are few, so that all multisets can be listed
Vector = np.ndarray


@dataclass(frozen=True)
class Claim:
    """A row of the table."""

    claim: str
    prediction: str
    measured: str


def model(seed: int, size: int) -> tuple[Vector, Vector]:
    """Probabilities p and rewards r of some responses."""
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(size)), rng.normal(0, 1, size)


def normal(log: Vector) -> Vector:
    """Probabilities from logarithms."""
    shares = np.exp(log - log.max())
    return shares / shares.sum()


def distance(first: Vector, second: Vector) -> float:
    """Total variation."""
    return 0.5 * float(np.abs(first - second).sum())


def divergence(first: Vector, second: Vector) -> float:
    """KL(first‖second) in nats."""
    return float(np.sum(first * (np.log(first) - np.log(second))))


def maximise(gradient: Callable[[Vector], Vector], size: int) -> Vector:
    """The distribution where an objective is largest, by mirror ascent from the uniform one. gradient: with respect to π."""
    log = np.full(size, -math.log(size))
    for _ in range(STEPS):
        log = np.log(normal(log + RATE * gradient(np.exp(log))))
    return np.exp(log)


def worst(values: Iterator[float]) -> str:
    """The largest distance over the random models."""
    return f"distance at most {max(values):.0e}"


# ------------------------------------------------------------------------------------------------------ optima


def rlhf(p: Vector, r: Vector, beta: float) -> Vector:
    """argmax E_π[r] - β·KL(π‖p)."""
    return maximise(lambda pi: r - beta * (np.log(pi) - np.log(p)), len(p))


def rlif(p: Vector, length: int, beta: float) -> Vector:
    """argmax E_π[u] - β·KL(π‖p), where the mean self-certainty of π itself is E[u] = log V - H(π)/L at a fixed length L."""
    return maximise(lambda pi: np.log(pi) / length - beta * (np.log(pi) - np.log(p)), len(p))


def unified(p: Vector, beta: float) -> Vector:
    """argmin H(π) + (β + 1)·KL(π‖p)."""
    return maximise(lambda pi: np.log(pi) - (beta + 1) * (np.log(pi) - np.log(p)), len(p))


# ----------------------------------------------------------------------------------------------------- best-of-n


def soft_best_of(p: Vector, w: Vector, n: int) -> Vector:
    """The distribution of one of n draws from p picked in proportion to w, exactly, over all multisets of draws."""
    logs, found = np.log(p), np.zeros(len(p))
    for counts in multisets(len(p), n):
        log_chance = math.lgamma(n + 1) - sum(math.lgamma(each + 1) for each in counts) + float(np.dot(counts, logs))
        shares = np.array(counts) * w
        found += math.exp(log_chance) * shares / shares.sum()
    return found


def multisets(size: int, n: int) -> Iterator[tuple[int, ...]]:
    """All ways to have n draws of `size` kinds, as counts."""
    for bars in itertools.combinations(range(n + size - 1), size - 1):
        edges = (-1, *bars, n + size - 1)
        yield tuple(right - left - 1 for left, right in itertools.pairwise(edges))


def limit_rows() -> Iterator[Claim]:
    """How fast soft best-of-n comes to π."""
    beta, rows = 0.7, []
    for seed in SEEDS:
        p, r = model(seed, 4)
        w = np.exp(r / beta)
        z = float(p @ w)
        pi, ratio = p * w / z, w / z
        spread = ratio - pi @ ratio
        constants = (0.5 * float(pi @ np.abs(spread)), 0.5 * float(pi @ spread**2))
        exact = [(n, soft_best_of(p, w, n)) for n in SIZES]
        scaled = [(n * distance(pi, q) / constants[0], n * n * divergence(pi, q) / constants[1]) for n, q in exact]
        rows.append((constants, scaled))
    for index, (name, law, constant) in enumerate(
        [("total variation", "N·TV", "½·E_π\\|w/Z - E_π[w/Z]\\|"), ("KL(π‖p_N)", "N²·KL", "½·Var_π(w/Z)")]
    ):
        shares = [" ".join(f"{np.mean([scaled[i][index] for _, scaled in rows]):.3f}" for i in range(len(SIZES)))]
        yield Claim(
            f"(15): soft best-of-N tends to π; {name}",
            f"{law} → {constant}",
            f"{law} over that constant at N = {', '.join(map(str, SIZES))}: {shares[0].replace(' ', ', ')}",
        )
    steepest = [(scaled[-1][0] * SIZES[0]) / (scaled[0][0] * SIZES[-1]) for _, scaled in rows]
    bound = math.sqrt(math.log(SIZES[-1]) / SIZES[-1]) / math.sqrt(math.log(SIZES[0]) / SIZES[0])
    yield Claim(
        "(27)-(29): the error is of the order of sqrt(log N/N) at most",
        f"from N = {SIZES[0]} to {SIZES[-1]} it falls to {bound:.2f} of what it was, or lower",
        f"to {min(steepest):.2f}-{max(steepest):.2f} (mean {np.mean(steepest):.2f}): the bound holds, the rate is 1/N",
    )


def identity_rows() -> Iterator[Claim]:
    """Equalities of optima."""
    models = [model(seed, 12) for seed in SEEDS]
    yield Claim(
        "(9): the optimum of RLHF",
        "π ∝ p·exp(r/β_hf)",
        worst(distance(rlhf(p, r, beta), normal(np.log(p) + r / beta)) for p, r in models for beta in (0.5, 2.0)),
    )
    yield Claim(
        "(15): soft best-of-N as N → ∞ is RLHF at β_tts = β_hf",
        "the same distribution",
        worst(
            distance(rlhf(p, r, 0.7), 2 * soft_best_of(p, np.exp(r / 0.7), 32) - soft_best_of(p, np.exp(r / 0.7), 16))
            for p, r in (model(seed, 4) for seed in SEEDS)
        )
        + " after the term in 1/N is taken out",
    )
    yield Claim(
        "(10): the optimum of RLIF, Lβ_if > 1",
        "π ∝ p^(Lβ/(Lβ - 1))",
        worst(
            distance(rlif(p, length, beta), normal(np.log(p) * length * beta / (length * beta - 1)))
            for p, _ in models
            for length, beta in ((4, 0.5), (16, 0.2))
        ),
    )
    yield Claim(
        "(11): RLIF is RLHF with r = log p where β_hf = Lβ_if - 1",
        "the same distribution",
        worst(distance(rlif(p, 4, 0.75), rlhf(p, np.log(p), 4 * 0.75 - 1)) for p, _ in models),
    )
    yield Claim(
        "(12): both minimise H(π) + (β_hf + 1)·KL(π‖p)",
        "π ∝ p^(1 + 1/β_hf)",
        worst(
            max(distance(found, normal(np.log(p) * 1.5)), distance(found, rlhf(p, np.log(p), 2.0)))
            for p, _ in models
            for found in [unified(p, 2.0)]
        ),
    )


def table(claims: list[Claim]) -> str:
    """The claims as Markdown."""
    rows = [f"| {each.claim} | {each.prediction} | {each.measured} |" for each in claims]
    return "\n".join(["| claim | prediction | measured |", "|---|---|---|", *rows])


def main() -> None:
    claims = [*identity_rows(), *limit_rows()]
    RESULTS.write_text(json.dumps([asdict(each) for each in claims], indent=1, ensure_ascii=False) + "\n")
    about = (
        "`python reproduce/train_claims.py` works out both sides of each statement of Jiao, Chen and Li (2509.04372, section 2) "
        "on ten random models, by enumeration: p is the model, w = exp(r/β), Z = E_p[w]. (10) holds for responses of one length "
        "L; the paper proves the bounds (27)-(29), and the constants of the limits above them are ours."
    )
    put_section(ROOT / "docs" / "train.md", HEADING, f"{about}\n\n{table(claims)}")
    print(table(claims))


if __name__ == "__main__":
    main()
