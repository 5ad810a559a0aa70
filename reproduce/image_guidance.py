"""Guidance of diffusion models on a plane, where everything is known: which method reaches p(c|x)^w p(x|c), and which does not.

Two classes, each a mixture of two Gaussians, overlap. The network is the exact E[ε|x_t, c], so that nothing but the method is in
question: classifier-free guidance, soft best-of-n with the weights p(c|x)^w, the same by guided selection over denoising steps
(ETS) and by a particle filter (SMC). Distance is total variation on a grid of 0.8, against the density itself, summed cell by
cell.

    python reproduce/image_guidance.py            # writes reproduce/results/image_guidance.json and docs/images.png

A chain of N steps is itself at some distance from the density: 256 steps for the large comparison, 32 for the samplers, whose
target is then p(c|x)^w p(x|c) with the p of 32 steps.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import exptilt as xt
from exptilt.core import Target
from exptilt.engines.image import ImageEngine, ImageSampling
from exptilt.engines.image.decode import Denoiser
from exptilt.engines.image.paths import Paths
from exptilt.engines.image.steps import Schedule, Step, ddpm_step
from exptilt.keys import Floats

ROOT = Path(__file__).resolve().parents[1]
FINE, COARSE = 256, 32  # steps
WEIGHT, CLASS, WIDTH = 2.0, 0, 0.8
CENTRES = np.array([[[-1.5, 0.0], [0.0, 1.0]], [[1.5, 0.0], [0.0, -0.5]]])  # [classes, parts, 2]
SPREAD = np.array([[0.5, 0.4], [0.5, 0.6]])
EDGES = np.arange(-4.0, 4.01, WIDTH)


def density(x: Floats, classes: Sequence[int]) -> Floats:
    """p(x|c), the mean over the classes: float64 [points] for x of [points, 2]."""
    centres, spread = CENTRES[list(classes)].reshape(-1, 2), SPREAD[list(classes)].reshape(-1)
    squares = ((x[:, None] - centres) ** 2).sum(-1)
    return (np.exp(-squares / (2 * spread**2)) / (2 * np.pi * spread**2)).mean(1)


def log_class(x: Floats) -> Floats:
    """log p(c|x) of class CLASS."""
    return np.log(density(x, [CLASS])) - np.log(density(x, [0, 1])) - np.log(2)


def noise_estimate(x: Floats, kept: Floats, classes: Sequence[int]) -> Floats:
    """E[ε|x_t] in the mixture of the classes: x [points, 2], kept (ᾱ) [points]."""
    centres, spread = CENTRES[list(classes)].reshape(-1, 2), SPREAD[list(classes)].reshape(-1)
    variance = kept[:, None] * spread**2 + 1 - kept[:, None]
    away = x[:, None] - np.sqrt(kept)[:, None, None] * centres
    log_r = -(away**2).sum(-1) / (2 * variance) - np.log(variance)
    share = np.exp(log_r - log_r.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)
    return np.sqrt(1 - kept)[:, None] * ((share / variance)[:, :, None] * away).sum(1)


def schedule(count: int) -> Schedule:
    """DDPM's steps at levels whose log signal-to-noise ratio is spread evenly from -9 to 8.

    The variance of a step is the best one for Gaussian data of spread 0.45, as parts of the classes are (Bao et al.,
    2201.06503): DDPM's own leaves out what is not known of the picture, and would need ten times the steps.
    """
    kept = 1 / (1 + np.exp(-np.linspace(-9, 8, count)))
    steps = []
    for now, then in itertools.pairwise([*kept, 1.0]):
        step = ddpm_step(now, now, then, False)
        unknown = 0.45**2 * (1 - now) / (now * 0.45**2 + 1 - now) if then < 1 else 0.0
        steps.append(Step(**{**vars(step), "sigma": float(np.sqrt(step.sigma**2 + step.b**2 * unknown))}))
    return Schedule(tuple(steps), 1.0, "epsilon", None, "plane")


@dataclass(frozen=True, eq=False)
class Plane:
    """The exact network as a model."""

    name: str = "plane"
    shape: tuple[int, ...] = (2,)
    pixels: bool = True
    conditional: bool = True
    settings: dict[str, Any] = field(default_factory=lambda: {"engine": "plane"})

    @property
    def levels(self) -> tuple[Floats, Floats]:
        kept = np.array([step.time for step in schedule(FINE).steps])
        return kept, kept

    def check_null(self, what: str) -> Any:
        return None

    def condition(self, prompt: Any) -> Any:
        return int(prompt)

    def schedule(self, sampling: ImageSampling) -> Schedule:
        return schedule(sampling.steps)

    def predict(self, x: Floats, times: Floats, conditions: Sequence[Any], guidance: Floats) -> Floats:
        conditional = noise_estimate(x, times, [CLASS])
        if (guidance == 1).all():
            return conditional
        free = noise_estimate(x, times, [0, 1])
        return free + guidance[:, None] * (conditional - free)

    def decode(self, x: Floats) -> list[Any]:
        return list(x)


def walk(count: int, guidance: float, seed: int, steps: int = FINE) -> Floats:
    """`count` paths at once, by the same steps as the engine's: their ends, float64 [count, 2]."""
    random, chain, model = np.random.default_rng(seed), schedule(steps), Plane()
    x = random.normal(size=(count, 2))
    for step in chain.steps:
        output = model.predict(x, np.full(count, step.time), [CLASS], np.full(count, guidance))
        x = chain.mean(step, x, *chain.expected(step, x, output)) + step.sigma * random.normal(size=x.shape)
    return x


def exact(weight: float) -> Floats:
    """p(c|x)^w p(x|c), normalised, summed over the cells of the grid: float64 [cells, cells]."""
    fine = 16
    middles = EDGES[0] + (np.arange((len(EDGES) - 1) * fine) + 0.5) * WIDTH / fine
    points = np.stack(np.meshgrid(middles, middles, indexing="ij"), -1).reshape(-1, 2)
    mass = (density(points, [CLASS]) * np.exp(weight * log_class(points))).reshape(len(middles), -1)
    cells = mass.reshape(len(EDGES) - 1, fine, len(EDGES) - 1, fine).sum((1, 3))
    return cells / cells.sum()


def grid(x: Floats, weights: Floats | None = None) -> Floats:
    counts, _, _ = np.histogram2d(x[:, 0], x[:, 1], [EDGES, EDGES], weights=weights)
    return counts / counts.sum()


def distance(one: Floats, other: Floats) -> float:
    return float(0.5 * np.abs(one - other).sum())


def soft_best_of(n: int, x: Floats, weight: float) -> Floats:
    """The distribution of one draw from n, by weight: the mean over groups of n, each draw counted by its weight in its group."""
    log_w = weight * log_class(x[: len(x) // n * n]).reshape(-1, n)
    shares = np.exp(log_w - log_w.max(1, keepdims=True))
    return grid(x[: shares.size], (shares / shares.sum(1, keepdims=True)).ravel())


def engine() -> ImageEngine:
    model, paths = Plane(), Paths(2**26)

    def run(rows: Sequence[Any]) -> None:
        batch = Denoiser(model, paths, 4096)
        batch.join(rows)
        while batch.rows:
            batch.step()

    return ImageEngine(model, run, ImageSampling(steps=COARSE), paths=paths)


def pooled(sampler: Any, runs: int, weight: float, right: Floats) -> dict[str, Any]:
    """Runs of a sampler, pooled by their weights: the distance to `right`, effective draws, and forwards for each run."""
    target = Target(engine(), lambda prompt, drafts: log_class(np.array([draft.output for draft in drafts])), 1 / weight)
    points, log_w, forwards = [], [], 0
    for seed in range(runs):
        result = xt.sample(target, str(CLASS), sampler, select=xt.draw, seed=seed)
        points += [draft.output for draft in result.population.drafts]
        log_w += result.population.log_w.tolist()
        forwards += result.usage.reference.forwards
    w = np.exp(np.array(log_w) - max(log_w))
    return {
        "distance": distance(grid(np.array(points), w), right),
        "effective": float(w.sum() ** 2 / (w**2).sum()),
        "log_z": float(np.log(np.exp(np.array(log_w)).sum() / runs)),
        "forwards": forwards / runs,
    }


def floor(effective: float, weight: float, seed: int = 0) -> float:
    """The distance that so many independent draws from the target itself have."""
    right = exact(weight)
    random = np.random.default_rng(seed)
    found = [random.multinomial(max(1, round(effective)), right.ravel()) for _ in range(20)]
    return float(np.mean([distance(each.reshape(right.shape) / each.sum(), right) for each in found]))


def measure(draws: int, runs: int) -> dict[str, Any]:
    plain = walk(draws, 1.0, 0)
    guided = walk(draws, 1.0 + WEIGHT, 1)
    right = exact(WEIGHT)
    best = {n: distance(soft_best_of(n, plain, WEIGHT), right) for n in (1, 2, 4, 8, 16, 32, 64, 256, 1024)}
    found = {
        "draws": draws,
        "plain": distance(grid(plain), exact(0.0)),
        "guidance": distance(grid(guided), right),
        "soft best of n": best,
        "floor": floor(draws, WEIGHT),
        "log_z": float(np.log(np.exp(WEIGHT * log_class(plain)).mean())),
        "cells": {"exact": right.tolist(), "guidance": grid(guided).tolist(), "soft": soft_best_of(64, plain, WEIGHT).tolist()},
        "runs": runs,
    }
    coarse = walk(draws, 1.0, 2, COARSE)
    reach = grid(coarse, np.exp(WEIGHT * log_class(coarse)))
    found["log_z of 32 steps"] = float(np.log(np.exp(WEIGHT * log_class(coarse)).mean()))
    samplers = {
        "guided selection": xt.ETS(candidates=4, block=8),
        "particle filter": xt.SMC(particles=4, block=8),
        "independent draws": xt.Independent(10),
    }
    for name, sampler in samplers.items():
        begun = time.perf_counter()
        found[name] = pooled(sampler, runs, WEIGHT, reach)
        found[name]["floor"] = floor(found[name]["effective"], WEIGHT)
        print(
            f"{name}: { ({k: v for k, v in found[name].items() if k != 'cells'}) } {time.perf_counter() - begun:.0f} s",
            flush=True,
        )
    return found


def draw(found: dict[str, Any], path: Path) -> None:
    """Densities of the target, soft best-of-64 and guidance, and distances over n."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 4, figsize=(12.5, 3.1), layout="constrained")
    names = {"exact": "p(c|x)²·p(x|c)", "soft": "soft best-of-64", "guidance": "classifier-free guidance"}
    for axis, (name, title) in zip(axes, names.items(), strict=False):
        axis.imshow(np.array(found["cells"][name]).T, origin="lower", extent=(-4, 4, -4, 4), cmap="magma", vmin=0, vmax=0.12)
        axis.set(title=title, xlim=(-3.5, 2), ylim=(-2, 3), xticks=[], yticks=[])
    curve = found["soft best of n"]
    axes[3].loglog([int(n) for n in curve], list(curve.values()), "o-", label="soft best-of-n")
    axes[3].axhline(found["guidance"], color="C3", label="guidance")
    axes[3].axhline(found["floor"], color="0.6", ls=":", label="noise of the measurement")
    axes[3].set(xlabel="n", ylabel="total variation", title="distance to the target")
    axes[3].legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=200_000)
    parser.add_argument("--runs", type=int, default=150)
    args = parser.parse_args()
    found = measure(args.draws, args.runs)
    draw(found, ROOT / "docs" / "images.png")
    told = {key: value for key, value in found.items() if key != "cells"}
    (ROOT / "reproduce" / "results" / "image_guidance.json").write_text(json.dumps(told, indent=1) + "\n")
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
