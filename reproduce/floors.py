"""How large should the floor under the scores of unfinished drafts be? The variance of Ẑ, with and without it.

    python reproduce/floors.py            # about 8 minutes on 1 core; writes a section of docs/exactness.md, and floors.png

ETS and SMC choose with P(j) = (1 - δ)·s_j/Σs + δ/M (`exptilt.samplers.picks`). Any δ in (0, 1) keeps E[Ẑ] = Z. Small targets
(two symbols, up to 4 tokens) are enumerated: the mean squared relative error E[(Ẑ/Z - 1)²] is exact, a geometric mean over
three random targets. Larger ones (four symbols, up to 6 tokens, M = 8, N = 16) are simulated, and so is a law of
12 tokens under a value that is exact, where a floor can only cost. δ = 0 is the rule as it was
published: P = s/Σs, and a candidate of score 0 is never picked. Its error is around another value than Z where the reward
excludes responses, so E[Ẑ]/Z stands beside it.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from exptilt.core import Target  # noqa: E402
from exptilt.draft import Draft  # noqa: E402
from exptilt.engines.table import TableEngine  # noqa: E402
from exptilt.keys import Floats, Key  # noqa: E402
from exptilt.populations.diagnostics import log_shares  # noqa: E402
from exptilt.samplers import ETS, SMC, ets, smc  # noqa: E402
from exptilt.samplers.picks import FLOOR  # noqa: E402
from exptilt.testing.enumeration import final, paths  # noqa: E402
from exptilt.testing.toys import Tokens, autoregressive, reward_of  # noqa: E402
from reproduce.pages import put_section  # noqa: E402

RESULTS = ROOT / "reproduce" / "results" / "floors.json"
GRID = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
SEEDS = (50, 51, 52)
RUNS = 800
Reward = Callable[[Tokens], float]

SMALL: dict[str, ETS | SMC] = {
    "ETS(2, 1, 2)": ETS(2, 1, 2),
    'ETS(2, 1, 2, returns="chain")': ETS(2, 1, 2, returns="chain"),
    "SMC(3, 2)": SMC(3, 2),
}
LARGE: dict[str, ETS | SMC] = {
    "ETS(8, 1, 2)": ETS(8, 1, 2),
    'ETS(8, 2, 2, returns="chain")': ETS(8, 2, 2, returns="chain"),
    "SMC(16, 2)": SMC(16, 2),
}
LONG = 12  # steps of one token


def clean(prompt: str, drafts: list[Draft]) -> list[float]:
    """-inf for every draft that holds another token than 0, finished or not: as a value it is right from the first one on."""
    return [0.0 if set(draft.tokens) <= {0} else -math.inf for draft in drafts]


GUIDED: dict[str, ETS | SMC] = {
    'ETS(4, 1, 1, value=v, returns="chain")': ETS(4, 1, 1, value=clean, returns="chain"),
    "SMC(8, 1, value=v)": SMC(8, 1, value=clean),
    "SMC(8, 1)": SMC(8, 1),
}


def rewards(seed: int, size: int) -> dict[str, tuple[Reward, float]]:
    """Rewards with their β. size: the cap; the verifier and the constraint at the end are met by few responses."""

    def allowed(rule: Callable[[Tokens], bool]) -> Reward:
        return lambda tokens: 0.0 if rule(tokens) else -math.inf

    return {
        "smooth, β = 1": (lambda tokens: reward_of(seed, tokens), 1.0),
        "smooth, β = 0.4": (lambda tokens: reward_of(seed, tokens), 0.4),
        "0/1 verifier, β = 0.2": (lambda tokens: float(tokens.count(0) == size), 0.2),
        "constraint: last token": (allowed(lambda tokens: tokens[-1] == 0), 1.0),
        "constraint: parity": (allowed(lambda tokens: (sum(tokens) + len(tokens)) % 2 == 1), 1.0),
    }


def published(log_s: Floats, unfinished: np.ndarray, floor: float) -> Floats | None:
    """P = s/Σs without a floor."""
    return log_shares(log_s) if log_s.max() > -math.inf else None


@contextmanager
def rule(floor: float) -> Iterator[None]:
    with ExitStack() as stack:
        if floor == 0:
            for module in (ets, smc):
                stack.enter_context(patch.object(module, "log_picks", published))
        yield


def make(seed: int, symbols: int, cap: int, reward: Reward, beta: float) -> tuple[Target, float]:
    """A target and its Z."""
    engine = autoregressive(seed, symbols=symbols, cap=cap, concentration=1.0 if symbols == 2 else 2.0).target.engine
    assert isinstance(engine, TableEngine)
    laws = engine.enumerate()
    known = {tokens: reward(tokens) for tokens in laws}

    def rate(prompt: str, drafts: list[Draft]) -> list[float]:
        return [known[draft.tokens] for draft in drafts]

    return Target(engine, rate, beta), sum(math.exp(log_p + known[tokens] / beta) for tokens, log_p in laws.items())


def enumerated(name: str, kind: str, floor: float) -> tuple[float, float]:
    """Mean squared relative error of Ẑ and E[Ẑ]/Z, exact; geometric means over the targets."""
    found = []
    for seed in SEEDS:
        target, z = make(seed, 2, 4, *rewards(seed, 4)[kind])
        sampler = replace(SMALL[name], floor=floor or FLOOR)
        error = mean = 0.0
        for probability, population in paths(lambda key, s=sampler, t=target: final(s, t, key)):
            ratio = 0.0 if population is None else math.exp(population.log_z or 0.0) / z
            error, mean = error + probability * (ratio - 1) ** 2, mean + probability * ratio
        found.append((error, mean))
    error, mean = np.exp(np.log(found).mean(axis=0)).tolist()
    return error, mean


def simulated(name: str, kind: str, floor: float) -> tuple[float, float]:
    """The same of one larger target, from `RUNS` runs."""
    target, z = make(45, 4, 6, *rewards(45, 3)[kind])
    sampler = replace(LARGE[name], floor=floor or FLOOR)
    runs = [final(sampler, target, Key(run, "floors")) for run in range(RUNS)]
    ratios = np.array([0.0 if run is None else math.exp(run.log_z or 0.0) / z for run in runs])
    return float(np.mean((ratios - 1) ** 2)), float(np.mean(ratios))


def long_run(name: str, kind: str, floor: float) -> tuple[float, float]:
    """The same of a law of `LONG` tokens, each of which is right with probability 0.7."""
    target = Target(TableEngine(lambda prefix: [0.7, 0.29, 0.01], LONG, 2), clean, 1.0)
    runs = [final(replace(GUIDED[name], floor=floor or FLOOR), target, Key(run, "floors")) for run in range(RUNS)]
    ratios = np.array([0.0 if run is None else math.exp(run.log_z or 0.0) / 0.7**LONG for run in runs])
    return float(np.mean((ratios - 1) ** 2)), float(np.mean(ratios))


def measure_all(only: str) -> dict[str, Any]:
    started, rows = time.monotonic(), []
    plans: list[tuple[str, dict[str, ETS | SMC], Callable[[str, str, float], tuple[float, float]], list[str]]] = [
        ("enumerated", SMALL, enumerated, [*rewards(0, 4)]),
        ("simulated", LARGE, simulated, [*rewards(0, 4)]),
        ("12 steps", GUIDED, long_run, ["constraint: every token"]),
    ]
    for how, samplers, measure, kinds in plans:
        if not how.startswith(only):
            continue
        for name in samplers:
            for kind in kinds:
                errors, means = [], []
                for floor in GRID:
                    with rule(floor):
                        error, mean = measure(name, kind, floor)
                    errors.append(error)
                    means.append(mean)
                rows.append({"how": how, "sampler": name, "reward": kind, "errors": errors, "means": means})
                print(f"{how:11} {name:30} {kind:24}", *(f"{error:8.3g}" for error in errors), f"{means[0]:.4f}", flush=True)
    return {"grid": GRID, "runs": RUNS, "seconds": time.monotonic() - started, "rows": rows}


def markdown(found: dict[str, Any]) -> str:
    lines = [
        f"Written by `reproduce/floors.py` ({platform.machine()}, 1 process, {found['seconds']:.0f} s).",
        f"A candidate or particle whose rollouts were all excluded keeps a share of the choice, `floor` δ, by default {FLOOR}.",
        "The columns are E[(Ẑ/Z - 1)²], the relative variance of Ẑ, at each δ. At δ = 0, the rule as published, runs lose",
        "mass: E[Ẑ]/Z is in brackets. Small targets (two symbols, up to 4 tokens) are enumerated, and the figure is the",
        f"geometric mean of three. Large ones (four symbols, up to 6 tokens) are {found['runs']} runs with keys 0 to "
        f"{found['runs'] - 1}.",
        "",
        "In the last rows each of 12 tokens must be right, and v is a value that recognises a wrong one at once. Simulated",
        "rows jump depending on whether one rare weight was drawn: at a small δ, the variance of that many runs only says that",
        "it is large.",
        "",
        "With one rollout a score is mostly noise, and a floor helps on smooth rewards too. There, and under constraints that",
        "rollouts seldom meet, half the picks could be random. Where scores are exact over many steps, a floor costs up to a",
        f"factor of 1/(1-δ) at each step. The default {FLOOR} keeps most of the gain in the first case and most of the guidance",
        "in the second. Use a smaller floor with a value model or rollouts that you trust.",
        "",
        "![Relative variance against the floor](floors.png)",
        "",
        "| targets | sampler | reward | " + " | ".join(f"δ = {floor:g}" for floor in found["grid"]) + " |",
        "|---|---|---|" + "---:|" * len(found["grid"]),
    ]
    for row in found["rows"]:
        cells = [f"{error:.3g}" for error in row["errors"]]
        cells[0] += f" ({row['means'][0]:.3f})"
        lines.append(f"| {row['how']} | `{row['sampler']}` | {row['reward']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw_figure(found: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), sharey=True, layout="constrained")
    for axis, how in zip(axes, ("enumerated", "simulated", "12 steps"), strict=True):
        for row in (row for row in found["rows"] if row["how"] == how):
            errors = np.array(row["errors"][1:])
            hard = "constraint" in row["reward"]
            axis.plot(found["grid"][1:], errors / errors.min(), color="#ff725c" if hard else "#4269d0", lw=1.1, alpha=0.7)
        axis.axvline(FLOOR, color="0.5", ls=":", lw=1)
        axis.set(xscale="log", yscale="log", xlabel="floor δ", title=how)
        axis.set_xticks(found["grid"][1:], [f"{floor:g}" for floor in found["grid"][1:]])
        axis.minorticks_off()
        axis.grid(alpha=0.25, lw=0.4)
    axes[0].set_ylabel("variance of Ẑ, relative to the best δ")
    axes[0].plot([], [], color="#4269d0", label="smooth rewards and a verifier")
    axes[0].plot([], [], color="#ff725c", label="hard constraints")
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=140)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--redraw", action="store_true", help="write figure and table from the results of the last run")
    parser.add_argument("--only", default="", help="enumerated, simulated or 12: measure these anew and keep the others")
    options = parser.parse_args()
    if not options.redraw:
        fresh = measure_all(options.only)
        if options.only:
            kept = json.loads(RESULTS.read_text())
            fresh["rows"] = [row for row in kept["rows"] if not row["how"].startswith(options.only)] + fresh["rows"]
            fresh["seconds"] += kept["seconds"]
        RESULTS.write_text(json.dumps(fresh, indent=1) + "\n")
    found = json.loads(RESULTS.read_text())
    draw_figure(found, ROOT / "docs" / "floors.png")
    put_section(ROOT / "docs" / "exactness.md", "The floor under scores", markdown(found))
    print("wrote docs/floors.png and a section of docs/exactness.md")


if __name__ == "__main__":
    main()
