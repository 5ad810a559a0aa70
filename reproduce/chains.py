"""Which sampler when: accuracy against the length of a chain at equal tokens, and what a wanted accuracy costs.

    python reproduce/chains.py             # about an hour on 2 cores; writes docs/chains.md and docs/chains.png
    python reproduce/chains.py --tables    # only the page and the figure, from the results so far

`tiny-chain` works running totals of 4 to 48 steps and slips in about one line of ten (`reproduce/train_chain.py`); the checker
sees each slip (`exptilt.evaluation.tasks.chains`). Forty held-out chains of each length, 120 for the cheapest methods,
temperature 1. The independent methods share one pool of draws. A budget is the tokens of eight flawless solutions. A stopped
script goes on with the first method that is not finished. `reproduce/chains_page.py` makes page and figure.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import exptilt as xt  # noqa: E402
from exptilt.core import Engine, Sampler, Target  # noqa: E402
from exptilt.describe import describe  # noqa: E402
from exptilt.draft import Draft  # noqa: E402
from exptilt.evaluation.evaluate import all_results  # noqa: E402
from exptilt.evaluation.tasks import Task, chain_task  # noqa: E402
from exptilt.evaluation.tasks.chains import ChainCheck, count_lines, read_chain  # noqa: E402
from exptilt.keys import digest  # noqa: E402
from exptilt.populations.distinct import log_found  # noqa: E402

RESULTS = ROOT / "reproduce" / "results" / "chains.json"
LENGTHS = (24, 12, 48, 8, 16, 4, 32)  # in this order
SEED = 7
BUDGET = 8  # in flawless solutions
POOLED = {4: 64, 8: 64, 12: 64, 16: 64, 24: 64, 32: 24, 48: 24}  # draws of each chain in the pool
LINE = 6  # tokens of a right line
LAST = 4  # tokens of the final line and the end
CHECK, GRADED = ChainCheck(), ChainCheck(graded=True)
BETA = 0.1
FLOOR = 0.01  # of guided picks: the checker is sure


def flawless(steps: int) -> int:
    """Tokens of a flawless solution."""
    return LINE * steps + LAST


# --------------------------------------------------------------------------------------------------------- methods


@dataclass(frozen=True)
class Method:
    """A sampler for chains of each length, with the 0/1 checker or the graded one as its reward.

    problems: how many, in units of what the script was asked for.
    budgeted: runs end at the budget.
    """

    name: str
    sampler: Callable[[int], Sampler]
    problems: int = 1
    graded: bool = False
    budgeted: bool = False

    def target(self, engine: Engine, steps: int) -> Target:
        """Graded, one line more is worth five nats at every length."""
        return Target(engine, GRADED, 0.2 / (steps + 1)) if self.graded else Target(engine, CHECK, BETA)


def quarter(steps: int) -> int:
    """Tokens of a guidance step with rollouts; their cost grows with the square of the number of steps."""
    return math.ceil(flawless(steps) / 4)


def smc(particles: int) -> Callable[[int], Sampler]:
    return lambda _: xt.SMC(particles, block="\n", value=CHECK, threshold=1.0, floor=FLOOR)


def ets(candidates: int) -> Callable[[int], Sampler]:
    return lambda _: xt.ETS(candidates, block="\n", value=CHECK, floor=FLOOR)


METHODS = (
    Method("SMC of 3, checker", smc(3), problems=3),
    Method("SMC of 4, checker", smc(4), problems=3),
    Method("ETS of 4, checker", ets(4), problems=3),
    Method("SMC, checker", smc(BUDGET)),
    Method("ETS, checker", ets(BUDGET)),
    Method("first success with abort", lambda _: xt.Rejection(1, limit=20_000, reward_max=1.0, block=LINE)),
    Method("SMC, rollouts", lambda steps: xt.SMC(3, block=quarter(steps))),  # 3·(1 + 3/2) solutions
    Method("ETS, rollouts", lambda steps: xt.ETS(3, 1, block=quarter(steps))),
    Method("SuffixMCMC, graded", lambda _: xt.SuffixMCMC(10_000, block=LINE), graded=True, budgeted=True),
)


# --------------------------------------------------------------------------------------------------------- measuring


class Results:
    """What was measured, by length and method, in a JSON file that is written after each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}

    def measure(self, steps: int, name: str, settings: object, run: Callable[[], dict[str, Any]]) -> None:
        """Run it, unless it was run before with the same settings."""
        known, key = self.found.setdefault(str(steps), {}), digest(json.dumps(settings))
        if known.get(name, {}).get("settings") == key:
            return
        began = time.monotonic()
        known[name] = {"settings": key, **run()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.found) + "\n")
        print(f"{steps} steps, {name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def measure(results: Results, problems: int) -> None:
    """Run what is not there yet."""
    for steps in LENGTHS:
        engine = xt.load("tiny-chain", max_tokens=flawless(steps) + 2 * LINE, max_rows=512)
        about = [describe(engine), problems, SEED]
        task = chain_task(problems, SEED, steps)
        results.measure(steps, "pool", [*about, POOLED[steps]], lambda: pool(engine, task))  # noqa: B023 (run at once)
        for method in METHODS:
            target, sampler = method.target(engine, steps), method.sampler(steps)
            settings = [*about, method.problems, describe(target), describe(sampler), BUDGET]
            more = chain_task(method.problems * problems, SEED, steps)
            budget = xt.Budget(tokens=BUDGET * flawless(steps)) if method.budgeted else None
            results.measure(steps, method.name, settings, lambda: judged(target, sampler, more, budget))  # noqa: B023


def judged(target: Target, sampler: Sampler, task: Task, budget: xt.Budget | None) -> dict[str, Any]:
    """Whether the best draft of each problem's last population is right, and the tokens it took."""
    outcomes = xt.run(target, task.prompts, sampler, select=xt.best, seed=SEED, concurrency=len(task), budget=budget)
    results = all_results(outcomes)
    right = [task.correct(result.text, reference) for result, reference in zip(results, task.references, strict=True)]
    return {"right": [int(each) for each in right], "tokens": [result.usage.tokens for result in results]}


def pool(engine: Engine, task: Task) -> dict[str, Any]:
    """The draws of every problem: which are right, which are flawless, and the votes of groups of `BUDGET` of them."""
    steps = len(read_chain(task.prompts[0]).changes)
    target = Target(engine, CHECK, BETA)
    results = all_results(xt.run(target, task.prompts, xt.Independent(POOLED[steps]), seed=SEED, concurrency=16))
    found: dict[str, Any] = {"right": [], "flawless": [], "tokens": [], "majority": [], "distinct": [], "lines": 0, "wrong": 0}
    for prompt, reference, result in zip(task.prompts, task.references, results, strict=True):
        drafts, chain = result.population.drafts, read_chain(prompt)
        found["right"].append([int(task.correct(draft.text, reference)) for draft in drafts])
        found["flawless"].append([int(reward == 1.0) for reward in result.population.rewards])
        found["tokens"].append(sum(draft.decided for draft in drafts) / len(drafts))
        groups = [drafts[start : start + BUDGET] for start in range(0, len(drafts) - BUDGET + 1, BUDGET)]
        for name, weights in (("majority", even), ("distinct", distinct)):
            answers = [voted(task, group, weights(group)) for group in groups]
            found[name].append(sum(answer == reference for answer in answers) / len(groups))
        counts = [count_lines(chain, draft.text) for draft in drafts]
        found["lines"] += sum(lines for lines, _ in counts)
        found["wrong"] += sum(wrong for _, wrong in counts)
    return found


def even(drafts: Sequence[Draft]) -> list[float]:
    return [1.0] * len(drafts)


def distinct(drafts: Sequence[Draft]) -> list[float]:
    """The weights of `Independent(weights="distinct")` without a reward; repeats have none."""
    seen, weights = set(), []
    for draft in drafts:
        log_p = math.fsum(draft.logq or ())
        weights.append(0.0 if draft.tokens in seen else math.exp(log_p - float(log_found(np.array([log_p]), len(drafts))[0])))
        seen.add(draft.tokens)
    return weights


def voted(task: Task, drafts: Sequence[Draft], weights: Sequence[float]) -> str | None:
    """The answer with the largest weight, the earliest of equals."""
    sums: dict[str | None, float] = {}
    for draft, weight in zip(drafts, weights, strict=True):
        answer = task.answer(draft.text)
        if answer is not None:
            sums[answer] = sums.get(answer, 0.0) + weight
    return max(sums, key=lambda answer: sums[answer], default=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=40, help="of each length")
    parser.add_argument("--tables", action="store_true", help="only write the page and the figure from the results so far")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    options = parser.parse_args()
    results = Results(options.results)
    if not options.tables:
        measure(results, options.problems)
    from reproduce import chains_page

    (options.out / "chains.md").write_text(chains_page.page(results.found))
    chains_page.draw_figure(results.found, options.out / "chains.png")


if __name__ == "__main__":
    main()
