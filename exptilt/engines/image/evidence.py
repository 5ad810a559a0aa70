"""How much the picture speaks for its class, by the diffusion model itself: an estimate of log p(x|c)/p(x) that needs no
classifier.

    L(x; c) = Σ_t a_t E_ε[‖ε - ε_θ(x_t|c)‖² - ‖ε - ε_θ(x_t)‖²],     x_t = sqrt(1 - σ_t²)·x + σ_t·ε,

with a_t = Δσ_t²/(2σ_t²(1 - σ_t²)), which are not normalised: then log p(c|x) = -L(x; c) + a constant (Li and Yan, 2024). The two
terms share t and ε, and so do all pictures that are compared, which takes most of the noise out of their differences. Levels are
spread evenly in σ², each with the width of its part of [0, 1].
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from exptilt.draft import Draft
from exptilt.engines.image.model import Model
from exptilt.engines.image.steps import Prediction, Schedule, Step, variance_preserving
from exptilt.keys import Floats, Key


@runtime_checkable
class EvidentEngine(Protocol):
    """An engine with "evidence" among what it can do."""

    def evidence(self, drafts: Sequence[Draft], key: Key, levels: int, noises: int) -> Floats: ...


def chosen_levels(times: Floats, kept: Floats, count: int) -> tuple[list[Step], Floats]:
    """`count` of the noise levels that a network was trained with, as steps, and the weight a_t of each: float64 [levels]."""
    variance = 1.0 - kept
    wanted = (np.arange(count) + 0.5) / count
    places = np.unique(np.abs(variance[:, None] - wanted).argmin(axis=0))
    chosen = variance[places]
    order = np.argsort(chosen)
    chosen, places = chosen[order], places[order]
    edges = np.concatenate([[0.0], (chosen[1:] + chosen[:-1]) / 2, [1.0]])
    weights = np.diff(edges) / (2 * chosen * (1 - chosen))
    steps = [
        Step(**variance_preserving(float(times[place]), float(kept[place])), a=0.0, b=0.0, c=0.0, sigma=0.0)
        for place in places.tolist()
    ]
    return steps, weights


def estimate(
    model: Model, x: Sequence[Floats], condition: Hashable, prediction: Prediction, key: Key, levels: int, noises: int, most: int
) -> tuple[Floats, int]:
    """-L(x; c) of each state, float64 [states], nats; and how many evaluations of the network it took.

    noises: ε for each level. most: states that go through the network at once.
    """
    null = model.check_null("the evidence of a picture for its class")
    steps, weights = chosen_levels(*model.levels, levels)
    reader = Schedule((), 1.0, prediction, None, "")
    drawn = key.rng().standard_normal((len(steps), noises, *model.shape))
    total = np.zeros(len(x))
    jobs = [(state, level, sample) for level in range(len(steps)) for sample in range(noises) for state in range(len(x))]
    half = max(1, most // 2)
    for first in range(0, len(jobs), half):
        part = jobs[first : first + half]
        noise = np.stack([drawn[level, sample] for _, level, sample in part])
        seen = np.stack([steps[level].alpha * x[state] + steps[level].s * drawn[level, sample] for state, level, sample in part])
        times = np.array([steps[level].time for _, level, _ in part])
        told = [condition] * len(part) + [null] * len(part)
        outputs = model.predict(np.concatenate([seen, seen]), np.concatenate([times, times]), told, np.ones(2 * len(part)))
        for row, (state, level, _) in enumerate(part):
            with_class, without = (
                reader.expected(steps[level], seen[row], outputs[place])[1] for place in (row, row + len(part))
            )
            difference = np.sum((noise[row] - with_class) ** 2) - np.sum((noise[row] - without) ** 2)
            total[state] -= weights[level] / noises * difference
    return total, 2 * len(jobs)
