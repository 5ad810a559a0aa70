"""Measurements by name that are kept in a folder, and the answers of the tiny models to word problems."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import exptilt as xt
from exptilt.answers import number
from exptilt.core import Engine
from exptilt.draft import Draft, known_logq
from exptilt.evaluation.tasks.word_problems import word_problems
from exptilt.keys import Key
from exptilt.populations.calibrate import tilt_kl
from exptilt.populations.diagnostics import pareto_k
from reproduce.claims.finding import ROOT

Cell = dict[str, Any]
FOLDER = ROOT / "runs" / "claims"


@dataclass(frozen=True)
class Cells:
    """What a script has measured, one file each. name: the script's; folder: where they are kept, runs/claims/NAME by default."""

    name: str
    folder: Path | None = None

    def __call__(self, name: str, make: Callable[[], Cell]) -> Cell:
        """The cell of this name; made if it is not there."""
        if (known := self.known(name)) is not None:
            return known
        cell, path = make(), self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"name": name, "cell": cell}))
        print(f"{self.name}: {name}", flush=True)
        return cell

    def known(self, name: str) -> Cell | None:
        """The cell of this name; None if it is not there."""
        path = self._path(name)
        return json.loads(path.read_text())["cell"] if path.exists() else None

    def _path(self, name: str) -> Path:
        return (self.folder or FOLDER / self.name) / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.json"


@dataclass(frozen=True)
class Problems:
    """Held-out word problems of the tiny models, answered and marked."""

    count: int
    seed: int

    @cached_property
    def answers(self) -> dict[str, str]:
        return {each.question: each.answer for each in word_problems("test", self.count, seed=self.seed)}

    def answered(self, target: xt.Target, sampler: Any, select: Any = None) -> Cell:
        """Of each problem whether the answer is right, and the tokens that it took. select: a weighted vote by default."""
        right, tokens = [], []
        select = select or xt.vote(number)
        for outcome in xt.run(target, [*self.answers], sampler, select=select, seed=self.seed, progress=False):
            held = isinstance(outcome, xt.Result)
            right.append(float(held and number(outcome.text) == self.answers[str(outcome.prompt)]))
            tokens.append(outcome.usage.tokens if outcome.usage else 0)
        return {"right": right, "tokens": tokens}


def energies(p: Engine, q: Engine, prefix: Draft, reward: Any, beta: float, own: list[Key], proposed: list[Key]) -> Cell:
    """A prefix's energy by the model's rollouts and, corrected by p/q, by the proposal's; the largest p/q, its variation, and k̂.

    own, proposed: the keys of the rollouts.
    """
    prompt, start = str(prefix.prompt), len(prefix.tokens)
    direct, drafts = p.extend([prefix] * len(own), own), q.extend([prefix] * len(proposed), proposed)
    log_q = np.array([sum(known_logq(draft)[start:]) for draft in drafts])
    log_p = np.array([float(np.sum(each)) for each in p.score(drafts, [start] * len(drafts))])
    ratio = np.exp(log_p - log_q)
    return {
        "direct": float(np.mean(np.exp(np.array(reward(prompt, direct)) / beta))),
        "corrected": float(np.mean(ratio * np.exp(np.array(reward(prompt, drafts)) / beta))),
        "biggest": float(ratio.max()),
        "variation": float(ratio.std() / ratio.mean()),
        "k": float(pareto_k(log_p - log_q)),
    }


def strength(pilots: Sequence[np.ndarray], nats: float) -> float:
    """β at which π is so far from p in the mean over pilots, each the rewards of draws from p."""
    low, high = 1e-4, 1e3
    for _ in range(60):
        middle = (low * high) ** 0.5
        too_near = np.mean([tilt_kl(rewards, middle) for rewards in pilots]) < nats
        low, high = (low, middle) if too_near else (middle, high)
    return (low * high) ** 0.5


def columns(rows: Sequence[Cell]) -> Cell:
    """Cells with the same names as one, whose values are lists."""
    return {name: [row[name] for row in rows] for name in rows[0]}


def percent(cell: Cell) -> str:
    """The share of right answers with half of its 95 % interval, and the mean tokens of an answer."""
    mean, half = interval(np.array(cell["right"]))
    return f"{mean:.1%} ± {half:.1%} ({np.mean(cell['tokens']):,.0f} tokens)"


def interval(values: np.ndarray) -> tuple[float, float]:
    """A mean and half of its 95 % interval."""
    return float(values.mean()), float(1.96 * values.std(ddof=1) / np.sqrt(len(values)))


def difference(one: Cell, two: Cell) -> tuple[float, float]:
    """By how much more answers of the first are right, paired by problem, and half of the 95 % interval."""
    return interval(np.array(one["right"]) - np.array(two["right"]))


def points(gap: tuple[float, float]) -> str:
    return f"{100 * gap[0]:+.1f} ± {100 * gap[1]:.1f} points"


def sure(gap: tuple[float, float]) -> int:
    """1 or -1 where the interval of a difference is on one side of zero, else 0."""
    return int(np.sign(gap[0])) if abs(gap[0]) > gap[1] else 0


def rank_correlation(one: Sequence[float] | np.ndarray, two: Sequence[float] | np.ndarray) -> float:
    """The correlation of the ranks of values that are all different."""
    ranks = [np.argsort(np.argsort(each)) for each in (one, two)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])
