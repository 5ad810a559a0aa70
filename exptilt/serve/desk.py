"""The desk: a request comes in, is planned, waits for its place, is worked on, and goes out in the form of its protocol."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Coroutine, Sequence
from typing import Any

from fastapi.sse import EventSourceResponse
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from exptilt.draft import prompt_text
from exptilt.serve.admission import Admission, stopping
from exptilt.serve.answers import Answer, Head, encode
from exptilt.serve.asked import Asked
from exptilt.serve.config import Config
from exptilt.serve.guard import RECORD, answer_of_refusal
from exptilt.serve.logs import LOGGER, Record
from exptilt.serve.metrics import Metrics
from exptilt.serve.plan import HEADER, plan
from exptilt.serve.recipes import Catalogue
from exptilt.serve.refusals import refusal
from exptilt.serve.room import ANY, Room
from exptilt.serve.runs import Stop, Work, client_gone, too_late
from exptilt.serve.streaming import Wire, written

_UNBUFFERED = {"cache-control": "no-store", "x-accel-buffering": "no"}  # for what stands between the server and the client
FIRST = 1.0  # seconds that a stream waits for an answer or an error, which then has a status of its own


class Desk:
    """All requests of a server. room: what its engines have room for."""

    def __init__(self, catalogue: Catalogue, config: Config, room: Room = ANY) -> None:
        self.catalogue = catalogue
        self.config = config
        self.metrics = Metrics()
        self.admission = Admission(config.limits, room, self.metrics.load)
        self._works: set[Work] = set()

    def stop_of(self) -> Stop:
        """The flag of a request that arrives now."""
        return Stop(time.monotonic() + self.config.limits.deadline)

    async def answer(self, request: Request, wire: Wire, asked: Asked, stop: Stop) -> Response:
        """The response to a request, whatever comes of it. The stop is to be set once the response is over."""
        record: Record = request.scope[RECORD]
        record.more |= {"model": asked.model, "stream": asked.stream}
        if self.config.log_prompts:
            record.more["prompts"] = [prompt_text(prompt) for prompt in asked.prompts]
        try:
            return await _unless_gone(request, stop, self._answer(request, wire, asked, stop))
        except Exception as error:  # noqa: BLE001 - the client is told, and the log
            told = refusal(error)
            self._failed(record, error)
            if told.status == 499:
                record.status = 499  # nobody reads what is sent
            return answer_of_refusal(told)

    async def _answer(self, request: Request, wire: Wire, asked: Asked, stop: Stop) -> Response:
        record: Record = request.scope[RECORD]
        limits = self.config.limits
        made = await run_in_threadpool(plan, asked, request.headers.get(HEADER), self.catalogue, limits)
        record.more |= {"sampler": made.recipe.chosen.name, "seed": made.seed, "answers": made.answers}
        try:
            async with asyncio.timeout(stop.deadline - time.monotonic()):
                await self.admission.enter(made.answers, made.memory, made.rows)
        except TimeoutError:
            raise too_late() from None
        work = Work(made, stop, self._left)
        self._works.add(work)
        work.start()
        name = f"{wire.prefix}{'_' if wire.prefix == 'resp' else '-'}{secrets.token_hex(12)}"
        head = Head(name, int(time.time()), asked, made.recipe, made.seed, made.prompt_tokens)

        def ended(found: Sequence[Answer] | BaseException) -> None:
            if isinstance(found, BaseException):
                self._failed(record, found)
            else:
                self._answered(record, found)

        if asked.stream:
            await _begun(work, wire)
            return EventSourceResponse(written(work, wire, head, ended, limits.keep_alive), headers=_UNBUFFERED)
        answers = await work.finish()
        ended(answers)
        return Response(encode(wire.answer(head, answers)), media_type="application/json")

    def _left(self, work: Work, seconds: float) -> None:
        """The thread of one answer has ended; one whose client is gone may take as long as a call of the reward."""
        self.admission.leave(work.plan.memory, work.plan.rows, seconds)
        if work.left == len(work.runs):
            self._works.discard(work)

    def _answered(self, record: Record, answers: Sequence[Answer]) -> None:
        self.metrics.answered(answers)
        record.more |= {
            "generated": sum(answer.found["cost"]["generated"] for answer in answers),
            "stopped": sorted({answer.result.stopped for answer in answers}),
        }
        if self.config.log_prompts:
            record.more["texts"] = [answer.text for answer in answers]

    def _failed(self, record: Record, error: BaseException) -> None:
        told = refusal(error)
        self.metrics.failed(told.code or "other")
        record.more |= {"code": told.code, "param": told.param}
        if told.status >= 500:
            LOGGER.warning({"event": "failure", "id": record.id, **self._words(error)}, exc_info=error)

    def _words(self, error: BaseException) -> dict[str, Any]:
        return {"message": str(error)} if self.config.log_prompts else {}

    async def close(self, grace: Coroutine[Any, Any, None]) -> None:
        """Take no more requests; give those under way until the grace is over, and end the others with an error."""
        self.admission.close()
        waits = [asyncio.create_task(each) for each in (self.admission.idle(), grace)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        for work in [*self._works]:
            work.stop.set(stopping())
            work.changed.set()


async def _begun(work: Work, wire: Wire) -> None:
    """Wait until there is something to be sent, for `FIRST` seconds at most. Raises what goes wrong before."""
    until = time.monotonic() + FIRST
    while not work.done and (left := until - time.monotonic()) > 0:
        if await work.wait(left) and (wire.grows or work.begun):
            work.done  # noqa: B018 - raises what went wrong by now
            return


async def _unless_gone(request: Request, stop: Stop, answering: Any) -> Response:
    """The response, unless the client closes the connection first. The framework does not cancel requests that do not stream."""
    work, gone = asyncio.create_task(answering), asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            stop.set(client_gone())
            raise client_gone()
        return work.result()
    finally:
        for task in (work, gone):
            task.cancel()
        await asyncio.gather(work, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
