"""Cancelling: how whoever started a run reaches the engine call under way, many frames deeper.

A run is cancelled by setting a `threading.Event`. While one of the run's engine or reward calls is under way, the flag is
known to everything that the call does in its thread (`current`); the scheduler of an engine notes it with the rows of the
call, so that they leave the batch after the step under way, and the call raises `Cancelled`.

Ctrl-C raises KeyboardInterrupt wherever the main thread is, also just after it took a lock and before it knew so; the lock is
then held forever, and threads that need it never end. A loop that waits for threads has Ctrl-C told to it (`told_interrupts`),
and so has the main thread while it computes one prompt (`interruptible`).
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from exptilt.errors import Cancelled


@runtime_checkable
class Flag(Protocol):
    """A flag that says whether a run is cancelled, such as a `threading.Event`."""

    def is_set(self) -> bool: ...


@dataclass(frozen=True)
class AnyOf:
    """Several flags as one."""

    flags: tuple[Flag, ...]

    def is_set(self) -> bool:
        for flag in self.flags:  # noqa: SIM110  (asked at every step of a batch, and a generator takes longer than the answer)
            if flag.is_set():
                return True
        return False


def any_of(*flags: Flag | None) -> Flag:
    """The flags as one, those that are None left out; one alone is asked without a detour."""
    given = tuple(flag for flag in flags if flag is not None)
    return given[0] if len(given) == 1 else AnyOf(given)


@dataclass(frozen=True)
class Deadline:
    """A flag that is set by the time. end: in seconds of `time.monotonic`."""

    end: float

    def is_set(self) -> bool:
        return time.monotonic() >= self.end


GLANCE = 0.2
"""Seconds after which a thread that waits looks up: a signal just before the main thread falls asleep does not wake it."""

_RAISES = signal.default_int_handler  # it raises KeyboardInterrupt
_current: ContextVar[Flag | None] = ContextVar("exptilt_cancel", default=None)


def current() -> Flag | None:
    """The flag of the run that this thread is computing for; None outside of one."""
    return _current.get()


class cancelled_by:
    """Make `flag` the current one for what is called inside, in this thread.

    A class, since a generator takes longer than many a call inside.
    """

    def __init__(self, flag: Flag) -> None:
        self._flag = flag

    def __enter__(self) -> None:
        self._token = _current.set(self._flag)

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)


@contextmanager
def told_interrupts(tell: Callable[[], object]) -> Iterator[None]:
    """Within this block the first Ctrl-C calls `tell`, which must be safe in a signal handler; another one interrupts as always.

    Nothing changes in threads other than the main one, which no signal reaches, and where the program has a handler of its own.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is not _RAISES:
        yield
        return

    def handle(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, _RAISES)
        tell()

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is handle:
            signal.signal(signal.SIGINT, _RAISES)


@contextmanager
def interruptible() -> Iterator[Flag]:
    """Within this block Ctrl-C sets the flag, and KeyboardInterrupt is raised at its end, which a cancelled run comes to soon.

    Another Ctrl-C interrupts at once, as where a reward takes long.
    """
    pressed = threading.Event()
    with told_interrupts(pressed.set):
        try:
            yield pressed
        except Cancelled:
            if not pressed.is_set():
                raise
    if pressed.is_set():
        raise KeyboardInterrupt
