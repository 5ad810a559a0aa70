"""What becomes of the threads of engines at the end of the program, which waits for them, and in a forked process."""

from __future__ import annotations

import atexit
import os
import sys
import time
from typing import Protocol
from weakref import WeakValueDictionary

EXIT = 10.0  # seconds that the exit of the program waits for steps under way


class Working(Protocol):
    """Something with a thread of its own."""

    def end(self, seconds: float) -> None:
        """Stop because the program does: wait up to `seconds` for what is under way."""
        ...

    def begin_in_child(self) -> None:
        """Begin anew in a forked process, where the thread does not live on."""
        ...


_working: WeakValueDictionary[int, Working] = WeakValueDictionary()


def look_after(worker: Working) -> None:
    """Tell `worker` of the exit of the program and of forks, as long as it lives."""
    _working[id(worker)] = worker


@atexit.register
def _end_all() -> None:
    """A thread that the interpreter stops on its way out while it is inside native code, as of torch, aborts the process."""
    deadline = time.monotonic() + EXIT
    for reference in _working.valuerefs():
        if (worker := reference()) is not None:
            worker.end(max(0.0, deadline - time.monotonic()))


def _begin_all_in_child() -> None:
    for reference in _working.valuerefs():
        if (worker := reference()) is not None:
            worker.begin_in_child()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_begin_all_in_child)
