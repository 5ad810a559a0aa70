"""The table and picture of the README: six methods on the tiny model at equal tokens.

    python reproduce/compare_tiny.py         # about 5 minutes on 2 cores; writes docs/methods.png and docs/methods.md

Three seeds of 150 held-out problems each, temperature 1, a cap of 96 tokens, the comparison of `examples/demo.py`. The
interval of an accuracy is Wilson's over the 450 problems; differences to the majority vote are paired by problem, with
bootstrap intervals.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from pathlib import Path

import numpy as np
from rich.console import Console

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import exptilt as xt  # noqa: E402
from examples.demo import BETA, GUIDED, compare  # noqa: E402
from exptilt.evaluate import Score, paired_difference  # noqa: E402
from exptilt.word_problems import word_problems  # noqa: E402

BASE = "majority vote"


def pooled(runs: list[list[Score]]) -> list[Score]:
    """The scores of each method over the problems of all seeds."""
    return [
        Score(
            parts[0].name,
            np.concatenate([part.right for part in parts]),
            float(np.mean([part.tokens for part in parts])),
            float(np.sum([part.seconds for part in parts])),
        )
        for parts in zip(*runs, strict=True)
    ]


def markdown(scores: list[Score], runs: list[list[Score]], problems: int) -> str:
    base = next(score for score in scores if score.name == BASE)
    lines = [
        "# Six methods on the tiny model at equal tokens",
        "",
        f"Written by `reproduce/compare_tiny.py`: {problems} held-out word problems for each of the seeds 0 to {len(runs) - 1},",
        f"temperature 1, cap 96 tokens, β = {BETA}, reward: the worked steps' arithmetic. ETS: M = {GUIDED.candidates},",
        f"K = {GUIDED.rollouts}, block {GUIDED.block}. Intervals are 95 %; differences to the {BASE} are paired by problem.",
        f"Seconds are for all {problems * len(runs)} problems; {platform.machine()}, 2 cores.",
        "",
        "![Accuracy of six methods](methods.png)",
        "",
        "| method | accuracy | 95 % interval | by seed | against majority vote | tokens per problem | seconds |",
        "|---|---:|---|---|---|---:|---:|",
    ]
    for score, parts in zip(scores, zip(*runs, strict=True), strict=True):
        low, high = score.interval
        seeds = ", ".join(f"{part.accuracy:.0%}" for part in parts)
        difference, least, most = paired_difference(score, base)
        against = "" if score.name == BASE else f"{difference:+.1%} ({least:+.1%} to {most:+.1%})"
        cells = (
            f"{score.accuracy:.1%}",
            f"{low:.1%} to {high:.1%}",
            seeds,
            against,
            f"{score.tokens:,.0f}",
            f"{score.seconds:.0f}",
        )
        lines.append(f"| {score.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw_figure(scores: list[Score], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 3.1), layout="constrained")
    accuracy = np.array([score.accuracy for score in scores])
    bounds = np.array([score.interval for score in scores])
    colours = ["#9aa5b1"] + ["#4269d0"] * (len(scores) - 1)
    places = np.arange(len(scores))[::-1]
    axis.barh(places, accuracy, height=0.62, color=colours)
    errors = np.abs(bounds.T - accuracy)
    axis.errorbar(accuracy, places, xerr=errors, fmt="none", ecolor="#1b1f24", capsize=3, lw=1.2)
    for place, score, high in zip(places, scores, bounds[:, 1], strict=True):
        axis.text(high + 0.012, place, f"{score.accuracy:.0%}   {score.tokens:,.0f} tokens", va="center", fontsize=9)
    axis.set_yticks(places, [score.name for score in scores])
    axis.set(xlim=(0, 1.2), xlabel="accuracy on held-out word problems (95 % interval)")
    axis.set_xticks(np.arange(0, 1.01, 0.2), [f"{tick:.0%}" for tick in np.arange(0, 1.01, 0.2)])
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.tick_params(axis="y", length=0)
    figure.savefig(path, dpi=160)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    options = parser.parse_args()
    console = Console(stderr=True)
    target = xt.Target(xt.load("tiny", max_tokens=96), xt.rewards.Arithmetic(), beta=BETA)
    began = time.monotonic()
    runs = [
        compare(target, word_problems("test", options.problems, seed=seed), seed, console).scores for seed in range(options.seeds)
    ]
    scores = pooled(runs)
    options.out.mkdir(exist_ok=True)
    (options.out / "methods.md").write_text(markdown(scores, runs, options.problems))
    draw_figure(scores, options.out / "methods.png")
    results = [vars(score) | {"right": score.right.tolist()} for score in scores]
    (ROOT / "reproduce" / "results" / "compare_tiny.json").write_text(json.dumps(results) + "\n")
    console.print(f"wrote {options.out / 'methods.md'} and methods.png in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
