"""Streams: what is final is sent at once, everything else when it is decided, with signs of life meanwhile.

An error after the first byte is an event of its own, in the form of the protocol; a stream never just ends.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol

from fastapi.sse import format_sse_event
from starlette.concurrency import run_in_threadpool

from exptilt.running.result import Partial
from exptilt.serve.answers import Answer, Event, Head, encode
from exptilt.serve.refusals import Refusal, refusal
from exptilt.serve.runs import Run, Work

_LOOK = 0.05  # seconds between two looks at an answer that is being written
_GROWS = 0.5  # seconds between two comments with the cost so far, where a person watches


class Wire(Protocol):
    """How a protocol writes answers."""

    @property
    def prefix(self) -> str:
        """What ids of answers begin with."""
        ...

    @property
    def grows(self) -> bool:
        """Whether partial results are written too."""
        ...

    def answer(self, head: Head, answers: Sequence[Answer]) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        ...

    def begin(self, head: Head, index: int) -> list[Event]: ...

    def delta(self, head: Head, index: int, text: str) -> list[Event]: ...

    def partial(self, head: Head, index: int, partial: Partial) -> list[Event]:
        """A partial result, where those are written."""
        ...

    def growth(self, head: Head, index: int, trace: object) -> list[Event]:
        """How far a sampler has come that has no population yet, where that is written."""
        ...

    def finish(self, head: Head, answer: Answer, rest: str) -> list[Event]:
        """The end of one answer. rest: what was not sent yet of its text."""
        ...

    def end(self, head: Head, answers: Sequence[Answer]) -> list[Event]: ...

    def error(self, head: Head, refusal: Refusal) -> list[Event]: ...


def encoded(event: Event) -> bytes:
    return format_sse_event(data_str=event.data, event=event.name, comment=event.comment)


async def written(
    work: Work, wire: Wire, head: Head, ended: Callable[[list[Answer] | BaseException], None], keep_alive: float
) -> AsyncIterator[bytes]:
    """The stream of a request's answers, as bytes. ended: called with the answers, or with the error."""
    try:
        async for event in _events(work, wire, head, ended, keep_alive):
            yield encoded(event)
    except Exception as error:  # noqa: BLE001 - the status was sent, so this is all that the client can be told
        ended(error)
        for event in wire.error(head, refusal(error)):
            yield encoded(event)


async def _events(
    work: Work, wire: Wire, head: Head, ended: Callable[[list[Answer] | BaseException], None], keep_alive: float
) -> AsyncIterator[Event]:
    answers: dict[int, Answer] = {}
    sent = dict.fromkeys(range(len(work.runs)), "")
    for index in sent:
        for event in wire.begin(head, index):
            yield event
    spoke = time.monotonic()
    keep_alive = min(keep_alive, _GROWS) if wire.grows else keep_alive
    while True:
        over = work.done
        for run in (run for run in work.runs if run.number not in answers):
            events, text = await _news(run, wire, head, sent[run.number], answers)
            sent[run.number] += text
            for event in events:
                spoke = time.monotonic()
                yield event
        if over:
            break
        if not await work.wait(min(_LOOK if work.watched else keep_alive, keep_alive)) and time.monotonic() - spoke >= keep_alive:
            spoke = time.monotonic()
            yield Event(comment=encode(progress(work)))
    found = [answers[index] for index in sorted(answers)]
    ended(found)
    for event in wire.end(head, found):
        yield event


async def _news(run: Run, wire: Wire, head: Head, sent: str, answers: dict[int, Answer]) -> tuple[list[Event], str]:
    """The events of one answer that are due now, and the text in them."""
    answer = run.answer
    if answer is None:
        text = await run_in_threadpool(run.settled)
        more = _rest(text, sent) if len(text) > len(sent) else ""
        events = wire.delta(head, run.number, more) if more else []
        if wire.grows and (trace := run.fresh_growth()) is not None:
            events += await run_in_threadpool(wire.growth, head, run.number, trace)
        if wire.grows and (partial := run.fresh()) is not None:
            events += await run_in_threadpool(wire.partial, head, run.number, partial)
        return events, more
    answers[run.number] = answer
    rest = _rest(answer.text, sent)
    return await run_in_threadpool(wire.finish, head, answer, rest), rest


def _rest(text: str, sent: str) -> str:
    """What follows in the text on what was sent. Raises Refusal where that is not its beginning."""
    if not text.startswith(sent):
        raise Refusal("the text that was sent is not the beginning of the answer: this server failed", 500, code="internal_error")
    return text[len(sent) :]


def progress(work: Work) -> dict[str, Any]:
    """How far the answers are: tokens drawn, populations yielded, effective sample size of the latest."""
    latest = [run.partial for run in work.runs if run.partial is not None]
    return {
        "generated": sum(run.generated for run in work.runs),
        "populations": sum(len(partial.trace) for partial in latest),
        "ess": [round(partial.population.ess, 3) for partial in latest],
        "done": sum(run.done for run in work.runs),
    }
