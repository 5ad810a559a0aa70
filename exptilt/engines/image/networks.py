"""The networks of diffusers' pipelines, as models that denoise: states in, outputs out, and pictures at the end."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from exptilt.draft import Prompt
from exptilt.engines.checkpoints import tensors_digest
from exptilt.engines.image.prompts import Prompts
from exptilt.engines.image.sampling import ImageSampling
from exptilt.engines.image.schedules import learned_variances, schedule_of
from exptilt.engines.image.steps import Schedule
from exptilt.errors import ModelError
from exptilt.keys import Floats

NOT_BUILT = ("transformers_version", "architectures")  # parts of a configuration that say who wrote it


class Network:
    """A network of diffusers with its scheduler (`exptilt.engines.image.model.Model`).

    module: called with (states, times, and what its prompts are as arguments); it has a `config`.
    prompts: what it is told of a prompt.
    scheduler: a scheduler of diffusers whose steps draw noise.
    pipeline, part: the whole that it is a part of, and as what; None where it was built by hand.
    decoder: the autoencoder whose codes are the states; None where the states are pictures, from -1 to 1.
    """

    def __init__(self, module: Any, prompts: Prompts, scheduler: Any, decoder: Any, name: str) -> None:
        self.module, self.prompts, self.scheduler, self.decoder, self.name = module, prompts, scheduler, decoder, name
        size = module.config.sample_size
        self.shape = (module.config.in_channels, *((size, size) if isinstance(size, int) else size))
        self.pixels = decoder is None
        self.pipeline: Any = None
        self.part = "unet"
        self.outputs = self.shape[0] * (2 if learned_variances(scheduler) else 1)
        if self.outputs > (given := module.config.out_channels):
            raise ModelError(
                f"the scheduler of {name} takes variances from the network, which gives {given} channels for "
                f'{self.shape[0]} and so none: save the scheduler with variance_type="fixed_small", or give scheduler="ddim"'
            )
        self._settings: dict[str, Any] | None = None
        self._schedules: dict[ImageSampling, Schedule] = {}

    @property
    def settings(self) -> dict[str, Any]:
        if self._settings is None:  # a digest of all weights takes a while
            self._settings = self._described()
        return self._settings

    def _described(self) -> dict[str, Any]:
        own = {key: value for key, value in sorted(self.scheduler.config.items()) if not key.startswith("_")}
        parts = {} if self.pipeline is None else {**self.pipeline.components, self.part: None}
        others = {key: _weights(part) for key, part in parts.items() if isinstance(part, torch.nn.Module)}
        return {
            "engine": "image",
            "model": self.name,
            "weights": _weights(self.module),
            "dtype": str(self.module.dtype).removeprefix("torch."),
            "scheduler": {"kind": type(self.scheduler).__name__, **own},
            **({"other weights": others} if others else {}),
            **self.prompts.settings,
        }

    @property
    def levels(self) -> tuple[Floats, Floats]:
        kept = self.scheduler.alphas_cumprod.double().numpy()
        return np.arange(len(kept), dtype=np.float64), kept

    @property
    def conditional(self) -> bool:
        return self.prompts.null is not None

    def condition(self, prompt: Prompt) -> Hashable:
        return self.prompts.condition(prompt)

    def schedule(self, sampling: ImageSampling) -> Schedule:
        if sampling.guidance != 1:
            self.check_null(f"guidance={sampling.guidance}")
        if sampling not in self._schedules:
            self._schedules[sampling] = schedule_of(self.scheduler, sampling, self.name)
        return self._schedules[sampling]

    def check_null(self, what: str) -> Hashable:
        """What stands for "no class" or "no text". Raises ValueError where nothing does."""
        if self.prompts.null is None:
            raise ValueError(
                f"{what} compares with no class at all, and {self.name} names none: give null= the number that stood for it in "
                "training, or a model that was trained with one"
            )
        return self.prompts.null

    @torch.inference_mode()
    def predict(self, x: Floats, times: Floats, conditions: Sequence[Any], guidance: Floats) -> Floats:
        """The output for each state, its noise moved away from that for no class where guidance is not 1."""
        guided = np.flatnonzero(guidance != 1)
        both = np.concatenate([np.arange(len(x)), guided])
        told = [*conditions, *([self.prompts.null] * len(guided))]
        outputs = self._outputs(x[both], times[both], told)
        found, channels = outputs[: len(x)], self.shape[0]
        with_class, free = found[guided, :channels], outputs[len(x) :, :channels]
        found[guided, :channels] = free + guidance[guided].reshape(-1, *[1] * len(self.shape)) * (with_class - free)
        return found

    def _outputs(self, x: Floats, times: Floats, conditions: Sequence[Any]) -> Floats:
        where, kind = self.module.device, self.module.dtype
        with _memory(self.name, len(x)):
            states = torch.from_numpy(x).to(where, kind)
            when = torch.from_numpy(times).to(where, torch.float32)
            when = when.long() if np.array_equal(times, np.round(times)) else when
            found = self.module(states, when, **self.prompts.arguments(conditions, str(where), kind), return_dict=False)[0]
            return found[:, : self.outputs].float().cpu().double().numpy()  # a variance that no step reads is left out

    @torch.inference_mode()
    def decode(self, x: Floats) -> list[Any]:
        """The picture of each state: float32, 0 black to 1 white, [height, width] or [height, width, colours]."""
        pictures = torch.from_numpy(x)
        if self.decoder is not None:
            with _memory(self.name, len(x)):
                codes = _codes(pictures, self.decoder.config)
                pictures = self.decoder.decode(codes.to(self.decoder.device, self.decoder.dtype), return_dict=False)[0]
        arrays = ((pictures.float().cpu() + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1).numpy()
        return [array[:, :, 0] if array.shape[2] == 1 else array for array in arrays]


def _weights(module: Any) -> str:
    """A digest of the weights of a part of a pipeline, and of how it is built, wherever it was read from."""
    config = module.config if isinstance(module.config, dict) else module.config.to_dict()
    built = {key: value for key, value in config.items() if not key.startswith("_") and key not in NOT_BUILT}
    return tensors_digest(sorted(built.items(), key=str), module.state_dict())


def _codes(states: torch.Tensor, config: Any) -> torch.Tensor:
    """What an autoencoder decodes: states by its scale, and with the deviation and mean of each channel where it names them."""
    codes = states / config.scaling_factor
    means, deviations = config.get("latents_mean"), config.get("latents_std")
    if means is not None and deviations is not None:
        mean, deviation = (torch.tensor(each, dtype=codes.dtype).reshape(1, -1, 1, 1) for each in (means, deviations))
        codes = codes * deviation + mean
    return codes + (config.get("shift_factor") or 0.0)


@contextmanager
def _memory(name: str, rows: int) -> Iterator[None]:
    """Say what to do where memory runs out."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise ModelError(
            f"{name} ran out of memory with {rows} pictures at once: load it with max_rows={max(1, rows // 2)}, or with "
            'dtype="float16"'
        ) from error
