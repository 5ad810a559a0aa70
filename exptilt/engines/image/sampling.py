"""The parameters that, together with the weights, are the distribution of an image-diffusion engine."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class ImageSampling:
    """How a picture is denoised.

    steps: denoising steps from pure noise to the picture.
    eta: how much of its noise DDIM draws anew in each step, above 0; 1 where not given. Other schedulers have no such choice.
    guidance: classifier-free guidance: the network's noise estimate becomes e + guidance·(e_c - e); 1 leaves it alone. The
        distribution that this gives is not p(c|x)^w p(x|c) for any w.
    reuse: the network is evaluated in each `reuse`-th step, and its expected picture used again in the steps between. Above 1
        this is a cheaper distribution over the same paths, to be used as a proposal.
    """

    steps: int = 50
    eta: float | None = None
    guidance: float = 1.0
    reuse: int = 1

    def __post_init__(self) -> None:
        for name in ("steps", "reuse"):
            value = getattr(self, name)
            if isinstance(value, bool) or not (isinstance(value, int) and value >= 1):
                raise ValueError(f"{name}={value!r} must be a whole number of 1 or more")
        if self.steps < 2:
            raise ValueError("steps=1 goes from noise to picture at once, and leaves nothing to guide: give 2 or more")
        if self.eta is not None and not 0 < self.eta <= 1:
            raise ValueError(
                f"eta={self.eta} is not above 0 and at most 1: without noise in its steps a picture has no candidates to choose "
                "from. Give eta=1, or a smaller positive number."
            )
        if not 0 <= self.guidance < math.inf:
            raise ValueError(f"guidance={self.guidance} must be a finite number of 0 or more; 1 leaves the network alone")

    def settings(self) -> dict[str, Any]:
        """The parameters as JSON values."""
        return asdict(self)
