"""What the methods of `reproduce/frontier.py` share: a model, a reward, problems to learn from and others to be judged by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import exptilt as xt
from exptilt.answers import number
from exptilt.evaluation.tasks.word_problems import word_problems
from exptilt.populations.diagnostics import log_shares
from exptilt.rewards import Arithmetic
from exptilt.train import Fit

CAP, BETA = 96, 0.2
TEST = word_problems("test", 100, seed=5)
TRAIN = [each.question for each in word_problems("train", 600, seed=6)]
PILOT, OWN = 256, 64  # draws of a held-out problem: of p for the curve of π, of a trained model
Row = dict[str, Any]
"""reward, right, kl: a mean of each problem; other keys are what it cost."""


def even(prompt: Any, drafts: Sequence[xt.Draft]) -> list[float]:
    """1 for a response that ends in an even digit: a preference that asks for no skill."""
    return [float(draft.text[-1:] in ("0", "2", "4", "6", "8")) for draft in drafts]


@dataclass(frozen=True)
class Study:
    """draws: of each training problem, that methods learn from. folder: where what is done is kept.

    rivals: whether chains, rounds and TRL's trainings are compared too.
    """

    model: str
    reward: Any
    says: str
    draws: int
    fit: Fit
    folder: Path
    rivals: bool = True

    def target(self, engine: Any, beta: float = BETA) -> xt.Target:
        return xt.Target(engine, self.reward, beta)

    def pilot(self) -> xt.Results:
        """Draws of p for the held-out problems."""
        with xt.load(self.model, max_tokens=CAP) as engine:
            questions = [each.question for each in TEST]
            return xt.run(self.target(engine), questions, xt.Independent(PILOT), store=self.folder / "pilot.jsonl")

    def drawn(self) -> Path:
        """Draws of p for the training problems; what every method but GRPO learns from."""
        store = self.folder / "drawn.jsonl"
        with xt.load(self.model, max_tokens=CAP) as engine:
            xt.run(self.target(engine), TRAIN, xt.Independent(self.draws), store=store)
        return store

    def own_draws(self, model: str) -> Row:
        """A trained model by draws of its own, whose log-probabilities are compared with p's."""
        row: Row = {"reward": [], "right": [], "kl": []}
        with xt.load(self.model, max_tokens=CAP) as p, xt.load(model, max_tokens=CAP) as engine:
            results = xt.run(self.target(engine), [each.question for each in TEST], xt.Independent(OWN))
            for result, problem in zip(results.answered, TEST, strict=True):
                drafts = list(result.population.drafts)
                ours = np.array([sum(draft.logq or ()) for draft in drafts])
                theirs = np.array([float(np.sum(score)) for score in p.score(drafts)])
                row["reward"].append(float(result.population.rewards.mean()))
                row["right"].append(float(right(result, problem.answer).mean()))
                row["kl"].append(float(np.mean(ours - theirs)))
        return row


def studies(folder: Path) -> dict[str, Study]:
    """By name: a reward that asks for skill, and one that does not, with twice the draws, read once."""
    skill = "the reward is the checked arithmetic"
    taste = "the reward is 1 for a response that ends in an even digit, else 0"
    return {
        "arithmetic": Study("tiny-small", Arithmetic(), skill, 16, Fit(epochs=2, batch=32, learning_rate=2e-4), folder),
        "even": Study("tiny-small", even, taste, 32, Fit(epochs=1, batch=32, learning_rate=2e-4), folder / "even", rivals=False),
    }


def right(result: xt.Result, answer: str) -> np.ndarray:
    """Whether each draft has the right answer."""
    return np.array([number(draft.text) == answer for draft in result.population.drafts], float)


def tokens_of(store: Path) -> int:
    return xt.read_results(store).usage.tokens


@dataclass(frozen=True)
class Untrained:
    """Methods that draw at test time, on the pilot's draws where the density is known."""

    study: Study
    found: xt.Results = field(repr=False)

    def weighted(self, shares: Callable[[np.ndarray], np.ndarray]) -> Row:
        """A distribution with known density ratios to p on the pilot's draws. shares: of each draw, by the rewards."""
        row: Row = {"reward": [], "right": [], "kl": []}
        for result, problem in zip(self.found.answered, TEST, strict=True):
            rewards = result.population.rewards
            w = shares(rewards)
            held = w > 0
            row["reward"].append(float(w @ rewards))
            row["right"].append(float(w @ right(result, problem.answer)))
            row["kl"].append(float(np.sum(w[held] * np.log(w[held] * len(w)))))
        return row

    def tilted(self, beta: float) -> Row:
        return self.weighted(lambda rewards: np.exp(log_shares(rewards / beta)))

    def soft_best_of(self, n: int, beta: float) -> Row:
        """By the chance that each draw is chosen among itself and n - 1 others of the pilot, the mean over 400 sets of others."""

        def shares(rewards: np.ndarray) -> np.ndarray:
            w = np.exp((rewards - rewards.max()) / beta)
            others = np.random.default_rng(n).choice(w, (400, n - 1)).sum(1)
            chance = (w[:, None] / (w[:, None] + others)).mean(1)
            return chance / chance.sum()

        return self.weighted(shares)

    def chain(self, steps: int) -> Row:
        """The last states of eight chains; their density is not known, so neither is their divergence."""
        row: Row = {"reward": [], "right": [], "kl": None}
        with xt.load(self.study.model, max_tokens=CAP) as engine:
            sampler = xt.SuffixMCMC(steps=steps, chains=8, burn_in=steps)
            results = xt.run(self.study.target(engine), [each.question for each in TEST], sampler)
        for result, problem in zip(results.answered, TEST, strict=True):
            row["reward"].append(result.population.mean_reward)
            row["right"].append(float(result.population.weights @ right(result, problem.answer)))
        return row | {"answer tokens": results.usage.tokens / (8 * len(TEST))}
