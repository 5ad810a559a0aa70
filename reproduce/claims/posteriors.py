"""Of answers that are given 90 %, how many are right? Posteriors of populations beside the truth.

    python reproduce/claims/posteriors.py      # five minutes on one core; what is done is kept under runs/claims

A posterior here is the share of the weights that an answer has: under plain draws p's own, under a reward π's. Bins hold answers
by their share; the error is the mean distance of a bin's share of right answers from its mean posterior, weighted by the size of
the bin (expected calibration error).
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import exptilt as xt  # noqa: E402
from exptilt.answers import number  # noqa: E402
from exptilt.rewards import Arithmetic  # noqa: E402
from reproduce.claims.cells import Cell, Cells, Problems  # noqa: E402
from reproduce.claims.finding import Finding, judged, keep  # noqa: E402

CELLS, PROBLEMS, BINS = Cells("posteriors"), Problems(300, seed=43), np.linspace(0, 1, 11)


def shares(target: xt.Target, sampler: Any) -> Cell:
    """The top answer of each problem: its share of the weights, and whether it is right."""
    top, right, vote = [], [], xt.vote(number)
    for result in xt.run(target, [*PROBLEMS.answers], sampler, seed=PROBLEMS.seed, progress=False).answered:
        answer, share = max(vote.posterior(result.population).items(), key=lambda each: each[1])
        top.append(share)
        right.append(float(answer == PROBLEMS.answers[str(result.prompt)]))
    return {"top": top, "right": right}


def error(cell: Cell, rng: np.random.Generator | None = None) -> float:
    top, right = (np.array(cell[key]) for key in ("top", "right"))
    if rng is not None:
        chosen = rng.choice(len(top), len(top))
        top, right = top[chosen], right[chosen]
    bins = np.minimum(np.digitize(top, BINS) - 1, 9)
    return float(sum(abs(right[bins == b].mean() - top[bins == b].mean()) * np.mean(bins == b) for b in np.unique(bins)))


def told(cell: Cell) -> str:
    rng = np.random.default_rng(0)
    low, high = np.quantile([error(cell, rng) for _ in range(500)], [0.025, 0.975])
    near = [r for t, r in zip(cell["top"], cell["right"], strict=True) if t >= 0.9]
    half = 1.96 * math.sqrt(np.mean(near) * (1 - np.mean(near)) / len(near)) if near else math.nan
    return (
        f"of {len(near)} answers given 90 % or more, {np.mean(near):.1%} ± {half:.1%} are right; "
        f"error {error(cell):.3f} ({low:.3f} to {high:.3f})"
    )


def main() -> None:
    samplers = {"distinct weights": xt.Independent(64)}
    cells: dict[str, Cell] = {}
    with xt.load("tiny", max_tokens=96) as engine:
        for name, sampler in samplers.items():
            target = xt.Target(engine, xt.rewards.Zero(), 1.0)
            cells[f"p, {name}"] = CELLS(f"p, {name}", lambda t=target, s=sampler: shares(t, s))
        for name, sampler in {"64 draws": xt.Independent(64), "ETS(8, 2), block 12": xt.ETS(8, 2, 12)}.items():
            target = xt.Target(engine, Arithmetic(), 0.1)
            cells[f"π (checked arithmetic), {name}"] = CELLS(f"arithmetic, {name}", lambda t=target, s=sampler: shares(t, s))
    findings = []
    for name, cell in cells.items():
        near = np.array([r for t, r in zip(cell["top"], cell["right"], strict=True) if t >= 0.9])
        enough = bool(len(near)) and near.mean() + 1.96 * math.sqrt(near.mean() * (1 - near.mean()) / len(near)) >= 0.9
        findings.append(
            Finding(
                f"Answers given 90 % under {name} are right as often",
                "ours",
                f"tiny, {PROBLEMS.count} held-out word problems",
                "of answers given 90 % or more, 90 % are right",
                told(cell),
                figure="claims_posteriors.png",
                **judged(enough, "the model itself is surer than it is right", part=False),
            )
        )
    keep("posteriors", findings)
    figure(cells)


def figure(cells: dict[str, Cell]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    _, panel = plt.subplots(figsize=(6.2, 4.6), layout="constrained")
    for name, cell in cells.items():
        top, right = np.array(cell["top"]), np.array(cell["right"])
        bins = np.minimum(np.digitize(top, BINS) - 1, 9)
        seen = [b for b in np.unique(bins) if np.sum(bins == b) >= 8]
        means = [(top[bins == b].mean(), right[bins == b].mean()) for b in seen]
        panel.plot(*zip(*means, strict=True), "o-", ms=4, label=name)
    panel.plot([0, 1], [0, 1], ":", color="0.5")
    panel.set(
        xlabel="share of the weights that the top answer has", ylabel="share of these that are right", xlim=(0, 1), ylim=(0, 1)
    )
    panel.legend(fontsize=8, loc="lower right")
    plt.savefig(ROOT / "docs" / "claims_posteriors.png", dpi=130)


if __name__ == "__main__":
    main()
