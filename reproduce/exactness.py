"""How far from π is each sampler, for the tokens it spends? Measured on laws that can be enumerated.

    python reproduce/exactness.py            # about 10 minutes on 2 cores; writes docs/exactness.png and a section of .md

Two random targets: an autoregressive one (3 symbols, up to 5 tokens) and a masked-diffusion one (3 symbols, 4
positions, random order). For each sampler and size, many independent runs give two laws: *raw*, the law of the one
draft that a single run hands out, and *weighted*, the law of all runs pooled by their weights. The table holds the
total variation distance of each to the exact π with a jackknife standard error, and the bound of the ETS paper
(Prop. 3) for the same M and number of steps, at its most favourable ε and with oracle energies.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from exptilt.core import Sampler, Target  # noqa: E402
from exptilt.errors import AllWeightsZero  # noqa: E402
from exptilt.keys import Key  # noqa: E402
from exptilt.samplers import ETS, SMC, Independent, Metropolised, SuffixMCMC  # noqa: E402
from exptilt.testing.enumeration import Law, total_variation  # noqa: E402
from exptilt.testing.toys import Toy, autoregressive, masked, reward_of  # noqa: E402
from exptilt.usage import Work  # noqa: E402
from reproduce.pages import put_section  # noqa: E402

RESULTS = ROOT / "reproduce" / "results" / "exactness.json"
BETA = 0.5
GROUPS = 5
BLOCK = 2
SIZES = (1, 2, 4, 8, 16, 32)
TARGETS = {
    "autoregressive": lambda: autoregressive(101, symbols=3, cap=5, beta=BETA, concentration=2.0),
    "masked": lambda: masked(102, symbols=3, length=4, beta=BETA),
}


@dataclass(frozen=True)
class Row:
    """One sampler at one size on one target: tokens per run, and total variation raw and weighted."""

    target: str
    method: str
    size: int
    tokens: float
    raw: float
    raw_error: float
    weighted: float | None
    weighted_error: float | None
    bound: float | None


def samplers() -> dict[str, dict[int, Sampler]]:
    """Every sampler at growing sizes; the size is n, M, N or the number of steps."""
    return {
        "Independent": {n: Independent(n) for n in SIZES},
        "ETS chain": {m: ETS(m, 1, BLOCK, returns="chain") for m in SIZES[1:]},
        "ETS rollouts": {m: ETS(m, 1, BLOCK) for m in SIZES[1:]},
        "SMC": {n: SMC(n, BLOCK, 1) for n in SIZES[1:]},
        "SuffixMCMC": {steps: SuffixMCMC(steps) for steps in (1, 2, 4, 8, 16, 32, 64)},
        "Metropolised ETS": {steps: Metropolised(ETS(3, 1, BLOCK), steps) for steps in (1, 2, 4, 8)},
    }


def run_laws(toy: Toy, sampler: Sampler, runs: range) -> tuple[Law, Law | None, float]:
    """Raw and weighted law of many runs, and tokens per run. A chain hands out its last state."""
    work = Work()
    target = Target(toy.target.engine.metered(work), toy.target.reward, toy.target.beta)
    raw: Law = {}
    weighted: Law = {}
    for number in runs:
        try:
            *_, population = sampler(target, "x", Key(number))
        except AllWeightsZero:
            continue
        if not population.proper:
            tokens = population.drafts[-1].tokens
            raw[tokens] = raw.get(tokens, 0.0) + 1.0
            continue
        for draft, share, weight in zip(population.drafts, population.weights, np.exp(population.log_w), strict=True):
            raw[draft.tokens] = raw.get(draft.tokens, 0.0) + float(share)
            weighted[draft.tokens] = weighted.get(draft.tokens, 0.0) + float(weight)
    return raw, weighted or None, work.generated / len(runs)


def paper_bound(toy: Toy, candidates: int, steps: int) -> float:
    """TV ≤ I(2ε+h)/(C-ε-h) + Iε, h = ½(e^{D/β}-e^{-D/β})·sqrt((2/M)·log(2/ε)), with D = max|r|, C = Z, the best ε."""
    spread = max(abs(reward_of(101 if "end" in toy.target.engine.alphabet else 102, tokens)) for tokens in toy.pi) / BETA
    best = math.inf
    for epsilon in np.geomspace(1e-9, 1.0, 400):
        h = math.sinh(spread) * math.sqrt(2 / candidates * math.log(2 / epsilon))
        if toy.z - epsilon - h > 0:
            best = min(best, steps * (2 * epsilon + h) / (toy.z - epsilon - h) + steps * epsilon)
    return best


def distance_and_error(laws: list[Law], toy: Toy) -> tuple[float, float]:
    """Total variation of the pooled law to π, and its jackknife standard error over the groups."""
    whole = total_variation(_pool(laws), toy.pi)
    without = [total_variation(_pool(laws[:i] + laws[i + 1 :]), toy.pi) for i in range(len(laws))]
    return whole, float(math.sqrt((len(laws) - 1) * np.var(without)))


def _pool(laws: list[Law]) -> Law:
    pooled: Law = {}
    for law in laws:
        for tokens, mass in law.items():
            pooled[tokens] = pooled.get(tokens, 0.0) + mass
    return pooled


def measure(job: tuple[str, str, int, int]) -> Row:
    """One row of the table."""
    name, method, size, runs = job
    toy, sampler = TARGETS[name](), samplers()[method][size]
    groups = [run_laws(toy, sampler, range(group * runs, (group + 1) * runs)) for group in range(GROUPS)]
    raw = distance_and_error([law for law, _, _ in groups], toy)
    laws = [law for _, law, _ in groups if law is not None]
    weighted = distance_and_error(laws, toy) if laws else (None, None)
    bound = paper_bound(toy, size, math.ceil(toy.target.engine.max_tokens / BLOCK)) if method == "ETS chain" else None
    tokens = float(np.mean([tokens for _, _, tokens in groups]))
    return Row(name, method, size, tokens, *raw, *weighted, bound)


def noise_floor(toy: Toy, runs: int) -> float:
    """Mean total variation of as many exact draws as there are runs."""
    law = np.array(list(toy.pi.values()))
    draws = np.random.default_rng(0).multinomial(runs, law / law.sum(), size=200) / runs
    return float((0.5 * np.abs(draws - law).sum(axis=1)).mean())


def draw_figure(rows: list[Row], floors: dict[str, float], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11.5, 4.8), sharey=True, layout="constrained")
    colours = dict(zip(samplers(), ("#4269d0", "#ff725c", "#3ca951", "#a463f2", "#9c6b4e", "#38b2ac"), strict=True))
    for axis, name in zip(axes, TARGETS, strict=True):
        for method, colour in colours.items():
            found = [row for row in rows if (row.target, row.method) == (name, method)]
            tokens = [row.tokens for row in found]
            axis.errorbar(
                tokens, [row.raw for row in found], [row.raw_error for row in found], fmt="--o", ms=4, color=colour, lw=1.2
            )
            if found[0].weighted is not None:
                axis.plot(tokens, [row.weighted for row in found], "-s", color=colour, ms=4, lw=1.8)
            axis.plot([], [], color=colour, lw=3, label=method)
        axis.axhline(floors[name], color="0.5", lw=1, ls=":")
        place = axis.get_yaxis_transform()
        axis.text(0.02, floors[name] * 0.95, "as many exact draws", transform=place, va="top", fontsize=8, color="0.4")
        note = "published bound for ETS: above 1 at every size"
        axis.text(0.98, 0.97, note, transform=axis.transAxes, ha="right", va="top", fontsize=8, color="0.4")
        axis.set(xscale="log", yscale="log", xlabel="tokens generated per run", title=f"{name} target")
        axis.grid(alpha=0.25, which="both", lw=0.4)
    axes[0].set_ylabel("total variation distance to π")
    axes[0].plot([], [], "k--o", ms=4, label="raw: one draft of one run")
    axes[0].plot([], [], "k-s", ms=4, label="weighted: all runs pooled")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.savefig(path, dpi=150)


def markdown(rows: list[Row], floors: dict[str, float], runs: int, seconds: float) -> str:
    """The table with its provenance."""
    lines = [
        f"Written by `reproduce/exactness.py`: β = {BETA}, block {BLOCK}, K = 1, {GROUPS} groups of {runs} runs with keys 0 to",
        f"{GROUPS * runs - 1}; ± is one jackknife standard error; {platform.machine()}, 2 processes, {seconds:.0f} s.",
        "*raw* is the distribution of the draft that one run returns, *weighted* that of all runs pooled by their weights.",
        "As many exact draws as there are runs would have a distance of "
        + " and ".join(f"{floor:.3f} ({name})" for name, floor in floors.items())
        + ";",
        "no sampler with one draft per run can be expected to do better. A chain has no weights.",
        "The last column is the paper's bound at its most favourable ε with oracle energies; above 1 it says nothing.",
        "",
        "![Total variation to π against tokens](exactness.png)",
        "",
        "| target | sampler | size | tokens | raw TV | weighted TV | bound |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        weighted = "–" if row.weighted is None else f"{row.weighted:.3f} ± {row.weighted_error:.3f}"
        bound = "" if row.bound is None else ("∞" if math.isinf(row.bound) else f"{row.bound:.1f}")
        cells = (row.target, row.method, row.size, f"{row.tokens:.1f}", f"{row.raw:.3f} ± {row.raw_error:.3f}", weighted, bound)
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def measure_all(runs: int) -> dict[str, Any]:
    """Every row of the table, with the seconds it took."""
    started = time.monotonic()
    jobs = [(name, method, size, runs) for name in TARGETS for method, sizes in samplers().items() for size in sizes]
    rows = []
    with ProcessPoolExecutor(2) as pool:
        for row in pool.map(measure, jobs):
            rows.append(vars(row))
            print(f"{row.target:15} {row.method:17} {row.size:3}  raw {row.raw:.3f}  weighted {row.weighted}", flush=True)
    return {"runs": runs, "seconds": time.monotonic() - started, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000, help="runs in each of the five groups")
    parser.add_argument("--redraw", action="store_true", help="draw figure and table from the results of the last run")
    options = parser.parse_args()
    if not options.redraw:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(measure_all(options.runs), indent=1) + "\n")
    found = json.loads(RESULTS.read_text())
    rows, runs = [Row(**row) for row in found["rows"]], found["runs"]
    floors = {name: noise_floor(make(), GROUPS * runs) for name, make in TARGETS.items()}
    docs = ROOT / "docs"
    draw_figure(rows, floors, docs / "exactness.png")
    put_section(docs / "exactness.md", "Distance to π", markdown(rows, floors, runs, found["seconds"]))
    print("wrote docs/exactness.png and a section of docs/exactness.md")


if __name__ == "__main__":
    main()
