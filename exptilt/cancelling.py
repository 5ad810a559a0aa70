"""Cancelling: how whoever started a run reaches the engine call under way, many frames deeper.

A run is cancelled by setting a `threading.Event`. While one of the run's engine or reward calls is under way, the flag is
known to everything that the call does in its thread (`current`); the scheduler of an engine notes it with the rows of the
call, so that they leave the batch after the step under way, and the call raises `Cancelled`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@runtime_checkable
class Flag(Protocol):
    """A flag that says whether a run is cancelled, such as a `threading.Event`."""

    def is_set(self) -> bool: ...


@dataclass(frozen=True)
class AnyOf:
    """Several flags as one."""

    flags: tuple[Flag, ...]

    def is_set(self) -> bool:
        return any(flag.is_set() for flag in self.flags)


@dataclass(frozen=True)
class Deadline:
    """A flag that is set by the time. end: in seconds of `time.monotonic`."""

    end: float

    def is_set(self) -> bool:
        return time.monotonic() >= self.end


_current: ContextVar[Flag | None] = ContextVar("exptilt_cancel", default=None)


def current() -> Flag | None:
    """The flag of the run that this thread is computing for; None outside of one."""
    return _current.get()


@contextmanager
def cancelled_by(flag: Flag) -> Iterator[None]:
    """Make `flag` the current one for what is called inside, in this thread."""
    token = _current.set(flag)
    try:
        yield
    finally:
        _current.reset(token)
