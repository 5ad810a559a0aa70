"""The page of `reproduce/frontier.py`: its table, with intervals over problems, and its figure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]
SHOWN = 8  # every eighth β of the curve of π has a line in the table


def excess(rows: Mapping[str, Row], name: str, chosen: np.ndarray) -> float:
    """How many nats more a method needs than π for its reward, in the mean over the chosen problems; NaN above all of π's."""
    curve = [row for title, row in rows.items() if title.startswith("π")]
    rewards, divergences = (np.array([np.mean(np.array(row[key])[chosen]) for row in curve]) for key in ("reward", "kl"))
    reward, kl = (np.mean(np.array(rows[name][key])[chosen]) for key in ("reward", "kl"))
    return float(kl - np.interp(reward, rewards, divergences, right=np.nan))


def interval(values: Callable[[np.ndarray], float], problems: int) -> tuple[float, float]:
    """A mean over the problems and half of its 95 % interval, by drawing the problems again."""
    rng, everything = np.random.default_rng(0), np.arange(problems)
    again = [values(rng.choice(everything, problems)) for _ in range(500)]
    return values(everything), 1.96 * float(np.nanstd(again))


def table(rows: Mapping[str, Row]) -> str:
    named = [name for name in rows if name.startswith("π")][::SHOWN]
    lines = ["| method | reward | right | KL(·‖p), nats | excess over π | training: drawn, read |", "|---|---|---|---|---|---|"]
    for name, row in rows.items():
        if name.startswith("π") and name not in named:
            continue
        problems = len(row["reward"])
        cells = []
        for key in ("reward", "right", "kl"):
            values = None if row[key] is None else np.array(row[key])
            told = None if values is None else interval(lambda chosen, values=values: float(values[chosen].mean()), problems)
            cells.append("not known" if told is None else f"{told[0]:.3f} ± {told[1]:.3f}")
        over = None if row["kl"] is None else interval(lambda chosen, name=name: excess(rows, name, chosen), problems)
        cells.append("" if over is None or name.startswith("π") else f"{over[0]:.3f} ± {over[1]:.3f}")
        cells.append(f"{row['drawn'] / 1e3:,.0f} k, {row['read'] / 1e3:,.0f} k tokens" if "drawn" in row else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def figure(rows: Mapping[str, Row], file: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    _, panels = plt.subplots(1, 2, figsize=(12.5, 4.4), layout="constrained")
    for panel, key in zip(panels, ("reward", "right"), strict=True):
        for kind, style in {"π": "-", "soft": "o--", "align": "s", "GRPO": "^", "DPO": "D"}.items():
            mine = {name: row for name, row in rows.items() if name.startswith(kind)}
            points = [(np.mean(row["kl"]), np.mean(row[key])) for row in mine.values()]
            if kind in ("π", "soft"):
                label = "π, all β" if kind == "π" else "soft best-of-2 to 32"
                panel.plot(*zip(*points, strict=True), style, label=label, color="black" if kind == "π" else "tab:gray", ms=4)
                continue
            for (x, y), name in zip(points, mine, strict=True):
                errors = [1.96 * np.std(mine[name][each]) / math.sqrt(len(mine[name]["reward"])) for each in ("kl", key)]
                panel.errorbar(x, y, xerr=errors[0], yerr=errors[1], fmt=style, label=name, ms=5, lw=1)
        for name, row in rows.items():
            if name.startswith("QAlign"):
                panel.axhline(np.mean(row[key]), ls=":", lw=1, label=f"{name} (KL not known)", color="tab:purple", alpha=0.5)
        panel.set_xlabel("KL(·‖p), nats")
        panel.set_ylabel({"reward": "mean reward", "right": "share of right answers"}[key])
    panels[1].legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    plt.savefig(file, dpi=130)


def section(rows: Mapping[str, Row], about: str, picture: str) -> str:
    return "\n".join([
        f"{about} ± is half of a 95 % interval over problems.",
        "",
        f"![reward and share of right answers against the divergence from p]({picture})",
        "",
        table(rows),
    ])  # fmt: skip
