"""The page of `reproduce/learned_reward.py`: what more tokens do to each method, with a verdict, and its figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def verdict(points: Sequence[Any]) -> str:
    """Whether the last point is below the best one by more than twice the standard error of their difference over problems."""
    right = np.array([each for _, each in points])
    best = int(right.mean(1).argmax())
    lost = right[best] - right[-1]
    error = float(lost.std(ddof=1)) / math.sqrt(len(lost))
    if best < len(points) - 1 and lost.mean() > 2 * error:
        return f"falls by {lost.mean():.1%} ± {1.96 * error:.1%} from {points[best][0]:,.0f} tokens on"
    return "does not fall"


def off_the_limit(found: Mapping[str, Any]) -> tuple[float, float]:
    """How far the limit of Gumbel is off the mean of best-of-n at the least and the greatest n, in standard deviations."""
    limit = found["limit"]
    gaps = [abs(a - b) / found["spread"] for a, b in zip(limit["measured"], limit["predicted"], strict=True)]
    return gaps[0], gaps[-1]


def section(found: Mapping[str, Any], problems: int) -> str:
    tilt, betas = found["tilt"], ", ".join(f"{beta:.3g}" for beta in found["beta"])
    text = [
        f"`reproduce/learned_reward.py`: {len(found['beta'])} Bradley-Terry models, each of {found['pairs'][0]} other pairs of "
        f"`tiny-small`'s responses, are the reward; {problems} held-out problems, whose right answers are known, judge. "
        f"β = {betas}, at which a chain accepts half of its moves. Shares are means over the models, ± is half of a 95 % "
        "interval over problems, and the last column has each model's share at most tokens. A reward model is as large as "
        "`tiny-small` and reads each token once: what follows it takes twice the FLOPs of a vote or DPO at the same tokens.",
        "",
        "![accuracy over tokens; best-of-n and its limit; the tilt predicted from a pilot](learned_reward.png)",
        "",
        "| method | least tokens | right | most tokens | right | with more tokens | by model |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, points in found["rows"].items():
        cells = []
        for tokens, right in (points[0], points[-1]):
            cells += [f"{tokens:,.0f}", f"{np.mean(right):.1%} ± {1.96 * np.std(right) / math.sqrt(problems):.1%}"]
        each = ", ".join(f"{share:.0%}" for share in found["last"][name])
        text.append(f"| {name} | {' | '.join(cells)} | {verdict(points)} | {each} |")
    few, many = off_the_limit(found)
    gaps = [abs(a - b) / found["spread"] for a, b in zip(tilt["fit"], tilt["pool"], strict=True)]
    near = [gap for gap, kl in zip(gaps, tilt["pool kl"], strict=True) if kl < 0.5]
    limit = found["limit"]
    text += [
        "",
        f"With the first model, on the {found['varied']} problems whose responses have five rewards or more, and in standard "
        f"deviations of a problem's rewards: the limit of Gumbel by a fit of two Gaussians is {few:.2f} off the mean of "
        f"best-of-{limit['n'][0]}, and {many:.2f} off that of best-of-{limit['n'][-1]}; E_π[r] by the fit to 64 draws "
        f"(`calibrate.tilted`) is within {max(near):.2f} of 512 weighted draws where π is less than half a nat from p, and up to "
        f"{max(gaps):.1f} off beyond.",
    ]
    return "\n".join(text)


def figure(found: Mapping[str, Any], file: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    _, (left, middle, last) = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    for name, points in found["rows"].items():
        tokens, right = [x for x, _ in points], np.array([y for _, y in points])
        left.errorbar(tokens, right.mean(1), 1.96 * right.std(1) / math.sqrt(right.shape[1]), label=name, marker="o", ms=3, lw=1)
    left.set_xscale("log")
    left.set_xlabel("tokens of an answer")
    left.set_ylabel("share of right answers")
    left.legend(fontsize=7, loc="lower left")
    limit, tilt = found["limit"], found["tilt"]
    middle.plot(limit["n"], limit["measured"], "o-", ms=4, label="measured")
    middle.plot(limit["n"], limit["predicted"], "--", label="limit of Gumbel, two-Gaussian fit")
    middle.set_xscale("log")
    middle.set_xlabel("n")
    middle.set_ylabel("mean reward of best-of-n")
    middle.legend(fontsize=7)
    for name, style, label in (
        ("pool", "o-", "512 draws"),
        ("fit", "--", "fit to 64 draws"),
        ("pilot", ":", "64 draws, weighted"),
    ):
        last.plot(tilt[f"{name} kl"], tilt[name], style, ms=4, label=label)
    last.set_xlabel("KL(π‖p), nats")
    last.set_ylabel("E_π[r]")
    last.legend(fontsize=7)
    plt.savefig(file, dpi=130)
