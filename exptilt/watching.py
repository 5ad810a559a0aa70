"""Watching: how whoever started a run sees what is decided before there is a population or a result.

While a run has a watcher, the sampler tells it which text every answer will begin with, as far as it knows that before its end,
and its trace so far where it has no population yet. An engine shows it the rows of the call under way, whose texts grow
meanwhile. Nothing is computed differently for it.
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
    answer: the sampler whose answer the one row is, whatever follows, where it grows at its end; None for all other rows.
    """

    generated: Callable[[], int]
    texts: Callable[[], Sequence[str]]
    answer: object


class Watcher(Protocol):
    """Who watches a run. All methods are called in the run's thread, and must return at once."""

    def settle(self, sampler: object, text: str) -> None:
        """Every answer of this sampler begins with the text, but for an end that may belong to a stop string or a character.

        It may be one inside of another sampler, whose answer is not settled by that.
        """
        ...

    def grow(self, sampler: object, trace: object) -> None:
        """This sampler has come so far, as its trace tells, and has no population to yield yet. It may be inside of another."""
        ...

    def draw(self, rows: Rows) -> None:
        """An engine call begins."""
        ...


_watcher: ContextVar[Watcher | None] = ContextVar("exptilt_watcher", default=None)
_answering: ContextVar[object] = ContextVar("exptilt_answering", default=None)


@contextmanager
def watched_by(watcher: Watcher) -> Iterator[None]:
    """Have `watcher` watch the runs that go on inside, in this thread."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


@contextmanager
def drawing_the_answer(sampler: object) -> Iterator[None]:
    """The one row of the engine call inside is the answer of this sampler."""
    token = _answering.set(sampler)
    try:
        yield
    finally:
        _answering.reset(token)


def settle(sampler: object, text: str) -> None:
    """Tell the watcher, if there is one, which text every answer of this sampler begins with."""
    watcher = _watcher.get()
    if watcher is not None:
        watcher.settle(sampler, text)


def grow(sampler: object, trace: object) -> None:
    """Tell the watcher, if there is one, how far this sampler has come that has no population to yield yet."""
    watcher = _watcher.get()
    if watcher is not None:
        watcher.grow(sampler, trace)


def show(generated: Callable[[], int], texts: Callable[[], Sequence[str]], *, grows: bool) -> None:
    """Show the watcher, if there is one, the rows of a call that begins. grows: whether their texts grow at their end."""
    watcher = _watcher.get()
    if watcher is not None:
        watcher.draw(Rows(generated, texts, _answering.get() if grows else None))
