"""Admission: which requests are answered now, which wait, and which are told to come back later.

An answer under way holds a thread, and key-values for as long as its responses may get. Requests wait in the order in which
they came. Everything here happens in the event loop, so nothing is locked.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from exptilt.serve.config import Limits
from exptilt.serve.refusals import Refusal

_SMOOTH = 0.1  # the weight of the latest answer in the mean time that answers take


@dataclass(eq=False)
class Place:
    """What a request holds, or waits for. threads: for its answers. tokens: of key-values for each of them."""

    threads: int
    tokens: int
    given: asyncio.Future[None]

    @property
    def memory(self) -> int:
        return self.threads * self.tokens


class Admission:
    """Threads and memory, given out to requests. changed: called with the numbers of answers and of requests that wait."""

    def __init__(
        self, limits: Limits, memory: int | None, changed: Callable[[int, int], None] = lambda running, waiting: None
    ) -> None:
        self._limits = limits
        self._memory = limits.memory_tokens or memory
        self._changed = changed
        self._queue: deque[Place] = deque()
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._seconds = 1.0  # that an answer takes, in the mean
        self.running = 0
        self.held = 0

    @property
    def waiting(self) -> int:
        return len(self._queue)

    async def enter(self, threads: int, tokens: int) -> None:
        """Wait for threads and memory. Raises Refusal where the queue is full, or the server is about to stop."""
        if self._closed:
            raise stopping()
        place = Place(threads, tokens, asyncio.get_running_loop().create_future())
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

    def leave(self, tokens: int, seconds: float) -> None:
        """One answer came to its end, after so many seconds: its thread and memory are free."""
        self.running -= 1
        self.held -= tokens
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
        room = self._memory is None or self.held + place.memory <= self._memory
        return room and self.running + place.threads <= self._limits.threads

    def _give(self, place: Place) -> None:
        self.running += place.threads
        self.held += place.memory
        self._tell()

    def _give_up(self, place: Place) -> None:
        """A request that waited is gone; where it was let in at that very moment, what it holds is free again."""
        if place in self._queue:
            self._queue.remove(place)
        elif place.given.done() and not place.given.cancelled() and place.given.exception() is None:
            self.running -= place.threads
            self.held -= place.memory
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
