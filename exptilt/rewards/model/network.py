"""Forward passes of a reward model, with the texts of all callers in shared batches of similar length.

A reading is a row of tokens and the positions at which the model is read. Batches are padded on the right, under an
attention mask, so in float32 a score does not depend on its neighbours except for rounding.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from exptilt.engines.scheduler import Scheduler
from exptilt.keys import Floats
from exptilt.usage import Work

WAITING = 4096  # at most as many readings wait for their batch at once
LINGER = 0.05  # seconds without anything to read after which the worker thread ends


@dataclass(eq=False)
class Reading:
    """Tokens to evaluate. places: where the model is read, none where it is read as a whole; segments: token types.

    logits: what was read, float64 [places, labels], or [1, labels] of the whole.
    """

    ids: Sequence[int]
    places: Sequence[int] = ()
    segments: Sequence[int] | None = None
    logits: Floats | None = None


Measure = Callable[[dict[str, Tensor], Sequence[Reading]], list[Tensor]]
"""The logits of each reading of a batch, given the model's inputs."""


class Network:
    """A model that serves many threads. measure: how it is read; batch_tokens: tokens of a batch, padding included.

    work: what it has done; only its own worker thread writes there.
    """

    def __init__(self, model: Any, measure: Measure, *, name: str, batch_tokens: int) -> None:
        self.work = Work()
        batch = _Batch(model, measure, self.work, batch_tokens)
        self._scheduler: Scheduler[Reading] = Scheduler(batch, max_rows=WAITING, name=name, linger=LINGER)

    def read(self, readings: Sequence[Reading]) -> list[Floats]:
        """The logits of each reading. Raises ModelError."""
        self._scheduler.run(readings)
        return [reading.logits for reading in readings if reading.logits is not None]


class _Batch:
    """The scheduler's batch: each step evaluates the longest readings that wait, as many as fit, and finishes them."""

    def __init__(self, model: Any, measure: Measure, work: Work, tokens: int) -> None:
        self._model, self._measure, self._work, self._tokens = model, measure, work, tokens
        self._waiting: list[Reading] = []
        self._padding = padding(model) or 0

    def join(self, rows: Sequence[Reading]) -> None:
        self._waiting = sorted([*self._waiting, *rows], key=lambda row: -len(row.ids))

    def step(self) -> Sequence[Reading]:
        count = max(1, self._tokens // len(self._waiting[0].ids))
        rows = self._waiting[:count]
        with torch.inference_mode():
            for row, logits in zip(rows, self._measure(self._inputs(rows), rows), strict=True):
                row.logits = logits.cpu().double().numpy()
        self._work.add(prompt=sum(len(row.ids) for row in rows), forwards=len(rows))
        self.leave(rows)
        return rows

    def leave(self, rows: Sequence[Reading]) -> None:
        gone = set(rows)
        self._waiting = [row for row in self._waiting if row not in gone]

    def _inputs(self, rows: Sequence[Reading]) -> dict[str, Tensor]:
        shape = (len(rows), max(len(row.ids) for row in rows))
        ids, mask, segments = np.full(shape, self._padding), np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        for number, row in enumerate(rows):
            ids[number, : len(row.ids)] = row.ids
            mask[number, : len(row.ids)] = 1
            segments[number, : len(row.ids)] = 0 if row.segments is None else row.segments
        arrays = {"input_ids": ids, "attention_mask": mask}
        if any(row.segments is not None for row in rows):
            arrays["token_type_ids"] = segments
        return {name: torch.from_numpy(array).to(self._model.device) for name, array in arrays.items()}


def padding(model: Any) -> int | None:
    """The model's padding token; None where it has none."""
    token = model.config.get_text_config().pad_token_id
    return None if token is None or token < 0 else token


def whole(model: Any) -> Measure:
    """Sequence classification: the model's own logits, one row for each reading."""
    return lambda inputs, rows: list(model(**inputs).logits[:, None])


def labels(model: Any) -> Measure:
    """Token classification: the logits at the positions of each reading."""

    def measure(inputs: dict[str, Tensor], rows: Sequence[Reading]) -> list[Tensor]:
        logits = model(**inputs).logits
        return [logits[number, list(row.places)] for number, row in enumerate(rows)]

    return measure


def words(model: Any, tokens: Sequence[int]) -> Measure:
    """A causal language model: the next-token logits of `tokens` at the positions of each reading.

    Where the model lets them be chosen, logits over the vocabulary are made only for positions that some reading wants.
    """
    chooses = "logits_to_keep" in inspect.signature(model.forward).parameters

    def measure(inputs: dict[str, Tensor], rows: Sequence[Reading]) -> list[Tensor]:
        wanted = sorted({place for row in rows for place in row.places})
        if not chooses:
            logits = model(**inputs, use_cache=False).logits[:, wanted]
        else:
            logits = model(**inputs, use_cache=False, logits_to_keep=torch.tensor(wanted, device=model.device)).logits
        column = {place: number for number, place in enumerate(wanted)}
        return [logits[number, [column[place] for place in row.places]][:, list(tokens)] for number, row in enumerate(rows)]

    return measure
