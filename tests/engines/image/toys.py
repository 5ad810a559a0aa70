"""Diffusion models small enough to know everything about: a state is one number or two, the network a formula."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from exptilt.engines.image import Discrete, ImageEngine, ImageSampling
from exptilt.engines.image.decode import Denoiser
from exptilt.engines.image.noise import Gaussian, Noise
from exptilt.engines.image.paths import Paths
from exptilt.engines.image.steps import Schedule, ddim_step, ddpm_step
from exptilt.errors import PromptError
from exptilt.keys import Floats

Network = Callable[[Floats, Floats, Sequence[Any], Floats], Floats]


@dataclass(frozen=True, eq=False)
class Formula:
    """A network that is a formula of (scaled states, ᾱ of each, conditions, guidance), with DDPM's or DDIM's steps.

    kept: ᾱ before each step, rising; the last step leads to the picture.
    """

    network: Network
    kept: Sequence[float]
    shape: tuple[int, ...] = (1,)
    clip: float | None = None
    ddim: bool = False
    name: str = "formula"
    pixels: bool = True
    settings: dict[str, Any] = field(default_factory=lambda: {"engine": "formula"})

    conditional: bool = True

    @property
    def levels(self) -> tuple[Floats, Floats]:
        kept = np.linspace(0.9995, 0.0005, 1000)
        return kept, kept

    def check_null(self, what: str) -> Any:
        return None

    def condition(self, prompt: Any) -> Any:
        if prompt == "nothing":
            raise PromptError("the prompt 'nothing' is no class: give another")
        return prompt

    def schedule(self, sampling: ImageSampling) -> Schedule:
        eta = sampling.eta or 1.0
        then = [*self.kept[1:], 1.0]
        pairs = zip(self.kept, then, strict=True)
        steps = [ddim_step(now, now, after, eta) if self.ddim else ddpm_step(now, now, after, False) for now, after in pairs]
        return Schedule(tuple(steps), 1.0, "epsilon", self.clip, f"formula-{len(steps)}")

    def predict(self, x: Floats, times: Floats, conditions: Sequence[Any], guidance: Floats) -> Floats:
        return self.network(x, times, conditions, guidance)

    def decode(self, x: Floats) -> list[Any]:
        return list(x)


def alone(model: Any, paths: Paths, most: int = 64) -> Callable[[Sequence[Any]], None]:
    """Runs rows in the caller's thread, without a scheduler: enumeration makes hundreds of thousands of calls."""

    def run(rows: Sequence[Any]) -> None:
        batch = Denoiser(model, paths, most)
        batch.join(rows)
        while batch.rows:
            batch.step()

    return run


def engine_of(model: Formula, noise: Noise | None = None, paths: Paths | None = None, **sampling: Any) -> ImageEngine:
    kept = Paths() if paths is None else paths
    steps = ImageSampling(steps=len(model.kept), **sampling)
    return ImageEngine(model, alone(model, kept), steps, noise or Gaussian(), kept)


def bent(x: Floats, times: Floats, conditions: Sequence[Any], guidance: Floats) -> Floats:
    """An estimate of noise that is not linear in the state and changes with time."""
    return np.tanh(1.3 * x + 0.4) * np.sqrt(1 - times).reshape(-1, *[1] * (x.ndim - 1)) + 0.2 * x


TWO = (0.25, 0.8)
COIN = Discrete((-1.0, 1.0), (0.5, 0.5))
BENT_COIN = Discrete((-1.0, 1.0), (0.7, 0.3))
