"""Streams and cancelling: partial results as they come, and rows that leave the engine's batch within a step."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import exptilt as xt
from exptilt.blocks import BlockSize
from exptilt.cancelling import cancelled_by
from exptilt.core import Target
from exptilt.draft import Draft, Prompt
from exptilt.engines import TableEngine
from exptilt.engines.scheduler import Scheduler
from exptilt.engines.transport import Transport
from exptilt.errors import Cancelled, StoreError, TargetError
from exptilt.keys import Floats, Key
from exptilt.populations.population import Population
from exptilt.running.lines import decode
from exptilt.samplers.trace import Tree
from exptilt.testing.toys import random_table
from exptilt.usage import Work
from tests.pages import run_page

TABLE = TableEngine(random_table(3, 4), 6, 3)


def reward(prompt: Prompt, drafts: Sequence[Draft]) -> list[float]:
    return [sum(draft.tokens) / 4 for draft in drafts]


TARGET = Target(TABLE, reward, 0.5)


# ------------------------------------------------------------------------------------------------- a slow engine


class Gate:
    """A batch of rows that take ever more steps; each step waits to be allowed."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.allowed = threading.Semaphore(0)
        self.steps = 0

    def join(self, rows: Sequence[Row]) -> None:
        self.rows += rows

    def step(self) -> list[Row]:
        self.allowed.acquire()
        self.steps += 1
        for row in self.rows:
            row.left -= 1
        done = [row for row in self.rows if row.left == 0]
        self.rows = [row for row in self.rows if row.left]
        return done

    def leave(self, rows: Sequence[Row]) -> None:
        self.rows = [row for row in self.rows if row not in rows]

    @property
    def prompts(self) -> list[str]:
        return [row.prompt for row in self.rows]


@dataclass(eq=False)
class Row:
    prompt: str
    left: int


@dataclass(frozen=True)
class SlowEngine:
    """A table whose drafts take steps of a scheduler: a thousand each, and two for a prompt that is called "quick"."""

    gate: Gate = field(default_factory=Gate)
    scheduler: Scheduler[Row] | None = None
    table: TableEngine = TABLE
    can = TABLE.can

    @classmethod
    def made(cls, max_rows: int = 8) -> SlowEngine:
        gate = Gate()
        return cls(gate, Scheduler(gate, max_rows=max_rows, name="slow"))

    def waits(self) -> bool:
        """Whether a call has rows that have not joined the batch."""
        return self.scheduler is not None and len(self.scheduler.admission.queue) > 0

    @property
    def name(self) -> str:
        return "slow"

    @property
    def max_tokens(self) -> int:
        return self.table.max_tokens

    @property
    def alphabet(self) -> str:
        return self.table.alphabet

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"engine": "slow"}

    def with_sampling(self, **changes: Any) -> SlowEngine:
        return replace(self, table=self.table.with_sampling(**changes))

    def metered(self, work: Work) -> SlowEngine:
        return replace(self, table=self.table.metered(work))

    def prompt_tokens(self, prompt: Prompt) -> tuple[int, ...]:
        return self.table.prompt_tokens(prompt)

    def start(self, prompt: Prompt) -> Draft:
        return self.table.start(prompt)

    def extend(self, drafts: Sequence[Draft], keys: Sequence[Key], tokens: BlockSize | None = None) -> list[Draft]:
        assert self.scheduler is not None
        self.scheduler.run([Row(str(draft.prompt), 2 if draft.prompt == "quick" else 1000) for draft in drafts])
        return self.table.extend(drafts, keys, tokens)

    def score(self, drafts: Sequence[Draft], starts: Sequence[int] | None = None) -> list[Floats]:
        return self.table.score(drafts, starts)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.001)


def in_thread(work: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """A thread at work; its result or error lands in the list."""
    out: list[object] = []

    def run() -> None:
        try:
            out.append(work())
        except BaseException as error:  # noqa: BLE001 - handed to the test
            out.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, out


@pytest.fixture
def slow() -> Iterator[SlowEngine]:
    engine = SlowEngine.made()
    yield engine
    engine.gate.allowed.release(1_000_000)  # what a failing test left in the batch


def test_a_cancelled_sample_leaves_the_batch_after_one_step(slow: SlowEngine) -> None:
    """A cancelled prompt once decoded to the end of its call: `halt` was read between engine calls alone."""
    cancel, gate = threading.Event(), slow.gate
    target = Target(slow, reward, 0.5)
    thread, out = in_thread(lambda: xt.sample(target, "long", xt.Independent(3), cancel=cancel))
    wait_for(lambda: gate.prompts == ["long"] * 3)
    other, kept = in_thread(lambda: xt.sample(target, "quick", xt.Independent(1)))
    wait_for(slow.waits)
    cancel.set()
    gate.allowed.release()  # the step that was under way
    thread.join(10)
    assert isinstance(out[0], Cancelled)
    wait_for(lambda: gate.prompts == ["quick"])
    assert gate.steps == 1
    gate.allowed.release(2)
    other.join(10)
    assert isinstance(kept[0], xt.Result)


def test_rows_that_wait_for_room_are_cancelled_too() -> None:
    slow, cancel = SlowEngine.made(max_rows=1), threading.Event()
    target = Target(slow, reward, 0.5)
    first, done = in_thread(lambda: xt.sample(target, "quick", xt.Independent(1)))
    wait_for(lambda: slow.gate.prompts == ["quick"])
    waiting, out = in_thread(lambda: xt.sample(target, "long", xt.Independent(2), cancel=cancel))
    wait_for(slow.waits)
    cancel.set()
    slow.gate.allowed.release()
    waiting.join(10)
    assert isinstance(out[0], Cancelled)
    slow.gate.allowed.release()
    first.join(10)
    assert isinstance(done[0], xt.Result)


def test_an_engine_that_the_reward_calls_is_cancelled_too(slow: SlowEngine) -> None:
    """Judges draw with an engine of their own, in a thread apart where calls of the reward have a limit of time."""
    cancel = threading.Event()

    def judge(prompt: Prompt, drafts: Sequence[Draft]) -> list[float]:
        slow.extend([slow.start("judged")], [Key(0)])
        return [0.0] * len(drafts)

    target = Target(TABLE, judge, 0.5)
    for limit in (None, 60.0):
        thread, out = in_thread(
            lambda limit=limit: xt.sample(target, "x", xt.Independent(2), reward_timeout=limit, cancel=cancel)
        )
        wait_for(lambda: slow.gate.prompts == ["judged"])
        cancel.set()
        slow.gate.allowed.release()
        thread.join(10)
        assert isinstance(out[0], Cancelled)
        wait_for(lambda: not slow.gate.rows)
        cancel.clear()


def test_a_cancelled_task_frees_its_rows(slow: SlowEngine) -> None:
    target, gate = Target(slow, reward, 0.5), slow.gate

    async def main() -> None:
        task = asyncio.create_task(xt.asample(target, "long", xt.Independent(2)))
        await until(lambda: gate.prompts == ["long"] * 2)
        other = asyncio.create_task(xt.asample(target, "quick", xt.Independent(1)))
        await until(slow.waits)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.allowed.release()
        await until(lambda: gate.prompts == ["quick"])
        assert gate.steps == 1
        gate.allowed.release(2)
        assert (await other).text == xt.sample(TARGET, "quick", xt.Independent(1)).text

    async def until(condition: Callable[[], bool]) -> None:
        while not condition():
            await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(main(), 10))


def test_a_stream_is_closed_from_another_thread(slow: SlowEngine) -> None:
    stream = xt.stream(Target(slow, reward, 0.5), "long", xt.Independent(2))
    thread, out = in_thread(lambda: next(stream))
    wait_for(lambda: len(slow.gate.rows) == 2)
    stream.close()
    slow.gate.allowed.release()
    thread.join(10)
    assert isinstance(out[0], Cancelled)
    wait_for(lambda: not slow.gate.rows)
    assert list(stream) == []
    with pytest.raises(Cancelled):
        stream.result()


def test_a_run_that_is_stopped_does_not_draw_to_the_end(slow: SlowEngine) -> None:
    """The prompts beside one that fails were once decoded to the ends of their calls before the error was raised."""

    def fails(prompt: Prompt, drafts: Sequence[Draft]) -> list[float]:
        raise OSError("no score")

    thread, out = in_thread(
        lambda: xt.run(Target(slow, fails, 0.5), ["long", "quick"], xt.Independent(1), on_error="stop", concurrency=2)
    )
    while thread.is_alive() and slow.gate.steps < 900:
        slow.gate.allowed.release()
        time.sleep(0.002)
    thread.join(10)
    assert isinstance(out[0], xt.RewardError)
    assert slow.gate.steps < 900  # "long" would have taken a thousand


def test_a_run_whose_progress_raises_gives_its_other_prompts_up(slow: SlowEngine) -> None:
    """Before the error is out: nobody reads what they would still draw."""

    def progress(done: int, total: int, outcome: object) -> None:
        raise OSError("the screen is gone")

    thread, out = in_thread(
        lambda: xt.run(Target(slow, reward, 0.5), ["long", "quick"], xt.Independent(1), concurrency=2, progress=progress)
    )
    while thread.is_alive() and slow.gate.steps < 900:
        slow.gate.allowed.release()
        time.sleep(0.002)
    thread.join(10)
    assert isinstance(out[0], OSError)
    assert slow.gate.steps < 900
    slow.gate.allowed.release()
    wait_for(lambda: not slow.gate.rows)


def test_requests_to_a_server_are_not_waited_for() -> None:
    """Nor are those begun that had not been sent: a server would have answered for nobody."""
    transport = Transport(["http://localhost:1/v1"], "NO_KEY", timeout=1.0, attempts=1, concurrency=2, backoff=0.1)
    gate, flag, begun = threading.Event(), threading.Event(), threading.Semaphore(0)

    def job() -> bool:
        begun.release()
        return gate.wait(10)

    def call() -> list[bool]:
        with cancelled_by(flag):
            return transport.each([job] * 5)

    thread, out = in_thread(call)
    begun.acquire()
    begun.acquire()
    flag.set()
    thread.join(5)
    assert isinstance(out[0], Cancelled)
    gate.set()
    transport.close()
    assert not begun.acquire(blocking=False)


# ----------------------------------------------------------------------------------------------- partial results


@pytest.mark.parametrize("sampler", [xt.ETS(3, 2, 2), xt.Independent(6, batch=2), xt.SMC(4, 2), xt.SuffixMCMC(5)])
def test_a_stream_yields_every_population_and_ends_as_sample(sampler: Any) -> None:
    stream = xt.stream(TARGET, "why?", sampler, select=xt.best)
    partials = list(stream)
    whole, result = xt.sample(TARGET, "why?", sampler, select=xt.best), stream.result()
    assert [len(partial.population) for partial in partials] == [entry["n"] for entry in whole.trace]
    assert [partial.usage.tokens for partial in partials] == [entry["tokens"] for entry in whole.trace]
    assert [len(partial.trace) for partial in partials] == list(range(1, len(partials) + 1))
    for answer in (partials[-1], result):
        assert answer.draft == whole.draft
        assert answer.log_z == whole.log_z
        assert answer.reward == whole.reward
        assert answer.population.trace == whole.population.trace
    if isinstance(partials[0].population.trace, Tree):
        assert [len(partial.population.trace.steps) for partial in partials[:2]] == [1, 2]  # pyright: ignore


def test_the_answer_of_a_partial_result_is_selected_when_it_is_asked_for() -> None:
    asked: list[int] = []

    def select(population: Population, key: Key) -> Draft:
        asked.append(len(population))
        return population.drafts[0]

    partials = list(xt.stream(TARGET, "why?", xt.Independent(6, batch=2), select=select))
    assert asked == [6]  # of the result
    assert partials[0].text == partials[0].text == partials[0].draft.text
    assert asked == [6, 2]


def test_a_stream_draws_no_further_than_it_is_asked_to() -> None:
    stream = xt.stream(TARGET, "why?", xt.Independent(1000, batch=1))
    with stream:
        usage = [next(stream).usage.rated for _ in range(3)]
    assert usage == [1, 2, 3]
    assert list(stream) == []


def test_a_stream_in_an_event_loop() -> None:
    async def main() -> list[int]:
        return [len(partial.population) async for partial in xt.stream(TARGET, "why?", xt.Independent(6, batch=2))]

    assert asyncio.run(main()) == [2, 4, 6]


def test_what_cannot_work_is_refused_before_anything_is_drawn() -> None:
    with pytest.raises(TargetError, match="give an instance"):
        xt.stream(TARGET, "why?", xt.ETS)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TargetError, match=r"threading\.Event"):
        xt.sample(TARGET, "why?", xt.Independent(2), cancel=True)  # pyright: ignore[reportArgumentType]
    with pytest.raises(xt.PromptError, match="list of messages"):
        xt.stream(TARGET, 3, xt.Independent(2))  # pyright: ignore[reportArgumentType]


# ---------------------------------------------------------------------------------------------------- stop rules


def enough(population: Population) -> bool:
    return len(population) >= 4


def test_a_stop_rule_ends_the_run_with_the_population_it_is_true_of(tmp_path: Path) -> None:
    sampler = xt.Independent(100, batch=2)
    result = xt.sample(TARGET, "why?", sampler, until=enough)
    assert (len(result.population), result.stopped, result.limit) == (4, "until", "enough")
    np.testing.assert_array_equal(result.population.log_w, xt.sample(TARGET, "why?", xt.Independent(4)).population.log_w)
    assert xt.sample(TARGET, "why?", xt.Independent(2), until=enough).stopped == "done"
    store = tmp_path / "a.jsonl"
    drawn, read = (xt.run(TARGET, ["why?"], sampler, until=enough, store=store)[0] for _ in range(2))
    assert isinstance(drawn, xt.Result)
    assert isinstance(read, xt.Result)
    assert drawn.draft == read.draft == result.draft
    assert (read.stopped, read.limit) == ("until", "enough")
    with pytest.raises(StoreError, match="until"):
        xt.run(TARGET, ["why?"], sampler, store=store)
    with pytest.raises(TargetError, match="cannot be called"):
        xt.sample(TARGET, "why?", sampler, until=0.9)  # pyright: ignore[reportArgumentType]


def test_settings_without_a_stop_rule_are_those_of_before(tmp_path: Path) -> None:
    """A line more would have made every older results file one "of other settings"."""
    store = tmp_path / "a.jsonl"
    xt.run(TARGET, [], xt.Independent(2), store=store)
    assert "until" not in decode(store.read_text())["settings"]


def test_the_page_on_streams_runs() -> None:
    names = run_page("streams.md")
    assert names["result"].stopped in ("done", "until")
