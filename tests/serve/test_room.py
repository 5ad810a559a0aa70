"""What engines have room for, and that requests wait for it: key-values where they are counted, and else responses."""

from __future__ import annotations

import asyncio

import pytest

import exptilt as xt
from exptilt.serve.admission import Admission
from exptilt.serve.config import Limits
from exptilt.serve.refusals import Refusal
from exptilt.serve.room import ANY, Room, room_of
from tests.engines.fake_server import Fake, serving
from tests.engines.served import load_from, table
from tests.serve.served import TABLE


def admitted(room: Room, limits: Limits, *places: tuple[int, int, int]) -> list[bool]:
    """Which of these requests, in their order, are let in while none has come to its end."""

    async def enter() -> list[bool]:
        admission = Admission(limits, room)
        waiting = [asyncio.create_task(admission.enter(*place)) for place in places]
        await asyncio.sleep(0)
        found = [task.done() for task in waiting]
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        return found

    return asyncio.run(enter())


@pytest.mark.parametrize(
    ("room", "limits", "wanted"),
    [
        (ANY, Limits(), [True, True, True]),
        (Room(rows=16), Limits(), [True, True, False]),
        (Room(rows=15), Limits(), [True, False, False]),
        (Room(tokens=200), Limits(), [True, True, False]),
        (Room(tokens=10_000, rows=8), Limits(), [True, False, False]),
        (Room(rows=8), Limits(rows_together=100), [True, True, True]),
        (ANY, Limits(rows_together=16), [True, True, False]),
        (ANY, Limits(memory_tokens=100), [True, False, False]),
        (Room(rows=1), Limits(), [True, False, False]),  # nothing else is under way, so the first may begin
    ],
)
def test_requests_wait_for_what_is_bounded(room: Room, limits: Limits, wanted: list[bool]) -> None:
    assert admitted(room, limits, *[(1, 100, 8)] * 3) == wanted


def test_each_answer_of_a_request_counts() -> None:
    assert admitted(Room(rows=16), Limits(), (2, 1, 8), (1, 1, 1)) == [True, False]


def test_what_an_answer_held_is_given_out_again() -> None:
    async def enter() -> None:
        admission = Admission(Limits(queue=1), Room(tokens=100, rows=8))
        await admission.enter(2, 50, 4)
        waiting = asyncio.create_task(admission.enter(1, 40, 4))
        await asyncio.sleep(0)
        with pytest.raises(Refusal) as refused:
            await admission.enter(1, 1, 1)
        assert refused.value.status == 429
        admission.leave(50, 4, 0.1)
        await asyncio.wait_for(waiting, 5)
        assert (admission.running, admission.tokens, admission.rows) == (2, 90, 8)
        admission.leave(50, 4, 0.1)
        admission.leave(40, 4, 0.1)
        assert (admission.running, admission.tokens, admission.rows) == (0, 0, 0)

    asyncio.run(enter())


def test_a_client_that_gives_up_waiting_leaves_nothing_behind() -> None:
    async def enter() -> None:
        admission = Admission(Limits(), Room(rows=8))
        await admission.enter(1, 5, 8)
        waiting = asyncio.create_task(admission.enter(1, 5, 8))
        await asyncio.sleep(0)
        admission.leave(5, 8, 0.1)  # the place is given at the very moment at which the client goes
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert (admission.running, admission.tokens, admission.rows) == (0, 0, 0)

    asyncio.run(enter())


def test_transformers_count_tokens_and_tables_nothing() -> None:
    with xt.load("tiny", max_tokens=8) as engine:
        room = room_of([engine])
        assert room.tokens is not None
        assert room.tokens > 1000
        assert room.rows is None
        assert room_of([engine, TABLE]) == room
    assert room_of([TABLE]) == ANY


@pytest.mark.parametrize("concurrency", [5, 16])
def test_a_server_behind_this_one_counts_requests(concurrency: int) -> None:
    """It never says what its memory holds."""
    with serving(Fake(table())) as url, load_from(url, concurrency=concurrency) as engine:
        assert room_of([engine]) == Room(rows=2 * concurrency)


def test_masked_models_count_rows() -> None:
    with xt.load("tiny-mdlm", max_tokens=8, max_rows=6) as engine:
        assert room_of([engine]) == Room(rows=12)
