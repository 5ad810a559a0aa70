"""How a model is fitted, and the folder that a training run may be resumed in: it holds the settings of one run."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from exptilt.errors import TrainError
from exptilt.running.lines import decode, encode
from exptilt.running.settings import changes

RECORD = "training.json"
CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class Fit:
    """How a model is fitted: AdamW without weight decay, with a linear warm-up and a linear decay of the learning rate.

    epochs: how often each draft is seen.
    batch: drafts of a step.
    rows: drafts evaluated at once, a divisor of the batch; None for the whole batch.
    learning_rate: at its peak.
    warmup: the share of the steps until then.
    rank: of LoRA matrices on all linear layers, merged into the model at the end; None trains all weights.
    checkpoint: steps between checkpoints.
    seed: of the order of the drafts, and of new weights.
    device: "cpu" or "cuda"; None takes CUDA where there is one. One GPU is used: CUDA_VISIBLE_DEVICES says which.
    """

    epochs: int = 1
    batch: int = 32
    rows: int | None = None
    learning_rate: float = 1e-4
    warmup: float = 0.03
    rank: int | None = None
    checkpoint: int = 200
    seed: int = 0
    device: str | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "rows", "rank", "checkpoint"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and value >= 1):
                raise ValueError(f"{name}={value!r} must be a whole number of 1 or more")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate={self.learning_rate!r} must be a positive finite number")
        if not 0 <= self.warmup <= 1:
            raise ValueError(f"warmup={self.warmup!r} must be a share of the steps, from 0 to 1")
        if self.device not in (None, "cpu", "cuda"):
            raise ValueError(f'device={self.device!r} must be "cpu" or "cuda"; CUDA_VISIBLE_DEVICES says which GPU')
        if self.batch % (self.rows or self.batch):
            raise ValueError(f"rows={self.rows} must divide batch={self.batch}: a step adds up whole groups of rows")


class Folder:
    """The folder of a training run: its record, its checkpoints and, at the end, the model.

    settings: everything that decides the result, as JSON values. A folder that has a model or a checkpoint of others is refused.
    Raises TrainError.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.settings = decode(encode(settings))
        self.checkpoints = self.path / CHECKPOINTS
        found = self._read()
        self.summary: dict[str, Any] | None = found.get("summary")
        if found.get("settings") != self.settings:
            self._write({"settings": self.settings})

    def _read(self) -> dict[str, Any]:
        file = self.path / RECORD
        if not file.exists():
            if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
                raise TrainError(f"{self.path} is there already and holds no training run: give a folder that is new or empty")
            return {}
        try:
            found = decode(file.read_text())
            before = found["settings"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TrainError(f"{file} is not the record of a training run ({error}): give another folder") from error
        differences = changes(before, self.settings)
        if differences and ("summary" in found or any(self.checkpoints.glob("checkpoint-*"))):
            raise TrainError(
                f"{self.path} holds a training run with other settings (there → here): {differences}. Go on with the settings "
                "there, or give another folder."
            )
        return found

    def _write(self, record: Mapping[str, Any]) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            unfinished = self.path / f".{RECORD}"
            unfinished.write_text(encode(record) + "\n")
            unfinished.rename(self.path / RECORD)
        except OSError as error:
            raise TrainError(f"{self.path} cannot be written: {error.strerror}. Give another folder, or free space.") from error

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Record that the model is there; its checkpoints are not needed any more."""
        self._write({"settings": self.settings, "summary": summary})
        self.summary = dict(summary)
        shutil.rmtree(self.checkpoints, ignore_errors=True)


def fit_settings(fit: Fit) -> dict[str, Any]:
    """What of a fit decides the result; how it is cut into rows, saved and placed may change when it is resumed."""
    return {name: value for name, value in asdict(fit).items() if name not in ("rows", "checkpoint", "device")}
