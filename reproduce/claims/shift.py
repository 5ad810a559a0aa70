"""QAlign under shift: problems with a redundant clause, which the model never saw, beside the same problems without it.

    python reproduce/claims/shift.py      # ten minutes on one core; what is done is kept under runs/claims

As in GSM-NoOp, a sentence with a number of its own is put before the question and changes nothing. The reward is the checked
arithmetic, which looks at each line and not at the problem, so it is imperfect: a response that counts the clause in may have a
reward of 1. QAlign votes over the states of one chain; majority and weighted vote have as many tokens.
"""

from __future__ import annotations

import random
import sys
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import exptilt as xt  # noqa: E402
from exptilt.answers import number  # noqa: E402
from exptilt.evaluation.tasks.word_problems import word_problems  # noqa: E402
from exptilt.rewards import Arithmetic  # noqa: E402
from reproduce.claims.cells import Cell, Cells, Problems, difference, interval, percent, points, sure  # noqa: E402
from reproduce.claims.finding import Finding, judged, keep  # noqa: E402

CELLS, COUNT, SEED, BETA = Cells("shift"), 200, 59, 0.3
CLAUSES = (
    "The weather is fine for {n} days.",
    "A bus with {n} seats passes by.",
    "There is a clock that is {n} years old.",
    "A book of {n} pages lies on a bench.",
)


class Clauses(Problems):
    """The same problems, each with a sentence before its question that changes nothing."""

    @cached_property
    def answers(self) -> dict[str, str]:
        found = {}
        for place, each in enumerate(word_problems("test", self.count, seed=self.seed)):
            rng = random.Random(place)
            story, question = each.question.rsplit(". ", 1)
            clause = rng.choice(CLAUSES).format(n=rng.randrange(3, 60))
            found[f"{story}. {clause} {question}"] = each.answer
        return found


def cells(problems: Problems, name: str) -> dict[str, Cell]:
    def made(sampler: Any, reward: Any, select: Any) -> Cell:
        with xt.load("tiny", max_tokens=96) as engine:
            return problems.answered(xt.Target(engine, reward, BETA), sampler, select)

    majority, weighted = xt.vote(number, weighted=False), xt.vote(number, distinct=False)
    draws = xt.Independent(32, weights="draws")
    plans = {
        "plain": (xt.Independent(1), xt.rewards.Zero(), majority),
        "majority": (draws, xt.rewards.Zero(), majority),
        "weighted vote": (draws, Arithmetic(), weighted),
        "best-of-n": (draws, Arithmetic(), xt.best),
        "QAlign": (xt.SuffixMCMC(62), Arithmetic(), majority),
    }
    return {method: CELLS(f"{name}, {method}", lambda plan=plan: made(*plan)) for method, plan in plans.items()}


def main() -> None:
    usual, shifted = cells(Problems(COUNT, SEED), "usual"), cells(Clauses(COUNT, SEED), "shifted")
    gains = {name: difference(found["QAlign"], found["majority"]) for name, found in (("usual", usual), ("shifted", shifted))}
    lost = {method: np.array(usual[method]["right"]) - np.array(shifted[method]["right"]) for method in usual}
    setting = f"tiny, {COUNT} held-out word problems, checked arithmetic, β = {BETA}"
    told = "; ".join(f"{method} {percent(usual[method])}, {percent(shifted[method])} shifted" for method in usual)
    fallen = [interval(gap) for gap in lost.values()]
    keep("shift", [
        Finding(
            "A redundant clause takes accuracy away", "QAlign, section 4 (GSM-Symbolic); GSM-NoOp", setting,
            "less for every method", "; ".join(f"{method} loses {points(interval(gap))}" for method, gap in lost.items()),
            **judged(all(sure(gap) > 0 for gap in fallen), "not every method loses", any(sure(gap) > 0 for gap in fallen)),
        ),
        Finding(
            "QAlign keeps its gain over the majority under shift", "QAlign, figure 2", setting, "above the majority on both",
            f"{told}; QAlign over the majority {points(gains['usual'])}, shifted {points(gains['shifted'])}",
            **judged(all(sure(gap) > 0 for gap in gains.values()), "the reward sees lines, not what was to be counted",
                     any(sure(gap) > 0 for gap in gains.values())),
        ),
    ])  # fmt: skip


if __name__ == "__main__":
    main()
