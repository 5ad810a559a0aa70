"""One training run by transformers' Trainer: rows of tokens, a loss of our own, checkpoints from which a run goes on exactly.

A row is a text with some numbers for each of its tokens (`Row.labels`), which the loss reads beside the model's output: the
Trainer carries them as labels. The loss of a row is a sum over its tokens, and that of a step the mean over its rows.

A checkpoint counts once a mark says that it is whole: one that a full disk or a kill cut short is dropped when the run goes on,
and the one before it is used. A loss or a weight that is not finite ends the run before it is saved.
"""

from __future__ import annotations

import math
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor
from transformers.trainer_callback import PrinterCallback

from exptilt.engines.checkpoints import device_or_default
from exptilt.errors import TrainError
from exptilt.keys import Floats
from exptilt.train.settings import Fit, Folder

WHOLE = "whole"  # a file that a checkpoint has once it is complete
Loss = Callable[[Any, Tensor], Tensor]
"""Takes the model's output and labels float32 [rows, tokens, numbers]; returns the sum over all tokens of all rows."""

Progress = Callable[[int, int, float], None]
"""Called after each step: its number, how many there are, and the mean loss since the last call."""


@dataclass(frozen=True, eq=False)
class Row:
    """A text with numbers for the loss.

    ids: token ids.
    labels: float [tokens, numbers]; zeros where there is nothing to learn.
    """

    ids: Sequence[int]
    labels: Floats


@dataclass(frozen=True)
class Fitted:
    """What a run of the Trainer came to.

    tokens: all that were read, each as often as it was.
    loss: the mean of the last steps.
    """

    steps: int
    tokens: int
    loss: float


@dataclass(frozen=True)
class Padding:
    """Makes a batch of rows: padded on the right, where causal models do not look."""

    pad: int

    def __call__(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        width = max(len(row.ids) for row in rows)
        ids = torch.full((len(rows), width), self.pad)
        mask = torch.zeros((len(rows), width), dtype=torch.int64)
        labels = torch.zeros((len(rows), width, rows[0].labels.shape[1]))
        for i, row in enumerate(rows):
            ids[i, : len(row.ids)], mask[i, : len(row.ids)] = torch.tensor(row.ids), 1
            labels[i, : len(row.ids)] = torch.from_numpy(np.asarray(row.labels, dtype=np.float32))
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def fit_rows(
    model: Any, rows: Sequence[Row], loss: Loss, fit: Fit, folder: Folder, pad: int = 0, progress: Progress | None = None
) -> Fitted:
    """Train a model, in place, from the last whole checkpoint in the folder where there is one.

    Raises TrainError where the loss or a weight is not finite, or the folder cannot be written.
    """
    resume = last_whole(folder.checkpoints)
    steps = fit.epochs * -(-len(rows) // fit.batch)
    watch = Watcher(progress, steps, fit, folder)

    def mean(output: Any, labels: Tensor, num_items_in_batch: object = None) -> Tensor:
        found = loss(output, labels) / min(fit.batch, len(rows))
        if not torch.isfinite(found):
            raise not_finite(found.item(), watch.step + 1, steps, fit, folder)
        return found

    trainer = transformers.Trainer(
        model=model,
        args=arguments(fit, folder, steps),
        train_dataset=rows,  # pyright: ignore[reportArgumentType]  (any sequence will do)
        data_collator=Padding(pad),
        compute_loss_func=mean,
        callbacks=[watch],
    )
    trainer.remove_callback(PrinterCallback)
    with writing(folder):
        trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    check_finite(model, f"after {steps} steps", fit, folder)
    return Fitted(steps, fit.epochs * sum(len(row.ids) for row in rows), watch.loss)


def arguments(fit: Fit, folder: Folder, steps: int, kind: type[Any] = transformers.TrainingArguments, **more: Any) -> Any:
    """The Trainer's arguments: its own defaults differ between releases, so all that matter are given."""
    rows = fit.rows or fit.batch
    given: dict[str, Any] = {
        "output_dir": str(folder.checkpoints),
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": fit.batch // rows,
        "num_train_epochs": fit.epochs,
        "learning_rate": fit.learning_rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": math.ceil(fit.warmup * steps),
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "seed": fit.seed,
        "data_seed": fit.seed,
        "save_strategy": "steps",
        "save_steps": fit.checkpoint,
        "save_total_limit": 2,
        "logging_steps": 10,
        "logging_nan_inf_filter": False,
        "use_cpu": device_or_default(fit.device) == "cpu",
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
        "bf16": False,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TRL gives arguments names that transformers is giving up
        made = kind(**{**given, **more})
    if made.n_gpu > 1:
        made._n_gpu = 1  # on several the Trainer would copy the model, and a step would have more rows than it is told
    return made


class Watcher(transformers.TrainerCallback):
    """Marks whole checkpoints, counts steps, and tells the progress."""

    def __init__(self, progress: Progress | None, steps: int, fit: Fit, folder: Folder) -> None:
        self.progress = progress
        self.fit = fit
        self.steps = steps
        self.folder = folder
        self.step = 0
        self.loss = math.nan

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.step = state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.step = state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if logs and "loss" in logs:
            self.loss = float(logs["loss"])
            if not math.isfinite(self.loss):
                raise not_finite(self.loss, state.global_step, self.steps, self.fit, self.folder)
            if self.progress is not None:
                self.progress(state.global_step, self.steps, self.loss)

    def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        check_finite(model, f"at step {state.global_step} of {self.steps}", self.fit, self.folder)
        (Path(args.output_dir) / f"checkpoint-{state.global_step}" / WHOLE).touch()


def last_whole(folder: Path) -> Path | None:
    """The last checkpoint that is whole; those that are not are removed."""
    found = {int(path.name.rpartition("-")[2]): path for path in folder.glob("checkpoint-*") if path.is_dir()}
    whole = {step: path for step, path in found.items() if (path / WHOLE).exists()}
    for step in found.keys() - whole.keys():
        shutil.rmtree(found[step])
    return whole[max(whole)] if whole else None


@contextmanager
def writing(folder: Folder) -> Iterator[None]:
    """Turn what writers of files raise into one TrainError."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "PytorchStreamWriter" not in str(error) and "inline_container" not in str(error):
            raise
        raise TrainError(
            f"{folder.path} cannot be written ({' '.join(str(error).split())[:200]}). The checkpoints before are whole: free "
            "space or fix the permissions, then run the same again, and it goes on from the last of them."
        ) from error


def check_finite(model: Any, when: str, fit: Fit, folder: Folder) -> None:
    """Refuse a model with a weight that is not finite. Raises TrainError."""
    for name, weight in model.named_parameters():
        if weight.requires_grad and not torch.isfinite(weight).all():
            raise TrainError(f"the weight {name} is not finite {when}: {_cure(fit, folder)}")


def not_finite(loss: float, step: int, steps: int, fit: Fit, folder: Folder) -> TrainError:
    """The error of a loss that is not a number."""
    return TrainError(f"the loss is {loss} at step {step} of {steps}: {_cure(fit, folder)}")


def _cure(fit: Fit, folder: Folder) -> str:
    return (
        f"the learning rate {fit.learning_rate:g} may be too high. Take a lower one with another folder; the checkpoints in "
        f"{folder.path} are from before."
    )
