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


def section(found: Mapping[str, Any], problems: int) -> str:
    about, tilt = found["model"], found["tilt"]
    text = [
        f"`reproduce/learned_reward.py`: a Bradley-Terry model of {about['pairs']} pairs of `tiny-small`'s responses is the "
        f"reward; {problems} held-out problems, whose right answers are known, judge. β = {found['beta']:.3g}, at which a chain "
        "accepts half of its moves. ± is half of a 95 % interval over problems.",
        "",
        "![accuracy over tokens; best-of-n and its limit; the tilt predicted from a pilot](learned_reward.png)",
        "",
        "| method | least tokens | right | most tokens | right | with more tokens |",
        "|---|---|---|---|---|---|",
    ]
    for name, points in found["rows"].items():
        cells = []
        for tokens, right in (points[0], points[-1]):
            cells += [f"{tokens:,.0f}", f"{np.mean(right):.1%} ± {1.96 * np.std(right) / math.sqrt(problems):.1%}"]
        text.append(f"| {name} | {' | '.join(cells)} | {verdict(points)} |")
    far = max(abs(a - b) for a, b in zip(tilt["fit"], tilt["pool"], strict=True))
    limit = found["limit"]
    off = max(abs(a - b) for a, b in zip(limit["measured"], limit["predicted"], strict=True))
    text += [
        "",
        f"On the {found['varied']} problems whose responses have five rewards or more, the limit of Gumbel by a fit of two "
        f"Gaussians is within {off:.2f} of the mean of best-of-{limit['n'][0]} to {limit['n'][-1]}, in units of the reward; "
        f"E_π[r] by the fit to 64 draws (`calibrate.tilted`) within {far:.2f} of 512 weighted draws.",
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
    left.legend(fontsize=7)
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
