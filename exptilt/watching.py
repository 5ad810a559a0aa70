"""Watching: how whoever started a run sees what is decided before there is a population or a result.

While a run has a watcher, the sampler tells it which text every answer will begin with, as far as it knows that before its end,
and an engine shows it the rows of the call under way, whose texts grow meanwhile. Nothing is computed differently for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Rows:
    """The rows of an engine call under way, to be read from any thread.

    generated: how many tokens they drew so far.
    texts: the text of each so far; its end may be the beginning of a stop string, or of a character.
    answer: whether they grow at their end, and the first of them is the answer, whatever follows.
    """

    generated: Callable[[], int]
    texts: Callable[[], Sequence[str]]
    answer: bool


class Watcher(Protocol):
    """Who watches a run. Both methods are called in the run's thread, and must return at once."""

    def settle(self, text: str) -> None:
        """Every answer of the run begins with this text, but for an end that may belong to a stop string or a character."""
        ...

    def draw(self, rows: Rows) -> None:
        """An engine call begins."""
        ...


_watcher: ContextVar[Watcher | None] = ContextVar("exptilt_watcher", default=None)
_answers: ContextVar[bool] = ContextVar("exptilt_answers", default=False)


@contextmanager
def watched_by(watcher: Watcher) -> Iterator[None]:
    """Have `watcher` watch the runs that go on inside, in this thread."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


@contextmanager
def drawing_the_answer() -> Iterator[None]:
    """The one row of the engine call inside is the answer of the run."""
    token = _answers.set(True)
    try:
        yield
    finally:
        _answers.reset(token)


def settle(text: str) -> None:
    """Tell the watcher, if there is one, which text every answer of this run begins with."""
    watcher = _watcher.get()
    if watcher is not None:
        watcher.settle(text)


def show(generated: Callable[[], int], texts: Callable[[], Sequence[str]], *, grows: bool) -> None:
    """Show the watcher, if there is one, the rows of a call that begins. grows: whether their texts grow at their end."""
    watcher = _watcher.get()
    if watcher is not None:
        watcher.draw(Rows(generated, texts, grows and _answers.get()))
