"""Admission: which requests are answered now, which wait, and which are told to come back later.

An answer under way holds a thread, draws some responses at once, and holds key-values for as long as these may get. Requests
wait in the order in which they came. Everything here happens in the event loop, so nothing is locked.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from exptilt.serve.config import Limits
from exptilt.serve.refusals import Refusal
from exptilt.serve.room import Room

_SMOOTH = 0.1  # the weight of the latest answer in the mean time that answers take


@dataclass(eq=False)
class Place:
    """What a request holds, or waits for.

    threads: for its answers.
    tokens, rows: of key-values, and of responses drawn at once, for each of them.
    """

    threads: int
    tokens: int
    rows: int
    given: asyncio.Future[None]


class Admission:
    """Threads and room, given out to requests. changed: called with the numbers of answers and of requests that wait."""

    def __init__(self, limits: Limits, room: Room, changed: Callable[[int, int], None] = lambda running, waiting: None) -> None:
        self._limits = limits
        self._room = Room(limits.memory_tokens or room.tokens, limits.rows_together or room.rows)
        self._changed = changed
        self._queue: deque[Place] = deque()
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._seconds = 1.0  # that an answer takes, in the mean
        self.running = 0
        self.tokens = 0
        self.rows = 0

    @property
    def waiting(self) -> int:
        return len(self._queue)

    async def enter(self, threads: int, tokens: int, rows: int) -> None:
        """Wait for threads and room. Raises Refusal where the queue is full, or the server is about to stop."""
        if self._closed:
            raise stopping()
        place = Place(threads, tokens, rows, asyncio.get_running_loop().create_future())
        if self._queue or not self._fits(place):
            if len(self._queue) >= self._limits.queue:
                raise Refusal(
                    f"this server is busy: {self.running} answers are under way and {self.waiting} requests wait",
                    429,
                    code="overloaded",
                    retry_after=self.retry_after,
                )
            self._queue.append(place)
            self._tell()
            try:
                await place.given
            except asyncio.CancelledError:
                self._give_up(place)
                raise
        else:
            self._give(place)

    def leave(self, tokens: int, rows: int, seconds: float) -> None:
        """One answer came to its end, after so many seconds: its thread and room are free."""
        self._take(-1, tokens, rows)
        self._seconds += _SMOOTH * (seconds - self._seconds)
        self._admit()

    def close(self) -> None:
        """Take no more requests; those that wait are refused."""
        self._closed = True
        while self._queue:
            place = self._queue.popleft()
            if not place.given.done():
                place.given.set_exception(stopping())
        self._tell()

    async def idle(self) -> None:
        """Wait until no answer is under way."""
        await self._idle.wait()

    @property
    def retry_after(self) -> int:
        """Seconds after which there may be room."""
        return max(1, min(60, math.ceil(self._seconds * (1 + self.waiting) / self._limits.threads)))

    def _fits(self, place: Place) -> bool:
        """Whether a request may begin; on a server that has nothing else to do it always may."""
        if not self.running:
            return True
        tokens = self._room.tokens is None or self.tokens + place.threads * place.tokens <= self._room.tokens
        rows = self._room.rows is None or self.rows + place.threads * place.rows <= self._room.rows
        return tokens and rows and self.running + place.threads <= self._limits.threads

    def _give(self, place: Place) -> None:
        self._take(place.threads, place.tokens, place.rows)
        self._tell()

    def _take(self, threads: int, tokens: int, rows: int) -> None:
        """Count threads with what each of them holds; a negative number of threads gives that back."""
        self.running += threads
        self.tokens += threads * tokens
        self.rows += threads * rows

    def _give_up(self, place: Place) -> None:
        """A request that waited is gone; where it was let in at that very moment, what it holds is free again."""
        if place in self._queue:
            self._queue.remove(place)
        elif place.given.done() and not place.given.cancelled() and place.given.exception() is None:
            self._take(-place.threads, place.tokens, place.rows)
        self._admit()

    def _admit(self) -> None:
        while self._queue and self._fits(self._queue[0]):
            place = self._queue.popleft()
            if not place.given.done():
                self._give(place)
                place.given.set_result(None)
        self._tell()

    def _tell(self) -> None:
        if self.running:
            self._idle.clear()
        else:
            self._idle.set()
        self._changed(self.running, self.waiting)


def stopping() -> Refusal:
    return Refusal("this server is about to stop: ask again once it is back", 503, code="stopping", retry_after=5)
