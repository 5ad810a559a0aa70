"""How far a run is: on one line of a terminal, in a notebook's output, or not at all where nobody watches.

`pace` is what every bar says; the command line draws one of its own around it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TextIO

from exptilt.running.result import Failure, Outcome

_WIDTH = 28  # characters of the bar
_OFTEN = 0.1  # seconds between two drawings

Progress = Callable[[int, int, Outcome], None]
"""Called for each prompt that finishes: how many are done (those of the results file included), of how many, and the outcome."""


@dataclass
class Pace:
    """How fast outcomes come. Those that the results file already held took no time, so they do not count.

    unit: what is counted, such as "prompt".
    """

    unit: str = "prompt"
    began: float = field(default_factory=time.monotonic)
    heard: int = 0
    failed: int = 0

    def hear(self, done: int, total: int, outcome: Outcome) -> str:
        """Count an outcome: rate, time left and failures, in words."""
        self.heard, self.failed = self.heard + 1, self.failed + isinstance(outcome, Failure)
        return self.words(total - done) + (f" · {self.failed} failed" if self.failed else "")

    def words(self, missing: int) -> str:
        """Rate and time left, or the time that it took."""
        seconds = time.monotonic() - self.began
        rate = self.heard / max(seconds, 1e-9)
        speed = f"{rate:.1f} {self.unit}s/s" if rate >= 1 else f"{1 / rate:.1f} s/{self.unit}"
        return f"{speed} · {clock(missing / rate)} left" if missing else f"{speed} · {clock(seconds)}"


def clock(seconds: float) -> str:
    """A time as minutes and seconds, with hours where there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Surface(Protocol):
    """Where a bar is drawn: each line replaces the one before."""

    def draw(self, line: str) -> None: ...

    def end(self) -> None:
        """Leave the last line as it is."""
        ...


@dataclass
class Terminal:
    """One line of a terminal."""

    stream: TextIO

    def draw(self, line: str) -> None:
        room = _columns(self.stream) - 1
        self.stream.write(f"\r\x1b[2K{line[:room]}")
        self.stream.flush()

    def end(self) -> None:
        self.stream.write("\n")
        self.stream.flush()


@dataclass
class Notebook:
    """The output of a notebook's cell. display: IPython's, whose handle replaces what it showed before."""

    display: Callable[..., Any]
    handle: Any = None

    def draw(self, line: str) -> None:
        shown = {"text/plain": line}
        if self.handle is None:
            self.handle = self.display(shown, raw=True, display_id=True)
        else:
            self.handle.update(shown, raw=True)

    def end(self) -> None:
        """The output stays."""


@contextmanager
def watched(progress: Progress | bool | None, total: int, done: int) -> Iterator[Progress | None]:
    """What a run calls for each outcome: the caller's own function, or a bar that lasts as long as the block.

    progress: a function; True for a bar wherever it can be drawn, else for lines on standard error; False for none; None for a
        bar on a terminal or in a notebook.
    done: how many of `total` prompts are known before the run.
    """
    if callable(progress):
        yield progress
        return
    surface = None if progress is False else surface_here(sys.stderr)
    if surface is None and progress is True:
        surface = Lines(sys.stderr)
    if surface is None or done >= total:
        yield None
        return
    bar = _Bar(surface, total)
    bar.show(done, "starting")
    try:
        yield bar.hear
    finally:
        bar.last()


def surface_here(stream: TextIO | None) -> Surface | None:
    """Where somebody watches: the cell of a notebook, or the terminal that a stream leads to; None where nobody does."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None and getattr(shell, "kernel", None) is not None:
        from IPython.display import display  # type: ignore[import-not-found]

        return Notebook(display)
    seen = stream is not None and not stream.closed and stream.isatty() and os.environ.get("TERM") != "dumb"
    return Terminal(stream) if stream is not None and seen else None


@dataclass
class Lines:
    """A stream that is no terminal: a line now and then.

    often: seconds between two lines.
    """

    stream: TextIO
    often: float = 30.0
    spoken: float = field(default_factory=time.monotonic)

    def draw(self, line: str) -> None:
        if time.monotonic() - self.spoken >= self.often:
            self.spoken = time.monotonic()
            self.stream.write(f"{line}\n")
            self.stream.flush()

    def end(self) -> None:
        """A line stays."""


@dataclass
class _Bar:
    """The bar of one run. drawn: when it was last drawn. line: what it says now."""

    surface: Surface
    total: int
    pace: Pace = field(default_factory=Pace)
    drawn: float = 0.0
    line: str = ""

    def hear(self, done: int, total: int, outcome: Outcome) -> None:
        self.show(done, self.pace.hear(done, total, outcome))

    def show(self, done: int, said: str) -> None:
        filled = round(_WIDTH * done / self.total)
        self.line = f"{'━' * filled}{'─' * (_WIDTH - filled)} {done}/{self.total} · {said}"
        if time.monotonic() - self.drawn >= _OFTEN:
            self.drawn = time.monotonic()
            self.surface.draw(self.line)

    def last(self) -> None:
        self.surface.draw(self.line)
        self.surface.end()


def _columns(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):  # a stream that says it is a terminal, and has no size
        return 80
