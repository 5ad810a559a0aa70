"""What a network must tell and do to be denoised with."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Protocol

from exptilt.draft import Prompt
from exptilt.engines.image.sampling import ImageSampling
from exptilt.engines.image.steps import Schedule
from exptilt.keys import Floats


class Model(Protocol):
    """A network ready to serve, with its schedule.

    name: what errors and settings call it.
    shape: of a state, such as (channels, height, width).
    pixels: whether states are pictures, so that `decode` costs nothing.
    settings: what fixes it, as JSON values.
    levels: the times that it was trained with, and what is left of the picture's variance at each (ᾱ): float64 [levels] each.
    """

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def pixels(self) -> bool: ...

    @property
    def settings(self) -> dict[str, Any]: ...

    @property
    def levels(self) -> tuple[Floats, Floats]: ...

    @property
    def conditional(self) -> bool:
        """Whether something stands for "no class", so that guidance and evidence are known."""
        ...

    def check_null(self, what: str) -> Hashable:
        """What stands for "no class" or "no text". Raises ValueError where nothing does. what: needs it."""
        ...

    def condition(self, prompt: Prompt) -> Hashable:
        """What the network is told of a prompt. Raises PromptError where it cannot be told."""
        ...

    def schedule(self, sampling: ImageSampling) -> Schedule:
        """The steps. Raises ValueError, with a cure, for sampling parameters that the model cannot follow."""
        ...

    def predict(self, x: Floats, times: Floats, conditions: Sequence[Any], guidance: Floats) -> Floats:
        """The network's output for each scaled state: float64 of the shape of x, [states, *shape]; with twice the channels where
        it chooses the variances of steps too."""
        ...

    def decode(self, x: Floats) -> list[Any]:
        """The picture of each state, as an array."""
        ...
