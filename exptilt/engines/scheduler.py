"""Continuous batching: an engine that serves one caller at a time serves many threads together.

Callers submit *rows* (responses to be decoded). A single worker thread owns the engine's batch and repeats: let
waiting rows join while there is room, decode one token for all rows, return finished rows. A call returns when its
own rows are done, whatever the others do. The worker exists only while there is work: a call starts it, it sleeps on a
condition when nothing is to be done, and ends after `linger` seconds of that, or with the program. A forked process starts a
worker of its own, unless the fork came in the middle of work: then calls there raise ModelError.

Which of the waiting rows join, and when, is decided in `exptilt.engines.admission`. Where a step was the last of several calls
and leaves the batch empty, their callers are about to come back: they are waited for, as long as the step took and PAUSE at most,
so that they go on together and not one after the other.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from exptilt.cancelling import current
from exptilt.engines.admission import Admission, Call, Latch, Row
from exptilt.engines.lifetimes import look_after
from exptilt.errors import Cancelled, ExptiltError, ModelError

Result = TypeVar("Result")

PAUSE = 0.005  # seconds
ROWS_MEMORY = 2**32  # bytes that the key-values of rows in flight may take, by default


class Batch(Protocol[Row]):
    """What the scheduler drives. Only the worker thread calls it. Rows are told apart by hash and equality."""

    def join(self, rows: Sequence[Row]) -> None:
        """Take rows in. Where it raises, the scheduler drops these rows with `leave`."""
        ...

    def step(self) -> Sequence[Row]:
        """Advance every row; return those that are finished, which have then left the batch."""
        ...

    def leave(self, rows: Sequence[Row]) -> None:
        """Drop rows that nobody waits for any more; rows that are not in the batch are ignored."""
        ...


class _Errand:
    """A function that the worker thread calls between two steps."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function
        self.result: Any = None
        self.error: BaseException | None = None
        self.done = Latch()


Wanted = TypeVar("Wanted", bound=Call[Any] | _Errand)


class Scheduler(Generic[Row]):
    """Runs the rows of all callers through one batch.

    batch: the engine's side.
    max_rows: how many rows decode at once; the rest wait.
    max_memory: the most that the rows of the batch may hold together.
    size: the most that a row will ever hold, in the same unit, known before it joins. The two go together.
    name: for errors and the thread.

    Errors of the engine reach the callers whose rows were concerned, as a ModelError; the others go on. An error in a step
    concerns all rows in the batch. Where the rows of several callers fail to join together, those of each join alone, so
    that only those at fault fail.
    """

    def __init__(
        self,
        batch: Batch[Row],
        *,
        max_rows: int,
        max_memory: int | None = None,
        size: Callable[[Row], int] | None = None,
        name: str = "engine",
        linger: float = 1.0,
        pause: float = PAUSE,
    ) -> None:
        if (max_memory is None) != (size is None):
            raise ValueError(f"max_memory={max_memory} and size={size}: give both or neither, a cap needs a measure")
        self.batch = batch
        self.name = name
        self.linger, self.pause = linger, pause
        self._size = size
        self._lock = threading.RLock()  # guards everything below
        self._changed = threading.Condition(self._lock)
        self.admission: Admission[Row] = Admission(max_rows, max_memory)
        self._errands: deque[_Errand] = deque()
        self._worker: threading.Thread | None = None
        self._inside = False  # whether the worker is in a function of the batch or of a caller
        self._closed: str | None = None  # why it is closed
        self._ended = False  # by the exit of the program
        look_after(self)

    # ------------------------------------------------------------------------------------------ the callers' side

    def run(self, rows: Sequence[Row]) -> None:
        """Decode rows to their ends; returns when the last of them is done. Raises ModelError.

        Where the run that this thread computes for is cancelled meanwhile (`exptilt.cancelling`), the rows leave the batch
        after the step under way, and this raises Cancelled.
        """
        if not rows:
            return
        call = Call({row: self._size(row) if self._size else 0 for row in rows}, current())
        self._await(call, self.admission.queue)

    def call(self, function: Callable[[], Result]) -> Result:
        """Run a function of the engine between two steps and return its result. Raises ModelError.

        Functions and steps take turns, so neither holds up the other for more than one of its kind.
        """
        errand = _Errand(function)
        self._await(errand, self._errands)
        return errand.result

    def close(self) -> None:
        """Stop: calls under way and calls to come raise ModelError. Returns when the worker has ended."""
        with self._lock:
            self._closed = "is closed"
            error = ModelError(f"{self.name} was closed while a call was under way")
            self._fail(self.admission.calls(), error)
            for errand in self._errands:
                errand.error = error
                errand.done.set()
            self._errands.clear()
            self._changed.notify_all()
            worker = self._worker
        if worker is not None:
            worker.join()

    def end(self, seconds: float) -> None:
        """Stop because the program does: wait up to `seconds` for the step under way. Calls of daemon threads never return."""
        worker = self._worker
        if worker is None or not worker.is_alive():  # a forked process has no worker, and its locks may be held forever
            return
        with self._lock:
            self._closed, self._ended = "is closed", True
            self._changed.notify_all()
        worker.join(seconds)

    def _await(self, wanted: Wanted, queue: deque[Wanted]) -> None:
        """Have the worker do what is wanted. Where the caller is interrupted, it is dropped, and rows make room for others."""
        try:
            with self._lock:
                self._wake()
                queue.append(wanted)
            wanted.done.wait()
        except BaseException:
            with self._lock:
                self._drop(wanted)
            raise
        error = wanted.error  # raised as a fresh exception: the same one must not travel through several threads
        if isinstance(error, ExptiltError):
            raise type(error)(*error.args) from error
        if error is not None:
            raise ModelError(f"{self.name} failed with {type(error).__name__}: {error}") from error

    def _wake(self) -> None:
        """Make sure that a worker runs and is awake; it sees new work when the lock is released."""
        if self._closed:
            raise ModelError(f"{self.name} {self._closed}: load the engine again")
        if self._worker is None:
            worker = threading.Thread(target=self._work, name=f"exptilt {self.name}", daemon=True)
            worker.start()  # where Ctrl-C comes in here, a thread may run that is not the worker: it ends at once
            self._worker = worker
        self._changed.notify_all()

    # ------------------------------------------------------------------------------------------- the worker's side

    def _work(self) -> None:
        finished: Sequence[Row] = ()
        took = 0.0
        while (turn := self._next_turn(finished, took)) is not None:
            dropped, errand, joining = turn
            if errand is not None:
                self._run(errand)
            if dropped:
                self._leave(dropped)
            if joining:
                self._join(joining)
            begun = time.monotonic()
            finished = self._step() if self.admission.owner else ()
            took = time.monotonic() - begun

    def _next_turn(self, finished: Sequence[Row], took: float) -> tuple[list[Row], _Errand | None, list[Row]] | None:
        """Wait for work; returns rows to drop, a function to run and rows to take in, or None to end.

        finished: rows that have left the batch in the last step.
        took: the seconds of that step.
        """
        with self._lock:
            if self._worker is not threading.current_thread():
                return None
            self._gather(self.admission.finish(finished), min(took, self.pause))
            while self._idle():
                if self._closed or (not self._changed.wait(self.linger) and self._idle()):
                    self._worker = None
                    return None
            self._drop_cancelled()
            errand = self._errands.popleft() if self._errands else None
            return self.admission.take_dropped(), errand, self.admission.admit()

    def _gather(self, calls: int, seconds: float) -> None:
        """Wait for the callers of so many calls that are done, where several left the batch empty together."""
        until, queue = time.monotonic() + seconds, self.admission.queue
        all_back = len(queue) + calls  # the others came during the step
        while calls > 1 and not self.admission.owner and len(queue) < all_back and not (self._errands or self._closed):
            left = until - time.monotonic()
            if left <= 0 or not self._changed.wait(left):
                return

    def _idle(self) -> bool:
        return self._ended or (self.admission.idle() and not self._errands)

    def _join(self, rows: Sequence[Row]) -> None:
        """Take rows in, all together or, where that fails, those of each caller alone."""
        by_call: dict[Call[Row], list[Row]] = {}
        with self._lock:
            for row in rows:
                if row in self.admission.owner:  # its caller has not been interrupted meanwhile
                    by_call.setdefault(self.admission.owner[row], []).append(row)
        if not by_call:
            return
        try:
            self._watched(lambda: self.batch.join([row for some in by_call.values() for row in some]))
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits for these rows
            if len(by_call) == 1:
                with self._lock:
                    self._fail(by_call, error)
                return
            self._leave(rows)
            for some in by_call.values():
                self._join(some)

    def _run(self, errand: _Errand) -> None:
        try:
            errand.result = self._watched(errand.function)
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits for it
            errand.error = error
        errand.done.set()

    def _step(self) -> Sequence[Row]:
        """Advance the batch; returns the rows that are finished. Where it raises, the callers of all its rows get the error."""
        try:
            return self._watched(self.batch.step)
        except BaseException as error:  # noqa: BLE001 - raised again in the threads that wait for these rows
            self._fail_all(error)
            return ()

    def _leave(self, rows: Sequence[Row]) -> None:
        """Drop rows; where that raises, the callers of all rows in the batch get the error."""
        try:
            self._watched(lambda: self.batch.leave(rows))
        except BaseException as error:  # noqa: BLE001 - raised again in the threads that wait for these rows
            self._fail_all(error)

    def _watched(self, function: Callable[[], Result]) -> Result:
        """The result of a function of the batch or of a caller: a fork must know when the worker is inside one."""
        self._inside = True
        try:
            return function()
        finally:
            self._inside = False

    def _fail_all(self, error: BaseException) -> None:
        with self._lock:
            self._fail(self.admission.owner.values(), error)

    def _drop_cancelled(self) -> None:
        """End the calls whose runs were cancelled."""
        if cancelled := self.admission.cancelled():
            self._fail(cancelled, Cancelled(f"the run was cancelled while {self.name} was drawing: its rows were given up"))

    def _fail(self, calls: Iterable[Call[Row]], error: BaseException) -> None:
        for call in set(calls):
            self._drop(call)
            call.error = error
            call.done.set()

    def _drop(self, wanted: Call[Row] | _Errand) -> None:
        """Forget what waits in a queue or is under way."""
        if isinstance(wanted, Call):
            self.admission.drop(wanted)
        elif wanted in self._errands:
            self._errands.remove(wanted)
        self._changed.notify_all()

    def begin_in_child(self) -> None:
        """Begin anew in a forked process, where the worker does not live on and locks may be held forever.

        Calls of the parent's other threads are not made here. What was being changed at that moment is of no use: closed.
        """
        if self._inside or self.admission.owner:
            self._closed = self._closed or "was at work when this process was forked from another"
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self.admission.clear()
        self._errands.clear()
        self._inside, self._worker = False, None
