"""The schedulers of diffusers as chains of Gaussian steps, each compared with what the scheduler itself does before it is
used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from exptilt.engines.image.sampling import ImageSampling
from exptilt.engines.image.steps import Schedule, Step, ancestral_step, check_noise, ddim_step, ddpm_step
from exptilt.errors import ModelError
from exptilt.keys import digest

NAMES: Mapping[str, str] = {
    "ddpm": "DDPMScheduler",
    "ddim": "DDIMScheduler",
    "euler-ancestral": "EulerAncestralDiscreteScheduler",
}
CURE = f"give scheduler= one of {', '.join(NAMES)}, which draw noise in their steps"
ROUNDING = 1e-3  # of a step in float32, relative to its largest number


def scheduler_of(given: Any, chosen: str | None, name: str) -> Any:
    """The scheduler to use: the one that a pipeline came with, or the one chosen, with the same noise levels. Raises
    ModelError."""
    import diffusers

    if chosen is not None:
        if chosen not in NAMES:
            raise ValueError(f"scheduler={chosen!r} is unknown: give one of {', '.join(NAMES)}")
        return getattr(diffusers, NAMES[chosen]).from_config(given.config)
    if type(given).__name__ not in NAMES.values():
        raise ModelError(f"{name} comes with {type(given).__name__}, whose steps draw no noise that is known here: {CURE}.")
    return given


def learned_variances(scheduler: Any) -> bool:
    """Whether the network chooses the variances of steps, between two bounds."""
    return type(scheduler).__name__ == NAMES["ddpm"] and scheduler.config.variance_type == "learned_range"


def schedule_of(scheduler: Any, sampling: ImageSampling, name: str) -> Schedule:
    """The steps that a scheduler takes. Raises ValueError or ModelError, with a cure, where they are not Gaussian or not as
    known."""
    kind, config = type(scheduler).__name__, scheduler.config
    if sampling.steps > config.num_train_timesteps:
        most = config.num_train_timesteps
        raise ValueError(f"steps={sampling.steps} is more than the {most} that {name} was trained with: give at most {most}")
    if sampling.eta is not None and kind != "DDIMScheduler":
        raise ValueError(f'eta={sampling.eta} is for DDIM, and {name} runs with {kind}: leave it out, or give scheduler="ddim"')
    if config.get("thresholding", False):
        raise ModelError(f"the scheduler of {name} has thresholding=True, which exptilt does not know: save it with False")
    if config.prediction_type not in ("epsilon", "sample", "v_prediction"):
        raise ModelError(f"{name} predicts {config.prediction_type!r}; exptilt knows epsilon, sample and v_prediction")
    timed = type(scheduler).from_config(config)
    timed.set_timesteps(sampling.steps)
    steps = _READERS[kind](timed, sampling, name)
    clip = config.clip_sample_range if config.get("clip_sample", False) and kind != NAMES["euler-ancestral"] else None
    start = float(timed.init_noise_sigma)
    space = digest(repr([start, *((step.time, step.scale, step.alpha) for step in steps)]))
    schedule = Schedule(tuple(steps), start, config.prediction_type, clip, space)
    check_noise(schedule, f"{kind} of {name}", CURE)
    _try(scheduler, schedule, sampling, name)
    return schedule


def _ddpm(timed: Any, sampling: ImageSampling, name: str) -> list[Step]:
    kind = timed.config.variance_type
    if not (kind.startswith("fixed_") or learned_variances(timed)):
        raise ModelError(
            f'{name} has steps of variance_type="{kind}", which exptilt does not know: give scheduler="ddim", or save its '
            'scheduler with variance_type="fixed_small"'
        )
    kept, steps = timed.alphas_cumprod.double().numpy(), []
    for time in timed.timesteps.tolist():
        before = int(timed.previous_timestep(time))
        then = kept[before] if before >= 0 else 1.0
        step = ddpm_step(time, kept[time], then, kind.startswith("fixed_large"))
        if learned_variances(timed):
            step = replace(step, widest=ddpm_step(time, kept[time], then, True).sigma)
        steps.append(step if time > 0 else replace(step, sigma=0.0))
    return steps


def _ddim(timed: Any, sampling: ImageSampling, name: str) -> list[Step]:
    kept, eta = timed.alphas_cumprod.double().numpy(), 1.0 if sampling.eta is None else sampling.eta
    stride, steps = timed.config.num_train_timesteps // sampling.steps, []
    for time in timed.timesteps.tolist():
        before = time - stride
        then = kept[before] if before >= 0 else float(timed.final_alpha_cumprod)
        steps.append(ddim_step(time, kept[time], then, eta))
    return steps


def _ancestral(timed: Any, sampling: ImageSampling, name: str) -> list[Step]:
    levels = timed.sigmas.double().numpy()
    return [ancestral_step(time, levels[i], levels[i + 1]) for i, time in enumerate(timed.timesteps.tolist())]


_READERS: Mapping[str, Callable[[Any, ImageSampling, str], list[Step]]] = {
    NAMES["ddpm"]: _ddpm, NAMES["ddim"]: _ddim, NAMES["euler-ancestral"]: _ancestral,
}  # fmt: skip


def _try(scheduler: Any, schedule: Schedule, sampling: ImageSampling, name: str) -> None:
    """Compare the first, a middle and the last step with the scheduler's own: releases of diffusers differ, and options are
    many."""
    channels = 2 if learned_variances(scheduler) else 1
    numbers = torch.randn(1, 1 + channels, 4, 4, generator=torch.Generator().manual_seed(0))
    x, output = numbers[:, :1] * schedule.start, numbers[:, 1:]
    for place in sorted({0, len(schedule.steps) // 2, len(schedule.steps) - 1}):
        step, theirs = schedule.steps[place], type(scheduler).from_config(scheduler.config)
        theirs.set_timesteps(sampling.steps)
        more = {"eta": sampling.eta or 1.0} if type(scheduler).__name__ == NAMES["ddim"] else {}
        time = theirs.timesteps[place]
        seen = theirs.scale_model_input(x, time)
        found = theirs.step(output, time, x, generator=torch.Generator().manual_seed(1), **more).prev_sample.double().numpy()
        state, estimate = x[0].double().numpy(), output[0].double().numpy()
        mean = schedule.mean(step, state, *schedule.expected(step, state, estimate))
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).double().numpy()
        drawn = step.deviation(estimate) * noise if step.sigma > 0 else 0.0
        wrong = np.abs(mean + drawn - found).max() / np.abs(found).max()
        scaled = np.abs(seen.double().numpy() - state * step.scale).max()
        if not (wrong < ROUNDING and scaled < ROUNDING * schedule.start):
            raise ModelError(
                f"step {place + 1} of {type(scheduler).__name__} of {name} is not the one that exptilt computes (they differ by "
                f"{wrong:.2g} of its size): its configuration has an option that is not known here. {CURE[0].upper()}{CURE[1:]}."
            )
