"""A pool of threads that never keeps a program from ending: what still waits for a server then is left behind.

The threads of `concurrent.futures` are joined when the interpreter exits, so that Ctrl-C would wait for the slowest server.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

from exptilt.errors import ModelError

T = TypeVar("T")
_Jobs = SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]


class Daemons:
    """Up to `count` daemon threads, begun as they are needed. They end with `close`, or once the pool is not used any more."""

    def __init__(self, count: int, name: str) -> None:
        self._name = name
        self._jobs: _Jobs = SimpleQueue()
        self._left = count  # threads that may yet begin
        self._lock = threading.Lock()
        self._end = weakref.finalize(self, self._jobs.put, None)

    def close(self) -> None:
        """Take no more work. What was submitted is done."""
        with self._lock:
            self._end()

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Have a thread do the work. A future that is cancelled before its work begins never begins it.

        Raises ModelError where the pool is closed: nobody would ever begin it.
        """
        future: Future[T] = Future()
        with self._lock:
            if not self._end.alive:
                raise ModelError("the engine is closed: load it again")
            if self._left:
                threading.Thread(target=_serve, args=(self._jobs,), name=self._name, daemon=True).start()
                self._left -= 1  # not before: where Ctrl-C keeps a thread from its start, another takes its place
            self._jobs.put((future, work))
        return future


def _serve(jobs: _Jobs) -> None:
    while (job := jobs.get()) is not None:
        future, work = job
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(work())
            except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits for it
                future.set_exception(error)
        del job, future, work  # a thread that waits for its next job holds nothing of the last
    jobs.put(None)  # for the others
