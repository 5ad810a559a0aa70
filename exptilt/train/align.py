"""`align`: a model fitted to π by weighted maximum likelihood, without reinforcement learning.

It maximises the mean over prompts of Σ_i ŵ_i log π_θ(y_i|x), with the weights of `exptilt.train.lessons` and log-probabilities
summed over the tokens of a draft, its end included, at the temperature that the drafts were drawn at. No reward is evaluated, and
no gradient goes through sampling. Jiao, Chen and Li, 2509.04372, section 2.3.

The result is a folder that `exptilt.load("hf:FOLDER", ...)` reads like any model. Use it at the same temperature and token cap,
and without top_p or top_k: where p was truncated, the model has learned the truncation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from exptilt.engines.checkpoints import digest, quiet
from exptilt.errors import TrainError
from exptilt.train.fitting import Loss, Progress, Row, fit_rows, writing
from exptilt.train.lessons import Form, Lessons, Tilt, read_lessons
from exptilt.train.models import Student, read_student
from exptilt.train.settings import Fit, Folder, fit_settings


@dataclass(frozen=True)
class Aligned:
    """A model that was aligned. Its name for `exptilt.load` is `model`.

    prompts, drafts: that it learned from. flat: prompts left out, which had nothing to teach. failed: prompts without a result.
    ess: the median effective sample size of a prompt's weights.
    steps, tokens: of training, a token counted as often as it was read.
    loss: the mean of -Σ ŵ log π_θ over the last steps, in nats for a prompt.
    """

    folder: Path
    prompts: int
    drafts: int
    flat: int
    failed: int
    ess: float
    steps: int
    tokens: int
    loss: float

    @property
    def model(self) -> str:
        return f"hf:{self.folder}"


def align(
    model: str,
    stores: Sequence[str | Path],
    out: str | Path,
    *,
    form: Form | None = None,
    fit: Fit | None = None,
    progress: Progress | None = None,
) -> Aligned:
    """Fit a model to the target of some results files.

    model: the one that drew the drafts, or whose distribution they are weighted for.
    out: the folder of the result. A run that was stopped goes on from its last checkpoint; one that is finished is not repeated.
    form: `Tilt()` for π ∝ p·exp(r/β), or `Power(length, beta)`.
    Raises StoreError or TrainError, also where the loss is not finite or the folder cannot be written.
    """
    form, fit = form or Tilt(), fit or Fit()
    lessons = read_lessons(stores, form)
    student = read_student(model, [lessons.engine, *lessons.proposals], fit.device)
    settings = {"trained": "align", "model": digest(student.model), **form.settings, "fit": fit_settings(fit)}
    folder = Folder(out, {**settings, "lessons": _fingerprint(lessons)})
    if folder.summary is None:
        rows = weighted_rows(student, lessons)
        network = student.model if fit.rank is None else low_rank(student.model, fit)
        fitted = fit_rows(network, rows, likelihood(student.sampling.temperature), fit, folder, student.pad, progress)
        with writing(folder), quiet():
            whole = network if fit.rank is None else network.merge_and_unload()
            whole.save_pretrained(folder.path)
            student.tokenizer.save_pretrained(folder.path)
        folder.finish({**_told(lessons), **asdict(fitted)})
    assert folder.summary is not None
    return Aligned(folder.path, **folder.summary)


def _told(lessons: Lessons) -> dict[str, Any]:
    ess = float(np.median(lessons.ess))
    counts = {"prompts": len(lessons.items), "drafts": lessons.drafts, "flat": lessons.flat, "failed": lessons.failed}
    return {**counts, "ess": ess}


def _fingerprint(lessons: Lessons) -> Mapping[str, Any]:
    """What tells one set of lessons from another."""
    first = [float(lesson.weights @ np.arange(1, len(lesson.weights) + 1)) for lesson in lessons.items]
    return {"prompts": len(lessons.items), "drafts": lessons.drafts, "weights": float(np.round(np.sum(first), 9))}


def weighted_rows(student: Student, lessons: Lessons) -> list[Row]:
    """A row for each draft, with the token that comes after each of its tokens, and the weight of that token's log-probability.

    Weights are scaled so that the mean over drafts is the mean over prompts.
    """
    scale = lessons.drafts / len(lessons.items)
    rows = []
    for lesson in lessons.items:
        prompt = student.encode(lesson.prompt)
        if not prompt:
            raise TrainError(
                f"the prompt {lesson.prompt!r:.60} has no tokens, so nothing comes before the first token of a response"
            )
        student.check(lesson.drafts)
        for draft, weight in zip(lesson.drafts, lesson.weights, strict=True):
            rows.append(draft_row(prompt, draft.tokens, [[weight * scale]] * len(draft.tokens)))
    return rows


def draft_row(prompt: Sequence[int], tokens: Sequence[int], numbers: Sequence[Sequence[float]]) -> Row:
    """The row of a response. Its labels are, at each token, the one that comes next, and the numbers of that one."""
    ids = [*prompt, *tokens[:-1]]
    labels = np.zeros((len(ids), 1 + len(numbers[0])))
    labels[len(prompt) - 1 :, 0] = tokens
    labels[len(prompt) - 1 :, 1:] = numbers
    return Row(ids, labels)


def likelihood(temperature: float) -> Loss:
    """-Σ ŵ log π_θ over all tokens of a batch, at a temperature."""

    def loss(output: Any, labels: Tensor) -> Tensor:
        weights = labels[..., 1]
        held = weights > 0
        logits = output.logits[held].float() / temperature
        losses = nn.functional.cross_entropy(logits, labels[..., 0][held].long(), reduction="none")
        return torch.sum(weights[held] * losses)

    return loss


def low_rank(model: Any, fit: Fit) -> Any:
    """The model with LoRA matrices on all its linear layers, the only weights that are trained."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(fit.seed)
    assert fit.rank is not None
    config = LoraConfig(r=fit.rank, lora_alpha=2 * fit.rank, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, config)
