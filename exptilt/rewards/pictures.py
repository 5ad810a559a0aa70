"""Rewards of pictures: functions of arrays, float from 0 (black) to 1 (white), [height, width] or [height, width, colours]."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, ClassVar, Literal

import numpy as np

from exptilt.core import Engine
from exptilt.draft import Draft, Prompt
from exptilt.engines.image.evidence import EvidentEngine
from exptilt.engines.requirements import require
from exptilt.errors import CapabilityError, RewardError, TargetError
from exptilt.keys import Floats, Key
from exptilt.rating import reward_name

Picture = np.ndarray[Any, Any]


def pictures_of(reader: str, drafts: Sequence[Draft]) -> list[Picture]:
    """The pictures of drafts. Raises TargetError for drafts without one, RewardError for one that cannot be looked at.

    reader: what asks for them.
    """
    found = []
    for number, draft in enumerate(drafts):
        if draft.output is None:
            raise TargetError(
                f"{reader} reads pictures, and draft {number} has none: use an engine that draws them, such as image:NAME. "
                "Drafts of a results file get theirs back by engine.drawn_again(drafts)"
            )
        picture = np.asarray(draft.output)
        if (
            picture.dtype.kind not in "fiu"
            or picture.ndim not in (2, 3)
            or (picture.ndim == 3 and picture.shape[2] not in (1, 3))
        ):
            raise RewardError(
                f"{reader} reads arrays of [height, width] or [height, width, 3] numbers, and draft {number} has one of type "
                f"{picture.dtype} and shape {picture.shape}"
            )
        if bad := int(np.size(picture) - np.isfinite(picture).sum()):
            raise RewardError(
                f"{reader}: the picture of draft {number} has {bad} of {picture.size} numbers that are NaN or infinite: the "
                'model that drew it overflowed. Load it with dtype="float32".'
            )
        found.append(picture)
    return found


def bytes_of(picture: Picture) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A picture as whole numbers from 0 to 255, of the same shape; a third axis of one colour is dropped."""
    flat = picture[:, :, 0] if picture.ndim == 3 and picture.shape[2] == 1 else picture
    return np.round(np.clip(flat, 0.0, 1.0) * 255).astype(np.uint8)


@dataclass(frozen=True)
class OfPictures:
    """Any function of a picture: one float for each array.

    function: called with the array of one picture.
    """

    function: Callable[[Picture], float]

    def __call__(self, prompt: Prompt, drafts: Sequence[Draft]) -> list[float]:
        return [float(self.function(picture)) for picture in pictures_of(reward_name(self.function), drafts)]


@dataclass(frozen=True)
class Ink:
    """How much light is in the picture: the mean of its numbers, 0 to 1. Of white digits on black this is their ink.

    sign: 1 rewards light, -1 dark.
    """

    sign: Literal[1, -1] = 1

    def __call__(self, prompt: Prompt, drafts: Sequence[Draft]) -> list[float]:
        return [self.sign * float(np.mean(picture)) for picture in pictures_of("Ink", drafts)]


@dataclass(frozen=True)
class Symmetry:
    """How much the picture is its own mirror image: minus the mean absolute difference, 0 at the most.

    axis: "vertical" compares left and right, "horizontal" above and below.
    """

    axis: Literal["vertical", "horizontal"] = "vertical"
    reward_max: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        if self.axis not in ("vertical", "horizontal"):
            raise ValueError(f'Symmetry(axis={self.axis!r}): give "vertical" or "horizontal"')

    def __call__(self, prompt: Prompt, drafts: Sequence[Draft]) -> list[float]:
        side = 1 if self.axis == "vertical" else 0
        return [-float(np.mean(np.abs(picture - np.flip(picture, side)))) for picture in pictures_of("Symmetry", drafts)]


@dataclass(frozen=True)
class JpegSize:
    """The size of the picture as a JPEG file, in kilobytes: how much detail it has.

    sign: -1 rewards pictures that compress well, 1 those that do not.
    quality: of the file, 1 to 95.
    """

    sign: Literal[1, -1] = -1
    quality: int = 75

    def __post_init__(self) -> None:
        require("JpegSize", "image", ("PIL",))
        if not 1 <= self.quality <= 95:
            raise ValueError(f"JpegSize(quality={self.quality}): give a whole number from 1 to 95")

    def __call__(self, prompt: Prompt, drafts: Sequence[Draft]) -> list[float]:
        from PIL import Image

        sizes = []
        for picture in pictures_of("JpegSize", drafts):
            file = BytesIO()
            Image.fromarray(bytes_of(picture)).save(file, "JPEG", quality=self.quality)
            sizes.append(self.sign * file.tell() / 1000)
        return sizes


@dataclass(frozen=True)
class ClassifierFree:
    """w·log p(c|x) up to a constant, in nats, by the diffusion model itself: needs no classifier
    (`exptilt.engines.image.evidence`).

    With β = 1 the target is p(c|x)^w p(x|c), which classifier-free guidance is meant for and does not reach.
    weight: w.
    levels, noises: how many noise levels, and draws of noise at each, the estimate takes; all pictures of a prompt share them.
    """

    weight: float = 1.0
    levels: int = 16
    noises: int = 4
    fixed = True

    def __post_init__(self) -> None:
        if not np.isfinite(self.weight):
            raise ValueError(f"ClassifierFree(weight={self.weight}): give a finite number")
        if not (self.levels >= 1 and self.noises >= 1):
            raise ValueError(f"ClassifierFree(levels={self.levels}, noises={self.noises}): give whole numbers of 1 or more")

    def needs(self) -> frozenset[str]:
        """The capability "evidence"."""
        return frozenset({"evidence"})

    def bind(self, engine: Engine, prompt: Prompt, key: Key) -> Evidence:
        """The reward for one prompt, with noise of its own."""
        if not isinstance(engine, EvidentEngine):
            raise CapabilityError(f'{engine.name} tells no evidence of its drafts: use an engine with "evidence" in its `can`')
        return Evidence(engine, self, key.child("evidence"))


@dataclass(frozen=True)
class Evidence:
    """`ClassifierFree` for one prompt."""

    engine: EvidentEngine
    asked: ClassifierFree
    key: Key

    def __call__(self, prompt: Prompt, drafts: Sequence[Draft]) -> Floats:
        return self.asked.weight * self.engine.evidence(drafts, self.key, self.asked.levels, self.asked.noises)
