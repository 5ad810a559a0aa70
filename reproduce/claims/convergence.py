"""ETS on targets that can be enumerated: how energies, the chain's distribution and votes converge, and whether a run can tell.

    python reproduce/claims/convergence.py      # some ten minutes on one core; what is done is kept under runs/claims

The published chain is followed as it is: without its weight, and with a floor of 1e-9 under scores. Its distribution is that of
the responses that it ends in over many runs with different keys. As many exact draws have a distance from π too, the noise floor;
slopes are of distances from which it is taken out in quadrature.
"""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import exptilt as xt  # noqa: E402
from exptilt.engines.table import written  # noqa: E402
from exptilt.samplers.trace import Tree  # noqa: E402
from exptilt.testing import Toy, autoregressive  # noqa: E402
from reproduce.claims.cells import Cell, Cells, rank_correlation  # noqa: E402
from reproduce.claims.finding import Finding, judged, keep  # noqa: E402
from reproduce.exactness import noise_floor  # noqa: E402
from reproduce.pool import Pool  # noqa: E402

CELLS = Cells("convergence")
CAP, RUNS = 4, 3000
FIGURE = "claims_convergence.png"
POOL = ROOT / "reproduce" / "results" / "fewer_tokens.npz"


USUAL = {"M": 8, "K": 4, "block": 2}
SIZES = {"M": [2, 4, 8, 16, 32], "K": [1, 2, 4, 8, 16], "block": [4, 2, 1]}


def toy(seed: int = 101, beta: float = 0.5) -> Toy:
    return autoregressive(seed, symbols=3, cap=CAP, beta=beta, concentration=2.0)


def chains(target: Toy, m: int, k: int, block: int, runs: int) -> Cell:
    """The published chain, run again and again: how often it ends in each response, and what its traces say.

    energies: of the first step's candidates by their text. narrow: one over the least effective number of candidates of a step.
    spread: Σ over steps of (standard deviation of the candidates' scores over their mean) / √M. halves: Σ over steps of half the
    distance between the picks by either half of the rollouts.
    """
    ends: defaultdict[str, int] = defaultdict(int)
    energies: defaultdict[str, list[float]] = defaultdict(list)
    narrow, spread, halves = [], [], []
    for number in range(runs):
        *_, population = xt.ETS(m, k, block, floor=1e-9)(target.target, "x", xt.Key(number))
        tree = population.trace
        assert isinstance(tree, Tree)
        last = tree.steps[-1]
        ends[last.candidates[last.pick]] += 1
        for text, log_e in zip(tree.steps[0].candidates, tree.steps[0].log_energies, strict=True):
            energies[text].append(math.exp(log_e))
        narrow.append(1 / (tree.effective or 1.0))
        spread.append(sum(relative_spread(np.exp(step.log_energies)) for step in tree.steps) / math.sqrt(m))
        halves.append(sum(between_halves(step, population.rewards / target.target.beta) for step in tree.steps))
    told = {"narrow": narrow, "spread": spread, "halves": halves}
    return {"ends": ends, "energies": energies} | {name: float(np.mean(values)) for name, values in told.items()}


def over(what: str) -> dict[int, Cell]:
    """The chain at every size of M, K or the block, where the others are as usual."""

    def made(size: int) -> Cell:
        sizes = USUAL | {what: size}
        return chains(toy(), sizes["M"], sizes["K"], sizes["block"], RUNS)

    return {size: CELLS(f"{what} = {size}", lambda size=size: made(size)) for size in SIZES[what]}


def relative_spread(scores: np.ndarray) -> float:
    return float(scores.std(ddof=1) / scores.mean()) if len(scores) > 1 else 0.0


def between_halves(step: Any, log_w: np.ndarray) -> float:
    """Half the distance between the picks by the first and by the second half of each candidate's rollouts."""
    owner = np.repeat(np.arange(len(step.candidates)), step.rollouts)
    rows = np.arange(step.first, step.first + len(owner))
    place = rows - rows[0] - np.concatenate([[0], np.cumsum(step.rollouts)[:-1]])[owner]
    alone = np.array(step.rollouts)[owner] == 1  # a finished candidate has no halves: its energy counts for both
    picks = []
    for half in (0, 1):
        mine = alone | (place % 2 == half)
        w = np.exp(log_w[rows] - log_w[rows].max())
        sums = np.bincount(owner[mine], w[mine], len(step.candidates))
        means = sums / np.maximum(np.bincount(owner[mine], minlength=len(step.candidates)), 1)
        picks.append(means / means.sum())
    return 0.25 * float(np.abs(picks[0] - picks[1]).sum())


def distance(target: Toy, cell: Cell) -> tuple[float, float]:
    """Total variation to π, less that of as many exact draws in quadrature; and that noise floor."""
    runs, floor = sum(cell["ends"].values()), noise_floor(target, sum(cell["ends"].values()))
    truth = texts(target, target.pi)
    found = 0.5 * sum(abs(cell["ends"].get(text, 0) / runs - mass) for text, mass in truth.items())
    return math.sqrt(max(found**2 - floor**2, 0.0)), floor


def texts(target: Toy, law: Any) -> dict[str, float]:
    """Probabilities of responses by their texts; the last symbol ends a response and is not written."""
    end = 2
    return {written(tokens[:-1] if tokens[-1] == end else tokens, None): mass for tokens, mass in law.items()}


def slope(sizes: list[int], values: list[float]) -> float:
    """The exponent of a power of the size that fits best."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


# ------------------------------------------------------------------------------------------------------------ claims


def of_energies() -> Finding:
    target, ks, cells = toy(), SIZES["K"], over("K")
    most = max(math.exp(np.log(mass) - log_p) for log_p, mass in zip(*_joined(target), strict=True))
    common = max(
        cells[1]["energies"], key=lambda text: np.std(cells[1]["energies"][text]) * len(cells[1]["energies"][text]) ** 0.5
    )
    values = {k: np.array(cells[k]["energies"][common]) for k in ks}
    fall, width = slope(ks, [float(each.var()) for each in values.values()]), float(values[1].std())
    rows = []
    for k, each in values.items():
        beyond = float(np.mean(np.abs(each - values[16].mean()) > width))
        rows.append((k, beyond, min(1.0, 2 * math.exp(-2 * k * (width / most) ** 2))))
    kept = all(beyond <= bound for _, beyond, bound in rows)
    told = "; ".join(f"K = {k}: {beyond:.3f} of at most {bound:.2f}" for k, beyond, bound in rows)
    return Finding(
        "Energies converge with the number of rollouts", "ETS, Proposition 3 (Hoeffding)",
        f"three symbols, up to {CAP} tokens, β = 0.5; one candidate's energies over {RUNS:,} runs",
        "variance ∝ 1/K; errors beyond one standard deviation of K = 1 seldomer than Hoeffding's bound",
        f"variance ∝ K^{fall:.2f}; {told}", figure=FIGURE,
        **judged(kept and abs(fall + 1) < 0.1, "the energies are not means of independent rollouts", part=False),
    )  # fmt: skip


def _joined(target: Toy) -> tuple[list[float], list[float]]:
    laws = target.target.engine.enumerate()  # type: ignore[attr-defined]
    return [laws[tokens] for tokens in target.gamma], [*target.gamma.values()]


def of_sizes() -> list[Finding]:
    target = toy()
    by_m, by_k, by_block = ({size: distance(target, cell) for size, cell in over(what).items()} for what in SIZES)
    by_i = {-(-CAP // block): found for block, found in by_block.items()}
    floor = by_m[2][1]
    clear = [m for m in by_m if by_m[m][0] > floor]
    fall = slope(clear, [by_m[m][0] for m in clear])
    setting = f"three symbols, up to {CAP} tokens, β = 0.5, the chain without weights, {RUNS:,} runs a cell"

    def told(cells: dict[int, tuple[float, float]], name: str) -> str:
        return ", ".join(f"{each[0]:.3f} at {name} = {size}" for size, each in cells.items())

    ratio = by_k[1][0] / max(by_k[16][0], floor)
    grows = [each[0] for each in by_i.values()]
    return [
        Finding(
            "The distance to π is Õ(I/√M + Iε): in M", "ETS, Proposition 3", f"{setting}, K = 4, I = 2",
            "falls as M^-0.5 or faster", f"∝ M^{fall:.2f}: {told(by_m, 'M')} (noise floor {floor:.3f})",
            figure=FIGURE, **judged(fall <= -0.5, "slower than M^-0.5 at these sizes, though below the bound"),
        ),
        Finding(
            "The distance to π is Õ(I/√M + I/√K): in K", "ETS, Theorem 1", f"{setting}, M = 8, I = 2",
            "falls with K until the term in M is left", f"{told(by_k, 'K')}: a factor of {ratio:.1f}",
            figure=FIGURE, **judged(ratio > 1.1, "at M = 8 nearly all of the distance is that of few candidates"),
        ),
        Finding(
            "Errors add up over steps", "ETS, Proposition 3", f"{setting}, M = 8, K = 4",
            "grows with I, at most linearly", told(by_i, "I"), figure=FIGURE,
            **judged(grows[0] <= grows[1] <= grows[2] <= 4 * grows[0], "as a bound it holds; the distance itself does not grow"),
        ),
    ]  # fmt: skip


def of_votes() -> Finding:
    """Σ_j (1 - (√p₁ - √p_j)²)^N bounds the chance that another answer gets as many votes as the mode (Chernoff)."""
    pool = Pool.load(POOL)
    rng, numbers, errors, bounds = np.random.default_rng(0), (1, 2, 4, 8, 16, 32), [], []
    for problem in range(pool.problems):
        names = pool.answers[pool.first[problem] : pool.first[problem + 1]][pool.rows[problem]]
        _, counts = np.unique(names, return_counts=True)
        shares = np.sort(counts / counts.sum())[::-1]
        if len(shares) > 1 and shares[0] == shares[1]:
            continue  # no mode to find
        votes = {n: rng.multinomial(n, shares, size=200) for n in numbers}
        errors.append([float(np.mean(v[:, 0] <= v[:, 1:].max(1, initial=-1))) for v in votes.values()])
        gaps = (np.sqrt(shares[0]) - np.sqrt(shares[1:])) ** 2
        bounds.append([min(1.0, float(np.sum((1 - gaps) ** n))) for n in numbers])
    error, bound = np.array(errors), np.array(bounds)
    deviation = np.sqrt(np.maximum(bound * (1 - bound), 1 / 200) / 200)  # that of one hit at the least
    kept = bool(np.all(error <= bound + 5 * deviation))
    told = ", ".join(f"{e:.3f} of {b:.2f} at N = {n}" for n, e, b in zip(numbers, error.mean(0), bound.mean(0), strict=True))
    return Finding(
        "A vote of N draws errs exponentially seldom", "ETS, Theorem 2",
        f"answers of tiny to {len(error)} word problems with one mode, their frequencies taken for the truth",
        "below Σ_j (1 - (√p₁ - √p_j)²)^N for every problem and N", f"mean error and bound: {told}",
        **judged(kept, "the bound is not one", part=False),
    )  # fmt: skip


def of_estimates() -> Finding:
    """Open question 1, over targets, temperatures and sizes: does a figure of the run's own predict its chain's distance to π?"""
    rows = []
    for seed in (101, 103, 105, 107):
        for beta in (0.3, 1.0):
            for m, k, block in ((4, 2, 2), (4, 8, 1), (16, 2, 2), (32, 4, 1)):
                target = toy(seed, beta)
                name = f"seed {seed}, beta {beta}, {m}, {k}, {block}"
                cell = CELLS(name, lambda t=target, m=m, k=k, block=block: chains(t, m, k, block, 800))
                rows.append((distance(target, cell)[0], cell["narrow"], cell["spread"], cell["halves"]))
    measured, narrow, spread, halves = np.array(rows).T
    r = [rank_correlation(measured, each) for each in (narrow, spread, halves)]
    alone = np.mean([rank_correlation(measured[at : at + 4], narrow[at : at + 4]) for at in range(0, len(rows), 4)])
    factor = np.exp(np.std(np.log(np.maximum(measured, 0.01) / narrow)))
    return Finding(
        "Open question 1: an error estimate that depends on the state", "ETS, open question 1 (Remark 2)",
        f"{len(rows)} settings: four targets, β = 0.3 and 1, four sizes; 800 runs each",
        "a figure of the run's own energies ranks settings as their distances do",
        f"rank correlation with the distance: {r[0]:.2f} for one over the least effective number of candidates of a step "
        f"({alone:.2f} over the sizes on one target), {r[1]:.2f} for Σ CV/√M of the energies, {r[2]:.2f} for the halves of their "
        f"rollouts; the first is right to a factor of {factor:.1f} up to a constant, and `Tree.effective` tells it",
        figure=FIGURE, **judged(r[0] > 0.8, "candidates are one part of the error, rollouts another", r[0] > 0.5),
    )  # fmt: skip


def main() -> None:
    keep("convergence", [of_energies(), *of_sizes(), of_votes(), of_estimates()])
    figure()


def figure() -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    target, shown = toy(), {"candidates M": "M", "rollouts K": "K", "steps I": "block"}
    _, panels = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained", sharey=True)
    for panel, (name, what) in zip(panels, shown.items(), strict=True):
        cells = over(what)
        found = [distance(target, cell) for cell in cells.values()]
        x = [-(-CAP // size) for size in cells] if what == "block" else [*cells]
        panel.plot(x, [each[0] for each in found], "o-", label="distance to π")
        panel.plot(
            x, [cell["narrow"] for cell in cells.values()], "s--", color="tab:orange", label="one over the least ESS of a step"
        )
        panel.axhline(found[0][1], ls=":", color="0.5", label="as many exact draws")
        panel.set(xscale="log", yscale="log", xlabel=name)
        panel.set_xticks(x, [str(each) for each in x], minor=False)
        panel.minorticks_off()
    panels[0].set_ylabel("total variation")
    panels[0].legend(fontsize=8)
    plt.savefig(ROOT / "docs" / FIGURE, dpi=130)


if __name__ == "__main__":
    main()
