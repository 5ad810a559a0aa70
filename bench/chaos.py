"""What goes wrong in the soak (`bench/soak.py`), and the book of who must hear of it and who did."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np

from exptilt.engines.scheduler import Scheduler
from exptilt.errors import ModelError

MOST_HELD = 12_000  # tokens in flight: less than `max_rows` rows may want, so that rows wait for memory too
MOST_JOBS = 10**6
KEPT = 7  # every so many-th text is kept for comparison; no multiple of the number of samplers


class Injected(Exception):
    """A failure made on purpose; its message is its number."""


class Abandoned(BaseException):
    """A caller gives up, as by Ctrl-C."""


@dataclass(frozen=True)
class Rates:
    """How often things go wrong: once in so many steps, joins of a row, scorings; seconds until a caller gives up."""

    steps: int = 1500
    joins: int = 800
    scorings: int = 30
    patience: float = 6.0


@dataclass
class Log:
    """What happened. texts: of some answers. endings: how often each job came back. heard: for each failure, the jobs that
    heard of it; concerned: those that had to."""

    texts: dict[int, str] = field(default_factory=dict)
    answered: int = 0
    endings: np.ndarray = field(default_factory=lambda: np.zeros(MOST_JOBS, np.int8))
    abandoned: set[int] = field(default_factory=set)
    concerned: dict[int, set[int]] = field(default_factory=dict)
    heard: dict[int, set[int]] = field(default_factory=dict)
    kinds: Counter[str] = field(default_factory=Counter)
    strange: list[str] = field(default_factory=list)
    most_held: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fail(self, kind: str, jobs: set[int]) -> Injected:
        """A new failure that concerns these jobs."""
        with self.lock:
            number = len(self.concerned)
            self.concerned[number] = jobs
            self.heard[number] = set()
            self.kinds[kind] += 1
        return Injected(f"failure {number}")

    def end(self, job: int, *, text: str | None = None, error: BaseException | None = None) -> None:
        """A job came back, with a text or an error."""
        with self.lock:
            self.endings[job] += 1
            if text is not None:
                self.answered += 1
                if job % KEPT == 0:
                    self.texts[job] = text
            elif isinstance(error, Abandoned):
                self.abandoned.add(job)
            elif isinstance(error, ModelError) and "Injected: failure " in str(error):
                self.heard[int(str(error).rsplit(" ", 1)[1])].add(job)
            else:
                self.strange.append(f"job {job}: {type(error).__name__}: {error}")


class Chaos:
    """Stands between an engine and its scheduler, on both sides: knows whose rows are in the batch, and lets some fail.

    To the engine it is the scheduler (`run`, `call`, `close`), to the scheduler the batch (`join`, `step`, `leave`).
    """

    def __init__(self, batch: Any, *, max_rows: int, log: Log, rates: Rates) -> None:
        self.inner = batch
        self.scheduler: Scheduler[Any] = Scheduler(self, max_rows=max_rows, max_memory=MOST_HELD, size=size, name="soak")
        self.log, self.rates = log, rates
        self.random = np.random.default_rng(0)  # of the worker thread alone
        self.asked = count(1)
        self.job = threading.local()
        self.owner: dict[Any, int] = {}
        self.rows: set[Any] = set()
        self.bad: set[Any] = set()

    def run(self, rows: Sequence[Any]) -> None:
        self.owner.update(dict.fromkeys(rows, self.job.number))
        try:
            self.scheduler.run(rows)
        finally:
            self.bad.difference_update(rows)
            for row in rows:
                del self.owner[row]

    def call(self, function: Callable[[], Any]) -> Any:
        """Every n-th scoring raises."""
        if next(self.asked) % self.rates.scorings:
            return self.scheduler.call(function)
        error = self.log.fail("scoring", {self.job.number})

        def fail() -> None:
            raise error

        return self.scheduler.call(fail)

    def close(self) -> None:
        self.scheduler.close()

    def join(self, rows: Sequence[Any]) -> None:
        for row in rows:
            if row not in self.bad and self.random.random() < 1 / self.rates.joins:
                self.bad.add(row)
        if culprits := [row for row in rows if row in self.bad]:
            if len(self._jobs(rows)) > 1:
                raise Injected("rows of several callers: nobody is to hear of this")
            raise self.log.fail("join", self._jobs(culprits))
        self.rows.update(rows)
        self.log.most_held = max(self.log.most_held, sum(map(size, self.rows)))
        self.inner.join(rows)

    def step(self) -> Sequence[Any]:
        """Fails before the inner step, or after it: then rows that were finished are lost, and their callers must hear."""
        draw = self.random.random() * self.rates.steps
        concerned = self._jobs(self.rows)
        if draw < 0.5:
            raise self.log.fail("step", concerned)
        finished = self.inner.step()
        self.rows.difference_update(finished)
        if draw < 1:
            raise self.log.fail("step", concerned)
        return finished

    def leave(self, rows: Sequence[Any]) -> None:
        self.inner.leave(rows)
        self.rows.difference_update(rows)

    def _jobs(self, rows: Iterable[Any]) -> set[int]:
        """The jobs that wait for these rows; rows that were just given up have none."""
        return {job for row in rows if (job := self.owner.get(row)) is not None}


def size(row: Any) -> int:
    """Tokens that a row of the hf engine holds at most."""
    return len(row.context.tokens) + row.room
