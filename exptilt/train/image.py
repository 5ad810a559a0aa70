"""`fit_pictures`: a diffusion model fitted to π(x|c) ∝ p(x|c)·exp(r/β), without reinforcement learning; and the RL-like loss
beside it.

Pictures x_1..x_n are drawn from p itself once for each prompt. With ω_i = exp(r(x_i)/β)/mean exp(r/β) the network is fitted to

    weighted     E_i,ε,t[ω_i ‖ε - ε_θ(x_t|c, t)‖²], every picture as likely as another and counted by its weight
    resampled    E_ε,t‖ε - ε_θ(x_t|c, t)‖² over pictures drawn by their weights

which have the same gradient in the mean (Jiao, Chen and Li, 2509.04372, section 3.3; both are minimised). No gradient goes
through a reward or through sampling. The baseline, of the same paper, maximises

    rl           E_x~θ[r(x)] - β E_i,ε,t‖ε - ε_θ(x_t|c, t)‖², with the gradient of log p_θ over denoising steps (REINFORCE)

and draws pictures anew for each step. The result is a pipeline's folder, which `exptilt.load("image:FOLDER")` opens like any.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from exptilt.core import Target
from exptilt.draft import Prompt
from exptilt.engines.image.engine import ImageEngine
from exptilt.engines.image.networks import Network
from exptilt.engines.image.steps import Schedule
from exptilt.errors import AllWeightsZero, TargetError
from exptilt.keys import Floats, Key

Form = Literal["weighted", "resampled", "rl"]


@dataclass(frozen=True)
class PictureFit:
    """How a network is fitted.

    form: the loss, as above.
    draws: pictures drawn from p for each prompt.
    steps: of training.
    batch: pictures of a step; for "rl" half of them are drawn anew.
    learning_rate: of AdamW without weight decay; it falls to zero evenly.
    seed: of the pictures, of times and noise.
    """

    form: Form = "weighted"
    draws: int = 64
    steps: int = 200
    batch: int = 64
    learning_rate: float = 1e-4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.form not in get_args(Form):
            raise ValueError(f"form={self.form!r} is unknown: give one of {', '.join(get_args(Form))}")
        for name in ("draws", "steps", "batch"):
            value = getattr(self, name)
            if isinstance(value, bool) or not (isinstance(value, int) and value >= 2):
                raise ValueError(f"{name}={value!r} must be a whole number of 2 or more")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate={self.learning_rate!r} must be a positive finite number")


@dataclass(frozen=True)
class FittedPictures:
    """A model that was fitted. Its name for `exptilt.load` is `model`.

    ess: the median effective sample size of a prompt's weights.
    loss: the mean over the last tenth of the steps. forwards: evaluations of the network for one picture, of drawing and
    training.
    """

    folder: Path
    ess: float
    loss: float
    forwards: int

    @property
    def model(self) -> str:
        return f"image:{self.folder}"


def _as(module: Any, dtype: torch.dtype) -> Any:
    """A network in a number type; diffusers warns of every change, also of one to the same type."""
    return module if module.dtype == dtype else module.to(dtype)


@dataclass(frozen=True)
class Lessons:
    """Pictures to learn from, of all prompts. x: float32 [pictures, *shape]; conditions: of each; weights: ω, mean 1 in a
    prompt."""

    x: Tensor
    conditions: list[Any]
    weights: Tensor
    ess: float
    forwards: int


def fit_pictures(
    target: Target,
    prompts: Sequence[Prompt],
    out: str | Path,
    fit: PictureFit | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> FittedPictures:
    """Fit a copy of the target's network to the target; the engine itself is left alone.

    out: the folder of the result, new or empty.
    Raises TargetError for an engine that is not a pipeline of diffusers, AllWeightsZero where a reward excludes all of a prompt.
    """
    fit, engine, folder = fit or PictureFit(), target.engine, Path(out)
    if not (isinstance(engine, ImageEngine) and isinstance(engine.model, Network) and engine.model.pipeline is not None):
        raise TargetError(f"{engine.name} is not a pipeline of diffusers: load one as image:FOLDER-OR-HUB-ID")
    if fit.form == "rl" and any(step.widest is not None for step in engine.schedule.steps):
        raise TargetError(
            f'{engine.name} chooses the variances of its steps, and form="rl" learns by steps of fixed variance: load it with '
            'scheduler="ddim", or give another form'
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise TargetError(f"{folder} is there already: give a folder that is new or empty")
    if not prompts:
        raise ValueError("there are no prompts: give one at least")
    lessons = draw_lessons(target, prompts, fit)
    module = _as(copy.deepcopy(engine.model.module), torch.float32)
    learner = _Learner(module, engine, lessons, target, list(prompts), fit)
    with torch.enable_grad():
        losses = learner.run(progress)
    network = engine.model
    pipeline = copy.copy(network.pipeline)
    pipeline.register_modules(**{network.part: _as(module, network.module.dtype)})
    pipeline.save_pretrained(folder)
    return FittedPictures(folder, lessons.ess, float(np.mean(losses[-max(1, len(losses) // 10) :])), learner.forwards)


def draw_lessons(target: Target, prompts: Sequence[Prompt], fit: PictureFit) -> Lessons:
    """Pictures from p with their weights."""
    engine = target.engine
    assert isinstance(engine, ImageEngine)
    states: list[Floats] = []
    conditions: list[Any] = []
    weights: list[Floats] = []
    for prompt in prompts:
        keys = [Key(fit.seed, "train", str(prompt), number) for number in range(fit.draws)]
        drafts = engine.extend([engine.start(prompt)] * fit.draws, keys)
        bound = target.bind(prompt, Key(fit.seed, "bind"))
        log_w = bound.tilt(bound.rate(prompt, drafts))
        if log_w.max() == -math.inf:
            raise AllWeightsZero(f"the reward excludes all {fit.draws} pictures of {prompt!r:.60}: draw more, or exclude less")
        w = np.exp(log_w - log_w.max())
        weights.append(w / w.mean())
        states += engine.finals(drafts)
        conditions += [engine.model.condition(prompt)] * fit.draws
    ess = float(np.median([each.sum() ** 2 / (each**2).sum() for each in weights]))
    x, w = torch.tensor(np.array(states)).float(), torch.tensor(np.concatenate(weights)).float()
    return Lessons(x, conditions, w, ess, len(states) * len(engine.schedule.steps))


class _Learner:
    """One training run."""

    def __init__(
        self, module: Any, engine: ImageEngine, lessons: Lessons, target: Target, prompts: list[Prompt], fit: PictureFit
    ) -> None:
        assert isinstance(engine.model, Network)
        self.module, self.network, self.lessons, self.target, self.prompts, self.fit = (
            module, engine.model, lessons, target, prompts, fit,
        )  # fmt: skip
        self.chain: Schedule = engine.schedule
        self.random = torch.Generator().manual_seed(fit.seed)
        times, kept = engine.model.levels
        self.times, self.kept = torch.tensor(times), torch.tensor(kept).float()
        self.forwards = lessons.forwards

    def run(self, progress: Callable[[int, int, float], None] | None) -> list[float]:
        """Train, and return the loss of each step."""
        optimizer = torch.optim.AdamW(self.module.parameters(), lr=self.fit.learning_rate, weight_decay=0.0)
        losses = []
        for step in range(self.fit.steps):
            optimizer.param_groups[0]["lr"] = self.fit.learning_rate * (1 - step / self.fit.steps)
            loss = self._loss()
            if not torch.isfinite(loss):
                raise TargetError(f"the loss of step {step + 1} is {loss.item()}: give a lower learning_rate, or a larger beta")
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
            if progress is not None:
                progress(step + 1, self.fit.steps, losses[-1])
        return losses

    def _loss(self) -> Tensor:
        if self.fit.form == "resampled":
            return self._errors(torch.multinomial(self.lessons.weights, self.fit.batch, True, generator=self.random)).mean()
        rows = torch.randint(len(self.lessons.x), (self.fit.batch,), generator=self.random)
        if self.fit.form == "weighted":
            return (self.lessons.weights[rows] * self._errors(rows)).mean()
        half = max(2, self.fit.batch // 2)
        return self._reinforce(half) + self.target.beta * self._errors(rows[: self.fit.batch - half]).mean()

    def _errors(self, rows: Tensor) -> Tensor:
        """‖ε - ε_θ(x_t|c, t)‖² of pictures, at times drawn evenly: float32 [rows]."""
        x = self.lessons.x[rows]
        noise = torch.randn(x.shape, generator=self.random)
        drawn = torch.randint(len(self.times), (len(rows),), generator=self.random)
        kept = self.kept[drawn].reshape(-1, *[1] * (x.ndim - 1))
        seen = kept.sqrt() * x + (1 - kept).sqrt() * noise
        output = self._outputs(seen, self.times[drawn], [self.lessons.conditions[row] for row in rows.tolist()])
        _, estimate = self._expected(seen, output, kept.sqrt(), (1 - kept).sqrt())
        return (noise - estimate).square().flatten(1).sum(1)

    def _reinforce(self, count: int) -> Tensor:
        """-(r - mean r)·log p_θ(path), the mean over fresh paths of one prompt."""
        prompt = self.prompts[int(torch.randint(len(self.prompts), (1,), generator=self.random))]
        told = [self.network.condition(prompt)] * count
        x = self.chain.start * torch.randn(count, *self.network.shape, generator=self.random)
        parts: list[tuple[int, Tensor, Tensor]] = []
        with torch.no_grad():
            for place, step in enumerate(self.chain.steps):
                after = self._mean(x, place, told) + step.sigma * torch.randn(x.shape, generator=self.random)
                parts.append((place, x, after))
                x = after
        rewards = self._rewards(prompt, x)
        advantage = torch.tensor(rewards - rewards.mean()).float()
        total = torch.zeros(count)
        for place, before, after in parts:
            if (sigma := self.chain.steps[place].sigma) > 0:
                residual = (after - self._mean(before, place, told)) / sigma
                total = total - 0.5 * residual.square().flatten(1).sum(1)
        return -(advantage * total).mean()

    def _rewards(self, prompt: Prompt, x: Tensor) -> Floats:
        """Rewards of pictures that have no drafts of the engine's: their output is all that is read."""
        from exptilt.draft import Draft

        pictures = self.network.decode(x.double().numpy())
        drafts = [Draft(prompt, (number,), None, finish="stop", output=picture) for number, picture in enumerate(pictures)]
        found = self.target.rate(prompt, drafts)
        if not np.isfinite(found).all():
            raise TargetError("the reward excludes a picture (-inf), which has no gradient: give finite ones, or another form")
        return found

    def _mean(self, x: Tensor, place: int, told: list[Any]) -> Tensor:
        step = self.chain.steps[place]
        output = self._outputs(x * step.scale, torch.full((len(x),), step.time, dtype=torch.float64), told)
        clean, noise = self._expected(x * step.scale, output, step.alpha, step.s)
        if self.chain.clip is not None:
            clean = clean.clamp(-self.chain.clip, self.chain.clip)
        return step.a * x + step.b * clean + step.c * noise

    def _expected(self, seen: Tensor, output: Tensor, alpha: Any, s: Any) -> tuple[Tensor, Tensor]:
        """As `Schedule.expected`, without its cut, for tensors that gradients go through."""
        if self.chain.prediction == "epsilon":
            return (seen - s * output) / alpha, output
        if self.chain.prediction == "sample":
            return output, (seen - alpha * output) / s
        return alpha * seen - s * output, alpha * output + s * seen

    def _outputs(self, seen: Tensor, times: Tensor, told: list[Any]) -> Tensor:
        self.forwards += len(seen)
        where = self.module.device
        more = self.network.prompts.arguments(told, str(where), torch.float32)
        when = times.long() if torch.equal(times, times.round()) else times.float()
        return self.module(seen.to(where), when.to(where), **more, return_dict=False)[0][:, : self.network.shape[0]].cpu()
