"""Answers under way: each is a `Stream` in a thread of its own, seen from the event loop by the latest that it told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from threading import Thread

from exptilt.errors import Cancelled
from exptilt.running.result import Partial
from exptilt.serve.answers import Answer
from exptilt.serve.plan import Plan
from exptilt.serve.refusals import Refusal
from exptilt.watching import Rows, watched_by

_BROKEN = "\ufffd"  # decoders write it for the bytes of a character that is not whole yet


class Stop:
    """The flag of a request: set when its client is gone, its time is over, or the server stops."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.why: Refusal | None = None

    def set(self, why: Refusal) -> None:
        """The first reason counts."""
        self.why = self.why or why

    def is_set(self) -> bool:
        if self.why is None and time.monotonic() > self.deadline:
            self.set(too_late())
        return self.why is not None


def too_late() -> Refusal:
    return Refusal("the answer was not found within this server's deadline", 504, code="deadline")


def client_gone() -> Refusal:
    return Refusal("the client closed the connection", 499, code="client_gone")


def final_part(text: str, stops: Sequence[str]) -> str:
    """The part of an unfinished text that stays: before a stop string, the beginning of one, or of a character."""
    text = text.rstrip(_BROKEN)
    found = [place for stop in stops if (place := text.find(stop)) >= 0]
    if found:
        return text[: min(found)]
    begun = [size for stop in stops for size in range(1, len(stop)) if text.endswith(stop[:size])]
    return text[: len(text) - max(begun, default=0)]


class Run:
    """One answer under way. What it tells is read in the event loop, and set in the thread that finds the answer.

    partial: the latest partial result.
    grown: the trace so far of a sampler that has no population yet.
    answer, error: how it ended.

    changed: called in the thread whenever there is something new; None where nobody looks before the end.
    ended: called in the thread at its end, with the seconds that it took.
    """

    def __init__(
        self, plan: Plan, number: int, stop: Stop, changed: Callable[[], None] | None, ended: Callable[[float], None]
    ) -> None:
        self.plan = plan
        self.number = number
        self.partial: Partial | None = None
        self.grown: object = None
        self.answer: Answer | None = None
        self.error: BaseException | None = None
        self._stop = stop
        self._changed = changed
        self._ended = ended
        self._stops = tuple(plan.target.engine.settings.get("stop") or ())
        self._settled = ""
        self._taken: Partial | None = None
        self._rows: Rows | None = None
        self._before = 0  # tokens of the calls before the one under way

    @property
    def done(self) -> bool:
        return self.answer is not None or self.error is not None

    @property
    def writes(self) -> bool:
        """Whether the answer itself is being written now."""
        return self._rows is not None and self._mine(self._rows.answer) and not self.done

    @property
    def begun(self) -> bool:
        """Whether the beginning of the answer is known, or being written now."""
        return self._settled != "" or self.writes

    @property
    def generated(self) -> int:
        """Tokens drawn so far."""
        return self._before + (0 if self._rows is None else self._rows.generated())

    def fresh(self) -> Partial | None:
        """The latest partial result, where it was not taken before."""
        latest = self.partial  # another may come meanwhile
        if latest is self._taken:
            return None
        self._taken = latest
        return latest

    def fresh_growth(self) -> object:
        """The trace of a sampler that has no population yet, where it was not taken before."""
        latest, self.grown = self.grown, None
        return latest

    def settled(self) -> str:
        """The beginning of the answer, as far as it will stay whatever follows."""
        rows = self._rows
        written = rows.texts()[0] if rows is not None and self._mine(rows.answer) else self._settled
        return final_part(written, self._stops)

    def settle(self, sampler: object, text: str) -> None:
        if self._mine(sampler):
            self._settled = text
            self._tell()

    def grow(self, sampler: object, trace: object) -> None:
        if self._mine(sampler):
            self.grown = trace
            self._tell()

    def draw(self, rows: Rows) -> None:
        self._before, self._rows = self.generated, rows
        if self._mine(rows.answer):
            self._tell()

    def _tell(self) -> None:
        if self._changed is not None:
            self._changed()

    def _mine(self, sampler: object) -> bool:
        """Whether it is the sampler of this answer, and not one inside of it."""
        return sampler is self.plan.sampler

    def start(self) -> None:
        """Begin in a thread of its own. A call of the reward that never returns keeps it, so it must not keep the program."""
        Thread(target=self._work, name=f"exptilt-answer-{self.number}", daemon=True).start()

    def fail(self, error: Exception) -> None:
        """The end of an answer that never began."""
        self.error = error
        self._ended(0.0)

    def _work(self) -> None:
        began = time.monotonic()
        try:
            with ExitStack() as stack:
                if self._changed is not None:
                    stack.enter_context(watched_by(self))
                partials = stack.enter_context(self.plan.begin(self.number, self._stop))
                for partial in partials:
                    self.partial = partial
                    self._tell()
                self.answer = self.plan.answer(self.number, partials.result())
        except Cancelled as error:
            self.error = self._stop.why or error
        except BaseException as error:  # noqa: BLE001 - told to the client, and logged, where the answer is awaited
            self.error = error
        self._ended(time.monotonic() - began)


class Work:
    """All answers of one request. changed: set whenever one of them has told something new, or of a request that does not stream
    has ended: between two steps of the model nothing is to be done for it in the event loop.

    leave: called in the event loop for each answer whose thread has ended, with the seconds that it took.
    """

    def __init__(self, plan: Plan, stop: Stop, leave: Callable[[Work, float], None]) -> None:
        self.plan = plan
        self.stop = stop
        self.changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._leave = leave
        self.left = 0  # how many threads have ended
        changed = self._tell if plan.asked.stream else None
        self.runs = [Run(plan, number, stop, changed, self._left) for number in range(plan.answers)]

    def start(self) -> None:
        """Begin all of them. Where there is no thread to be had, those that have none fail."""
        for run in self.runs:
            try:
                run.start()
            except RuntimeError as error:
                run.fail(error)

    async def finish(self) -> list[Answer]:
        """All answers, once they are done. Raises the error of one that failed, and Refusal at the deadline."""
        while not self.done:
            await self.wait(None)
        return [run.answer for run in self.runs if run.answer is not None]

    async def wait(self, seconds: float | None) -> bool:
        """Wait for something new, for so long at most; whether there is. Raises Refusal once the request is to stop.

        The runs are not waited for then: a call of the reward may go on for long.
        """
        left = self.stop.deadline - time.monotonic()
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, left if seconds is None else min(seconds, left))):
                await self.changed.wait()
        news = self.changed.is_set()
        self.changed.clear()
        if self.stop.is_set() and not all(run.done for run in self.runs):
            raise self.stop.why or too_late()
        return news

    @property
    def done(self) -> bool:
        """Whether all answers are there. Raises the error of one that failed."""
        for run in self.runs:
            if run.error is not None:
                raise run.error
        return all(run.done for run in self.runs)

    @property
    def begun(self) -> bool:
        """Whether the beginning of an answer is known, or being written now."""
        return any(run.begun for run in self.runs)

    @property
    def watched(self) -> bool:
        """Whether an answer is being written, which tells of itself only when it is looked at."""
        return any(run.writes for run in self.runs)

    def _tell(self) -> None:
        self._call(self.changed.set)

    def _left(self, seconds: float) -> None:
        self._call(lambda: self._count(seconds))

    def _count(self, seconds: float) -> None:
        self.left += 1
        self._leave(self, seconds)
        self.changed.set()

    def _call(self, function: Callable[[], None]) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function)
