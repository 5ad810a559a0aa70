"""Effective draws of samplers on random tables: by the variance of Ẑ, by their own weights, and as the doctor predicts them.

    python reproduce/doctor.py               # about 5 minutes on 2 cores; prints a table

Each target is a table with unequal lengths (`exptilt/testing/toys.py`), examined by 20 pilots of 200 draws. Real draws are
(1 - share)·Z²/Var(Ẑ) over 2,000 runs, Z and the ESS share by enumeration; for chains, the variance of single responses'
frequencies over 300 runs. The doctor predicts independent draws only. The last column is the mean ESS of the populations by
their own weights.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import exptilt as xt  # noqa: E402
from exptilt.doctor.tilt import measure  # noqa: E402
from exptilt.testing.toys import Toy, autoregressive  # noqa: E402
from tests.doctor import tables  # noqa: E402

TARGETS = ((4, 6, 1.0), (7, 6, 0.7), (5, 5, 0.6), (3, 4, 1.0))  # seed, cap, β
SAMPLERS = (
    xt.Independent(8), xt.ETS(8, 4, 2), xt.ETS(16, 1, 2), xt.ETS(8, 2, 1), xt.ETS(16, 4, 1), xt.SuffixMCMC(80, burn_in=10)
)  # fmt: skip


def results(toy: Toy, sampler: xt.Independent | xt.ETS | xt.SuffixMCMC, count: int) -> list[xt.Result]:
    outcomes = xt.run(toy.target, [f"run {number}" for number in range(count)], sampler, seed=1, concurrency=1)
    return [outcome for outcome in outcomes if isinstance(outcome, xt.Result)]


def by_variance(toy: Toy, runs: list[xt.Result]) -> float:
    """Effective draws of weighted populations, from the variance of Ẑ."""
    estimates = np.array([math.exp(-math.inf if run.log_z is None else run.log_z) for run in runs]) / toy.z
    return (1 - tables.ess_share(toy)) / float(np.mean((estimates - 1) ** 2))


def by_frequencies(toy: Toy, runs: list[xt.Result]) -> float:
    """Effective draws of chains: Σ π(1-π) over all responses, divided by the summed squared errors of their frequencies."""
    names = list(toy.pi)
    truth = np.array([toy.pi[name] for name in names])
    place = {name: number for number, name in enumerate(names)}
    found = np.zeros((len(runs), len(names)))
    for row, run in enumerate(runs):
        for draft in run.population.drafts:
            found[row, place[draft.tokens]] += 1 / len(run.population)
    return float(np.sum(truth * (1 - truth)) / np.sum(np.mean((found - truth) ** 2, axis=0)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000, help="of each weighted sampler; chains get a seventh")
    runs = parser.parse_args().runs
    print("| target | ESS share | sampler | predicted | real | tokens | ESS of the weights |")
    print("|---|---:|---|---:|---:|---:|---:|")
    for seed, cap, beta in TARGETS:
        toy = autoregressive(seed, symbols=3, cap=cap, beta=beta)
        share = measure(tables.soundings(toy, 20, 200), beta).share
        for sampler in SAMPLERS:
            is_chain = isinstance(sampler, xt.SuffixMCMC)
            drawn = results(toy, sampler, runs // 7 if is_chain else runs)
            real = by_frequencies(toy, drawn) if is_chain else by_variance(toy, drawn)
            tokens = np.mean([run.usage.tokens for run in drawn])
            own = "" if is_chain else f"{np.mean([run.population.ess for run in drawn]):.1f}"
            name = f"{type(sampler).__name__} {getattr(sampler, 'candidates', '')} {getattr(sampler, 'rollouts', '')}".strip()
            name += f", block {sampler.block}" if isinstance(sampler, xt.ETS) else ""
            predicted = f"{sampler.n * share:.1f}" if isinstance(sampler, xt.Independent) else ""
            cells = f"{predicted} | {real:.1f} | {tokens:.0f} | {own}"
            print(f"| {seed}, {cap}, β {beta:g} | {tables.ess_share(toy):.2f} | {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
