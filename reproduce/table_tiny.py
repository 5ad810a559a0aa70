"""The README's figure and table: eleven methods on the tiny model at four token budgets, under two rewards.

    python reproduce/table_tiny.py             # under 90 minutes on 2 cores; writes docs/methods.md and docs/methods.png
    python reproduce/table_tiny.py --tables    # only the page and the figure, from the results so far

Three seeds of 300 held-out word problems each; temperature 1, a cap of 96 tokens. A budget is the tokens of 4, 8, 16 or 32
plain samples. The true reward knows the reference answer, as a perfect verifier would. The agreement reward knows nothing: it
asks whether the answer is frequent in a pilot, which takes half of the budget. Plain sampling, the majority vote, MBR and beam
search use no reward and are the same under both. A run that was stopped goes on with the first method that is not finished.

The interval of an accuracy is Wilson's over all problems. Differences are paired by problem, with bootstrap intervals.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import exptilt as xt  # noqa: E402
from bench.record import machine  # noqa: E402
from exptilt.core import Engine, Target  # noqa: E402
from exptilt.evaluation.cost import Parameters  # noqa: E402
from exptilt.evaluation.evaluate import Score  # noqa: E402
from exptilt.evaluation.tasks import Task, load_task  # noqa: E402
from reproduce.methods import METHODS, UNGUIDED, Plan, Results, Sizes, guided, table, true_reward, unguided  # noqa: E402

RESULTS = ROOT / "reproduce" / "results" / "table_tiny.json"
BUDGETS = (4, 8, 16, 32)  # in plain samples
REWARDS = ("true reward", "agreement reward")
BLOCK = 12  # tokens per guidance step
STEPS = 3.25  # guidance steps of a response in the mean: 33 tokens over the block, and half a block more
CONCURRENCY = 128
PARAMETERS = Parameters(1_918_656, 470_880)  # of tiny and tiny-small, as `reproduce/train_tiny.py` trained them


def plans(task: Task, samples: int, engine: Engine, proposal: Engine) -> Iterator[tuple[str, Plan]]:
    """The plans of one budget, each with the name of its group."""
    for plan in unguided(engine, task, samples, BLOCK):
        yield f"no reward, {samples}", plan
    exact = Target(engine, true_reward(task), beta=0.1)
    for plan in guided(exact, task, Sizes.reckoned(samples, STEPS), BLOCK, proposal):
        yield f"true reward, {samples}", plan
    pilot = samples // 2
    agreed = Target(engine, xt.rewards.Agreement(task.answer, pilot, "log"), beta=0.5)
    for plan in guided(agreed, task, Sizes.reckoned(samples - pilot, STEPS), BLOCK, proposal):
        yield f"agreement reward, {samples}", plan


def measure(results: Results, problems: int, seeds: int) -> None:
    """Run what is not there yet, the smallest budgets first."""
    engine, proposal = (xt.load(name, max_tokens=96, max_rows=512) for name in ("tiny", "tiny-small"))
    began = time.monotonic()
    for samples in BUDGETS:
        for seed in range(seeds):
            task = load_task("word-problems", problems=problems, seed=seed)
            for group, plan in plans(task, samples, engine, proposal):
                results.measure(group, plan, task, seed, concurrency=CONCURRENCY)
            print(f"budget {samples}, seed {seed}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


# ------------------------------------------------------------------------------------------------------------- page


def scores_of(results: Results, reward: str, samples: int) -> dict[str, Score]:
    """All methods at one budget, those that use no reward included, in the order of the tables."""
    found = results.scores(f"no reward, {samples}") | results.scores(f"{reward}, {samples}")
    return {name: found[name] for name in METHODS if name in found}


_ABOUT = """\
# Eleven methods on the tiny model, at four budgets and under two rewards

This page is written by `reproduce/table_tiny.py`: {problems:,} held-out word problems in 3 seeds, temperature 1, a cap of 96
tokens, K = 1, blocks of 12 tokens. A budget of n is the tokens of n plain samples, drawn and scored.

- **True reward**: 1 for a right answer, β = 0.1. Best-of-n is then right whenever one of its draws is, so it shows what a perfect
  verifier gets from the pool.
- **Agreement reward**: the log of the smoothed frequency of the answer in a pilot of half the budget, β = 0.5. It does not know
  the right answers.
- **Beam search** compares sampled blocks by their likelihood.
- **ETS-IS** draws its rollouts from tiny-small, which is a quarter of the size, and scores them with tiny.

![Accuracy against tokens](methods.png)

{glance}

95 % intervals extend at most {widest:.1f} points to either side. The tables below give each of them, with the measured tokens,
and with MFLOPs by each model's number of parameters; prompts are left out, because the engine has them cached from the methods
before.
Differences from the majority vote at the same budget are paired by problem. {machine}; seconds are for all problems, 128 at a
time, beside other work.
"""


def page(results: Results) -> str:
    scores = [score for reward in REWARDS for samples in BUDGETS for score in scores_of(results, reward, samples).values()]
    widest = max(high - low for low, high in (score.interval for score in scores))
    about = _ABOUT.format(
        problems=min(len(score.right) for score in scores),
        glance="\n".join(glance(results)),
        widest=50 * widest,
        machine=machine(),
    )
    return about + "".join(f"{line}\n" for reward in REWARDS for line in _details(results, reward))


def glance(results: Results) -> list[str]:
    """The lines of a table of accuracies alone, which the README shows too."""
    lines = [
        "| method | " + " | ".join(f"{reward}, {samples}" for reward in REWARDS for samples in BUDGETS) + " |",
        "|---|" + "---:|" * len(REWARDS) * len(BUDGETS),
    ]
    found = {(reward, samples): scores_of(results, reward, samples) for reward in REWARDS for samples in BUDGETS}
    for name in METHODS:
        cells = [f"{scores[name].accuracy:.1%}" if name in scores else "" for scores in found.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def _details(results: Results, reward: str) -> list[str]:
    lines = ["", f"## {reward[0].upper()}{reward[1:]}"]
    for samples in BUDGETS:
        lines += ["", f"### The tokens of {samples} samples", "", *table(scores_of(results, reward, samples), PARAMETERS)]
    return lines


# ----------------------------------------------------------------------------------------------------------- figure

STYLES = {
    "majority vote": ("#6b7280", "o"),
    "MBR": ("#9ca3af", "s"),
    "beam search": ("#374151", "^"),
    "weighted vote": ("#d97706", "o"),
    "best-of-n": ("#b45309", "D"),
    "QAlign": ("#059669", "o"),
    "SMC": ("#7c3aed", "s"),
    "ETS, raw chain": ("#93b4f5", "v"),
    "ETS, all rollouts vote": ("#2563eb", "o"),
    "ETS-IS, all rollouts vote": ("#db2777", "P"),
}


def draw_figure(results: Results, path: Path) -> None:
    """Accuracy against measured tokens, a panel for each reward; plain sampling is a line across."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10.5, 4.6), sharey=True, layout="constrained")
    for axis, reward in zip(axes, REWARDS, strict=True):
        by_budget = [scores for samples in BUDGETS if (scores := scores_of(results, reward, samples))]
        plain = np.mean([scores["plain sampling"].accuracy for scores in by_budget])
        axis.axhline(plain, color="#9ca3af", lw=1, ls=":")
        axis.text(
            0.99, plain + 0.004, "plain sampling", color="#6b7280", fontsize=8, ha="right", transform=axis.get_yaxis_transform()
        )
        for name, (colour, marker) in STYLES.items():
            scores = [each[name] for each in by_budget if name in each]
            accuracy = np.array([score.accuracy for score in scores])
            errors = np.abs(np.array([score.interval for score in scores]).T - accuracy)
            axis.errorbar(
                [score.tokens for score in scores], accuracy, yerr=errors, label=name, color=colour, marker=marker,
                ms=5, lw=2.2 if name.startswith("ETS, all") else 1.3, ls="--" if name in UNGUIDED else "-", elinewidth=0.8,
            )  # fmt: skip
        axis.set(xscale="log", title=reward, xlabel="tokens per problem, drawn and scored")
        ticks = [125, 250, 500, 1000]
        axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axis.minorticks_off()
        axis.grid(axis="y", color="#e5e7eb", lw=0.8)
        axis.set_axisbelow(True)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    levels = np.arange(0.5, 1.01, 0.1)
    axes[0].set_yticks(levels, [f"{level:.0%}" for level in levels])
    axes[0].set_ylabel("accuracy, with 95 % interval")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=9)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=300, help="for each seed")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tables", action="store_true", help="only write the page and the figure from the results so far")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    options = parser.parse_args()
    results = Results(options.results)
    if not options.tables:
        measure(results, options.problems, options.seeds)
    options.out.mkdir(exist_ok=True)
    (options.out / "methods.md").write_text(page(results))
    draw_figure(results, options.out / "methods.png")


if __name__ == "__main__":
    main()
