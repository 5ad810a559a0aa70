"""Streams: the partial results of one prompt as they come, in the caller's thread or in an event loop.

    for partial in xt.stream(target, prompt, xt.ETS(8, 2, 16)):
        print(partial.usage.tokens, partial.text)

The work is done while the caller waits for the next partial result. `close`, leaving a `with` block, and the cancellation
of an asyncio task end a call under way within one step of its engine, and its rows leave the engine's batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextvars import copy_context
from threading import Event, Lock, Thread
from types import TracebackType
from typing import TypeVar

from exptilt.cancelling import Flag, any_of
from exptilt.errors import Cancelled
from exptilt.running.result import Partial, Result

T = TypeVar("T")
Begin = Callable[[Flag], Generator[Partial, None, Result]]
"""Starts the partial results of a prompt, which end once the flag is set."""


class Stream:
    """An iterator over the `Partial` results of one prompt, synchronous and asynchronous; made by `exptilt.stream`.

    The last partial result has the population of the `result`. Once the stream is closed it yields no more; a caller that
    waits for the next one in another thread gets `Cancelled`.
    """

    def __init__(self, begin: Begin, cancel: Flag | None = None) -> None:
        self._closed = Event()
        self._partials = begin(any_of(self._closed, cancel))
        self._result: Result | None = None
        self._turn = Lock()

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Partial:
        partial = self._next()
        if partial is None:
            raise StopIteration
        return partial

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Partial:
        partial = await self._in_loop(self._next)
        if partial is None:
            raise StopAsyncIteration
        return partial

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def result(self) -> Result:
        """The result, as `exptilt.sample` returns it, after all partial results that are still to come.

        Raises `Cancelled` if the stream was closed before, and whatever the run raises.
        """
        while self._next() is not None:
            pass
        if self._result is None:
            raise Cancelled("the stream was closed, or failed, before it had a result: start another")
        return self._result

    async def aresult(self) -> Result:
        """The `result`, awaited: the event loop goes on meanwhile."""
        return await self._in_loop(self.result)

    def close(self) -> None:
        """End the stream. A call under way in another thread ends within a step; this does not wait for it."""
        self._closed.set()
        if self._turn.acquire(blocking=False):
            try:
                self._partials.close()
            finally:
                self._turn.release()

    def _next(self) -> Partial | None:
        with self._turn:
            try:
                return next(self._partials)
            except StopIteration as end:
                self._result = end.value or self._result
                return None

    async def _in_loop(self, work: Callable[[], T]) -> T:
        try:
            return await _in_thread(work)
        except asyncio.CancelledError:
            self.close()
            raise


async def _in_thread(work: Callable[[], T]) -> T:
    """Do blocking work in a separate thread: in a shared pool, runs would wait for each other."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def deliver(put: Callable[..., None], value: object) -> None:
        if not future.done():  # the caller was cancelled meanwhile
            put(value)

    def run() -> None:
        put, value = future.set_result, None
        try:
            value = work()
        except BaseException as error:  # noqa: BLE001 - raised again where it is awaited
            put, value = future.set_exception, error
        if not loop.is_closed():
            loop.call_soon_threadsafe(deliver, put, value)

    Thread(target=copy_context().run, args=(run,), name="exptilt-stream", daemon=True).start()
    return await future
