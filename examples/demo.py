"""The main job on the bundled tiny models: six methods on held-out word problems, at equal tokens.

    python examples/demo.py                  # `make demo`: 50 problems, under 3 minutes on 2 cores
    python examples/demo.py --problems 300   # tighter intervals

The model solves arithmetic word problems in worked steps and is right about half of the time. The reward checks the
arithmetic of the steps, never the reference answer; the reference only judges. Every method draws from the same model
at temperature 1. ETS sets the price: the others get as many draws or steps as cost the same tokens per problem.
A few of the problems then go to the bundled masked-diffusion model, which fills holes instead of going on.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

import exptilt as xt
from exptilt import answers
from exptilt.cli.terminal import progress_bar
from exptilt.evaluation.evaluate import Score, equal_samples, evaluate
from exptilt.evaluation.tasks.word_problems import Problem, word_problems
from exptilt.running.result import Result

GUIDED = xt.ETS(candidates=4, rollouts=2, block=12)
BETA = 0.1


def correct(text: str, reference: str) -> bool:
    """Whether the final number of a worked solution is the reference answer."""
    return answers.number(text) == reference


class Comparison:
    """Runs methods one after the other on the same problems and keeps every score and result."""

    def __init__(self, target: xt.Target, problems: list[Problem], seed: int, console: Console) -> None:
        self.target, self.problems, self.seed, self.console = target, problems, seed, console
        self.scores: list[Score] = []
        self.results: dict[str, list[Result]] = {}

    def add(self, title: str, sampler, selects: dict) -> Score:
        """Run `sampler` on every problem with a live bar; one score for each select. Returns the last one."""
        self.console.print(f"[bold]{title}[/bold]")
        questions = [problem.question for problem in self.problems]
        references = [problem.answer for problem in self.problems]
        with progress_bar(self.console, len(questions), "problem") as progress:
            scores, results = evaluate(
                self.target, questions, references, sampler, selects, correct, seed=self.seed, progress=progress
            )
        self.scores += scores
        self.results |= dict.fromkeys(selects, results)
        return scores[-1]


def compare(target: xt.Target, problems: list[Problem], seed: int, console: Console) -> Comparison:
    """All six methods; ETS first, because it sets the number of tokens."""
    comparison = Comparison(target, problems, seed, console)
    chain = comparison.add("ETS", replace(GUIDED, returns="chain"), {"ETS": xt.draw})
    comparison.add("ETS, all rollouts voting", GUIDED, {"ETS, all rollouts vote": xt.vote(answers.number)})
    draws = equal_samples(chain.tokens, comparison.results["ETS"])
    selects = {"plain sampling": None, "majority vote": xt.vote(answers.number, weighted=False), "best-of-n": xt.best}
    comparison.add(f"Plain sampling, majority vote, best-of-{draws}", xt.Independent(draws), selects)
    # A step redraws half a response on average, so twice as many steps as draws cost the same.
    steps = 2 * (draws - 1)
    comparison.add(f"QAlign, {steps} steps", xt.SuffixMCMC(steps), {"QAlign": xt.vote(answers.number)})
    order = ["plain sampling", "majority vote", "best-of-n", "ETS", "ETS, all rollouts vote", "QAlign"]
    comparison.scores.sort(key=lambda score: order.index(score.name))
    return comparison


def compare_masked(target: xt.Target, problems: list[Problem], seed: int, console: Console) -> Comparison:
    """ETS against as many independent draws as cost the same, on a masked-diffusion model: a token is a position decided."""
    comparison = Comparison(target, problems, seed, console)
    guided = replace(GUIDED, rollouts=1, block=16)
    score = comparison.add("Masked diffusion: ETS", guided, {"ETS, all rollouts vote": xt.vote(answers.number)})
    draws = equal_samples(score.tokens, comparison.results[score.name])
    selects = {"plain sampling": None, "majority vote": xt.vote(answers.number, weighted=False), "best-of-n": xt.best}
    comparison.add(f"Masked diffusion: plain sampling, majority vote, best-of-{draws}", xt.Independent(draws), selects)
    comparison.scores = [*comparison.scores[1:], comparison.scores[0]]
    return comparison


def show(scores: list[Score], console: Console) -> None:
    table = Table(box=None, padding=(0, 1), header_style="dim")
    for name, justify in (
        ("method", "left"),
        ("accuracy", "right"),
        ("95 % interval", "right"),
        ("tokens/problem", "right"),
        ("seconds", "right"),
    ):
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    best = max(score.accuracy for score in scores)
    for score in scores:
        low, high = score.interval
        style = "bold green" if score.accuracy == best else ""
        cells = (f"{score.accuracy:.0%}", f"{low:.0%} to {high:.0%}", f"{score.tokens:,.0f}", f"{score.seconds:.0f}")
        table.add_row(score.name, *cells, style=style)
    console.print(table)


def save(comparison: Comparison, path: Path) -> None:
    """One JSON line per method and problem: question, reference, and what the method answered at what price."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        for score in comparison.scores:
            for problem, result, right in zip(comparison.problems, comparison.results[score.name], score.right, strict=True):
                line = {
                    "method": score.name,
                    "question": problem.question,
                    "reference": problem.answer,
                    "right": round(float(right), 4),
                    "tokens": result.usage.tokens,
                    "log_z": result.log_z,
                    "ess": round(result.population.ess, 3),
                    "texts": [draft.text for draft in result.population.drafts[:64]],
                }
                file.write(json.dumps(line) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="tiny", help="any name that exptilt.load knows")
    parser.add_argument("--masked", default="tiny-mdlm", help="a masked-diffusion model for the second table")
    parser.add_argument("--masked-problems", type=int, default=16, help="how many problems it gets; 0 for none")
    options = parser.parse_args()
    console = Console()
    console.print(f"Loading the model [cyan]{options.model}[/cyan]; reward: the worked steps' arithmetic; beta = {BETA}")
    engine = xt.load(options.model, temperature=1.0, max_tokens=96)
    target = xt.Target(engine, xt.rewards.Arithmetic(), beta=BETA)
    problems = word_problems("test", options.problems, seed=options.seed)
    began = time.monotonic()
    comparison = compare(target, problems, options.seed, console)
    console.print(f"\n{options.problems} held-out problems, seed {options.seed}, temperature 1, {time.monotonic() - began:.0f} s")
    show(comparison.scores, console)
    spread = np.ptp([score.tokens for score in comparison.scores if score.name != "plain sampling"])
    console.print(f"[dim]plain sampling is one draw; the others cost the same tokens to within {spread:,.0f} per problem[/dim]")
    path = Path("runs") / f"demo-{time.strftime('%Y%m%d-%H%M%S')}.jsonl"
    save(comparison, path)
    console.print(f"[dim]every answer:[/dim] {path}", soft_wrap=True)
    if options.masked_problems:
        masked = xt.Target(xt.load(options.masked), xt.rewards.Arithmetic(), beta=BETA)
        console.print(f"\nThe same on [cyan]{options.masked}[/cyan], {options.masked_problems} of the problems")
        show(compare_masked(masked, problems[: options.masked_problems], options.seed, console).scores, console)


if __name__ == "__main__":
    main()
