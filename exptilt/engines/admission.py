"""Which rows decode together and which wait: what the scheduler knows of its callers' rows.

Rows wait, and never fail, while the batch has no room for them: it takes a number of rows, and of what they hold at most
`max_memory`. Waiting rows join in turns, some from each waiting call, so a small call is never stuck behind a large one. Those of
a turn join together, once there is room for all: rows of one prompt are often equal for a while, and an engine may evaluate equal
ones once, if they begin together. A row whose turn has come and that does not fit holds up all that wait after it until enough
rows have ended: small rows cannot starve it. A row larger than the whole cap runs alone.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Hashable, Iterable, Mapping
from typing import Generic, TypeVar

from exptilt.cancelling import GLANCE, Flag

Row = TypeVar("Row", bound=Hashable)

TURNS = 8  # a turn is as large a share of the batch


class Latch:
    """What a caller waits for: as a `threading.Event`, but without Python code that holds a lock.

    Ctrl-C may interrupt the main thread at any line. In the middle of an Event it left the lock taken, and the worker that then
    told of the end waited forever.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self) -> None:
        """Let the waiter go on. Only one thread does this at a time."""
        if self._lock.locked():
            self._lock.release()

    def wait(self) -> None:
        """Wait until it is set."""
        while not self._lock.acquire(timeout=GLANCE):
            pass
        self._lock.release()


class Call(Generic[Row]):
    """One caller's rows with their sizes: `waiting` have not joined yet, `left` are not done yet, `turn` joined in this turn.

    cancel: tells that the caller's run was cancelled.
    """

    def __init__(self, sizes: Mapping[Row, int], cancel: Flag | None) -> None:
        self.sizes = sizes
        self.cancel = cancel
        self.waiting = deque(sizes)
        self.left = len(sizes)
        self.turn = 0
        self.error: BaseException | None = None
        self.done = Latch()


class Admission(Generic[Row]):
    """The rows in the batch and those that wait. It has no lock of its own: the scheduler's guards it.

    max_rows: how many rows decode at once.
    max_memory: the most that the rows of the batch may hold together, in the unit of their sizes; None for no cap.
    turn: how many rows of a call join before the next call's.
    queue: the calls that have rows waiting.
    owner: the rows in the batch, each with its call.
    begun: the calls that have, or had, rows in the batch, and are not done.
    held: the sizes of the rows in the batch together.
    dropped: the rows in the batch that nobody waits for any more.
    """

    def __init__(self, max_rows: int, max_memory: int | None) -> None:
        if max_rows < 1:
            raise ValueError(f"max_rows={max_rows} must be at least 1: no row could ever be decoded")
        if max_memory is not None and max_memory < 1:
            raise ValueError(f"max_memory={max_memory} must be at least 1, or None for no cap")
        self.max_rows = max_rows
        self.max_memory = max_memory
        self.turn = max(1, max_rows // TURNS)
        self.queue: deque[Call[Row]] = deque()
        self.owner: dict[Row, Call[Row]] = {}
        self.begun: set[Call[Row]] = set()
        self.held = 0
        self.dropped: list[Row] = []

    def idle(self) -> bool:
        """Whether no row waits, is in the batch, or must leave it."""
        return not (self.queue or self.owner or self.dropped)

    def calls(self) -> set[Call[Row]]:
        """The calls that are not done."""
        return {*self.queue, *self.begun}

    def cancelled(self) -> list[Call[Row]]:
        """The calls whose runs were cancelled; asked at every step, so flags that several calls have in turn are asked once."""
        asked: Flag | None = None
        for calls in (self.queue, self.begun):
            for call in calls:
                if call.cancel is asked:
                    continue
                asked = call.cancel
                if asked is not None and asked.is_set():
                    return [each for each in self.calls() if each.cancel is not None and each.cancel.is_set()]
        return []

    def admit(self) -> list[Row]:
        """Move waiting rows into the batch while there is room, up to `turn` from each call in turn."""
        joining: list[Row] = []
        while self.queue and self._has_room(self.queue[0]):
            call = self.queue[0]
            row = call.waiting.popleft()
            self.owner[row] = call
            self.begun.add(call)
            self.held += call.sizes[row]
            joining.append(row)
            call.turn += 1
            if call.turn == self.turn or not call.waiting:
                call.turn = 0
                self.queue.popleft()
                if call.waiting:
                    self.queue.append(call)
        return joining

    def _has_room(self, call: Call[Row]) -> bool:
        """Whether the next row of a call may join; into an empty batch it always may."""
        if not self.owner:
            return True
        fits = self.max_memory is None or self.held + call.sizes[call.waiting[0]] <= self.max_memory
        return fits and len(self.owner) + min(self.turn - call.turn, len(call.waiting)) <= self.max_rows

    def finish(self, rows: Iterable[Row]) -> int:
        """Note rows that have left the batch because they are done; returns how many calls are done with them."""
        done = 0
        for row in rows:
            call = self.owner.pop(row, None)
            if call is not None:
                self.held -= call.sizes[row]
                call.left -= 1
                if not call.left:
                    self.begun.discard(call)
                    call.done.set()
                    done += 1
        return done

    def drop(self, call: Call[Row]) -> None:
        """Give up a call. Those of its rows that are in the batch leave it at the next turn, before others join."""
        if call in self.queue:
            self.queue.remove(call)
        self.begun.discard(call)
        rows = [row for row, owner in self.owner.items() if owner is call]
        self.dropped += rows
        for row in rows:
            self.held -= self.owner.pop(row).sizes[row]

    def take_dropped(self) -> list[Row]:
        """The rows that must leave the batch now."""
        rows, self.dropped = self.dropped, []
        return rows

    def clear(self) -> None:
        """Forget all rows."""
        self.queue.clear()
        self.owner.clear()
        self.begun.clear()
        self.held = 0
