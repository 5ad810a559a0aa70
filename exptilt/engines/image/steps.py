"""Denoising as a chain of Gaussian steps, in numbers: what the schedulers of diffusers do, with each step's mean and deviation
apart.

A network sees the state x scaled to the form α·x0 + s·e with α² + s² = 1, and estimates the noise e, the picture x0 or the
velocity α·e - s·x0. All schedulers with noise then draw

    x' = a·x + b·x0 + c·e + σ·ε,     ε ~ N(0, 1),

with numbers of their own: DDPM (Ho et al., 2006.11239), DDIM with η > 0 (Song et al., 2010.02502) and Euler's ancestral steps
(Karras et al., 2206.00364, as in k-diffusion).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from exptilt.keys import Floats

Prediction = Literal["epsilon", "sample", "v_prediction"]


@dataclass(frozen=True)
class Step:
    """One step. time: what the network is told; scale: what its input is multiplied by; the rest as above.

    widest: where the network chooses σ for each number of the state (learned variances; Nichol and Dhariwal, 2102.09672), the
        largest that it is meant to choose; `sigma` is then the smallest.
    """

    time: float
    scale: float
    alpha: float
    s: float
    a: float
    b: float
    c: float
    sigma: float
    widest: float | None = None

    def deviation(self, output: Floats) -> float | Floats:
        """σ, of the state's shape where the network chooses it. output: of the network, [2·channels, ...] then."""
        if self.widest is None:
            return self.sigma
        share = (output[len(output) // 2 :] + 1) / 2
        return self.sigma ** (1 - share) * self.widest**share


@dataclass(frozen=True)
class Schedule:
    """A whole chain of steps.

    start: the deviation of the noise at its beginning.
    prediction: what the network estimates.
    clip: the expected picture is cut to ±clip; None where it is not.
    space: a digest of what the states of a path mean: paths of schedules that agree in it can be compared.
    """

    steps: tuple[Step, ...]
    start: float
    prediction: Prediction
    clip: float | None
    space: str

    @property
    def decisions(self) -> int:
        """Random choices in a path: the noise at the beginning, and that of each step that has any."""
        return 1 + sum(step.sigma > 0 for step in self.steps)

    def expected(self, step: Step, x: Floats, output: Floats) -> tuple[Floats, Floats]:
        """The picture and the noise that the network's output stands for, both of the shape of x.

        x: [channels, ...]. output: the same, or twice the channels where it chooses variances too.
        """
        seen, output = x * step.scale, output[: len(x)]
        if self.prediction == "epsilon":
            clean, noise = (seen - step.s * output) / step.alpha, output
        elif self.prediction == "sample":
            clean, noise = output, (seen - step.alpha * output) / step.s
        else:
            clean, noise = step.alpha * seen - step.s * output, step.alpha * output + step.s * seen
        return (clean if self.clip is None else np.clip(clean, -self.clip, self.clip)), noise

    def mean(self, step: Step, x: Floats, clean: Floats, noise: Floats | None) -> Floats:
        """The mean of the next state. noise: None where `clean` comes from an earlier step, and the noise is what remains of
        x."""
        if noise is None:
            noise = (x * step.scale - step.alpha * clean) / step.s
        return step.a * x + step.b * clean + step.c * noise


def check_noise(schedule: Schedule, name: str, cure: str) -> None:
    """Refuse a chain that lacks noise in any step but the last: nothing could be chosen there. Raises ValueError."""
    if quiet := [number for number, step in enumerate(schedule.steps[:-1], 1) if not step.sigma > 0]:
        raise ValueError(f"step {quiet[0]} of {len(schedule.steps)} of {name} draws no noise, so it has no candidates: {cure}")


def variance_preserving(time: float, now: float) -> dict[str, float]:
    """The part of a step that the network sees; now: what is left of the picture's variance, ᾱ."""
    return {"time": float(time), "scale": 1.0, "alpha": math.sqrt(now), "s": math.sqrt(1 - now)}


def ddpm_step(time: float, now: float, then: float, large: bool) -> Step:
    """DDPM's posterior step from ᾱ = now to ᾱ = then, 1 at the end. large: the variance is β of the step, not the posterior's."""
    alpha = now / then
    b, a = math.sqrt(then) * (1 - alpha) / (1 - now), math.sqrt(alpha) * (1 - then) / (1 - now)
    variance = (1 - alpha) if large else (1 - then) / (1 - now) * (1 - alpha)
    return Step(**variance_preserving(time, now), a=a, b=b, c=0.0, sigma=math.sqrt(max(variance, 0.0)))


def ddim_step(time: float, now: float, then: float, eta: float) -> Step:
    """DDIM's step from ᾱ = now to ᾱ = then, with η times the deviation of DDPM's."""
    sigma = eta * math.sqrt(max((1 - then) / (1 - now) * (1 - now / then), 0.0))
    c = math.sqrt(max(1 - then - sigma**2, 0.0))
    return Step(**variance_preserving(time, now), a=0.0, b=math.sqrt(then), c=c, sigma=sigma)


def ancestral_step(time: float, now: float, then: float) -> Step:
    """Euler's ancestral step from noise of deviation `now`, added to the picture, to deviation `then`."""
    up = math.sqrt(then**2 * (now**2 - then**2) / now**2)
    down = math.sqrt(then**2 - up**2)
    scale = 1 / math.sqrt(1 + now**2)
    return Step(float(time), scale, scale, now * scale, a=down / now, b=1 - down / now, c=0.0, sigma=up)
