"""The scheduler, driven with a batch that counts instead of a network."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import pytest

from exptilt.errors import ModelError, PromptError
from exptilt.scheduler import Scheduler


class Countdown:
    """A row that is done after `steps` steps."""

    def __init__(self, steps: int, *, fatal: str = "", label: str = "") -> None:
        self.steps, self.fatal, self.label = steps, fatal, label


class CountingBatch:
    """Counts down all rows; notes how many there were and the order in which they finished."""

    def __init__(self, before: Callable[[], object] = lambda: None) -> None:
        self.rows: list[Countdown] = []
        self.before = before
        self.most = 0
        self.finished: list[str] = []
        self.joins: list[list[str]] = []

    def join(self, rows: Sequence[Countdown]) -> None:
        self.joins.append([row.label for row in rows])
        for row in rows:
            if row.fatal == "join":
                raise OSError("no memory")
            self.rows.append(row)

    def step(self) -> list[Countdown]:
        self.before()
        self.most = max(self.most, len(self.rows))
        for row in self.rows:
            if row.fatal == "step":
                raise PromptError("a bad row")
            row.steps -= 1
        done = [row for row in self.rows if row.steps <= 0]
        self.rows = [row for row in self.rows if row.steps > 0]
        self.finished += [row.label for row in done]
        return done

    def leave(self, rows: Sequence[Countdown]) -> None:
        self.rows = [row for row in self.rows if row not in rows]


def in_thread(function: Callable[[], object]) -> tuple[threading.Thread, list[BaseException]]:
    errors: list[BaseException] = []

    def work() -> None:
        try:
            function()
        except BaseException as error:  # noqa: BLE001 - handed to the test
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    return thread, errors


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.001)


def test_a_call_returns_when_its_own_rows_are_done():
    gate = threading.Event()
    batch = CountingBatch(before=lambda: gate.wait(0.001))
    scheduler = Scheduler(batch, max_rows=8)
    long, _ = in_thread(lambda: scheduler.run([Countdown(100_000)]))
    wait_for(lambda: bool(batch.rows))
    scheduler.run([Countdown(3, label="short")])
    assert batch.finished == ["short"]
    assert long.is_alive()
    scheduler.close()
    long.join()


def test_the_cap_on_rows_in_flight_holds_and_every_row_is_served():
    batch = CountingBatch()
    rows = [Countdown(1 + i % 5) for i in range(50)]
    Scheduler(batch, max_rows=7).run(rows)
    assert batch.most == 7
    assert all(row.steps == 0 for row in rows)


def test_a_small_call_is_not_stuck_behind_a_large_one():
    gate = threading.Event()
    batch = CountingBatch(before=gate.wait)
    scheduler = Scheduler(batch, max_rows=2)
    large, _ = in_thread(lambda: scheduler.run([Countdown(1, label="large") for _ in range(40)]))
    wait_for(lambda: len(batch.rows) == 2)
    small, _ = in_thread(lambda: scheduler.run([Countdown(1, label="small") for _ in range(2)]))
    wait_for(lambda: len(scheduler._queue) == 2)
    gate.set()
    for thread in (large, small):
        thread.join()
    assert batch.finished.index("small") <= 4
    assert len(batch.finished) == 42


def test_an_error_in_a_step_reaches_all_callers_in_flight_but_not_those_waiting():
    gate = threading.Event()
    batch = CountingBatch(before=gate.wait)
    scheduler = Scheduler(batch, max_rows=2, name="toy")
    first, errors = in_thread(lambda: scheduler.run([Countdown(5), Countdown(5, fatal="step")]))
    wait_for(lambda: len(batch.rows) == 2)
    second, none = in_thread(lambda: scheduler.run([Countdown(2, label="fine")]))
    wait_for(lambda: bool(scheduler._queue))
    gate.set()
    for thread in (first, second):
        thread.join()
    assert isinstance(errors[0], PromptError), "errors of exptilt keep their kind"
    assert not none
    assert batch.finished == ["fine"]
    assert not batch.rows


def test_an_error_in_a_join_reaches_its_caller_only():
    gate = threading.Event()
    batch = CountingBatch(before=gate.wait)
    scheduler = Scheduler(batch, max_rows=4, name="toy")
    fine, none = in_thread(lambda: scheduler.run([Countdown(3, label="fine")]))
    wait_for(lambda: bool(batch.rows))
    bad, errors = in_thread(lambda: scheduler.run([Countdown(3), Countdown(3, fatal="join")]))
    gate.set()
    for thread in (fine, bad):
        thread.join()
    assert isinstance(errors[0], ModelError)
    assert "toy failed with OSError: no memory" in str(errors[0])
    assert not none
    assert batch.finished == ["fine"]
    assert not batch.rows
    scheduler.run([Countdown(1, label="later")])
    assert batch.finished == ["fine", "later"]


def test_a_function_runs_between_steps_and_its_error_is_its_own():
    batch = CountingBatch()
    scheduler = Scheduler(batch, max_rows=4)
    seen = scheduler.call(lambda: threading.current_thread().name)
    assert seen == "exptilt engine"
    with pytest.raises(ModelError, match="ZeroDivisionError"):
        scheduler.call(lambda: 1 // 0)
    scheduler.run([Countdown(2)])


def workers(name: str) -> int:
    return sum(name in thread.name for thread in threading.enumerate())


def test_an_idle_worker_takes_no_steps_and_goes_home():
    """Without rows the worker waits instead of stepping, and ends after `linger` seconds; a new call starts another."""
    batch = CountingBatch()
    scheduler = Scheduler(batch, max_rows=4, linger=0.3, name="idle-toy")
    scheduler.run([Countdown(1)])
    assert workers("idle-toy") == 1
    steps: list[int] = []
    batch.before = lambda: steps.append(1)
    wait_for(lambda: workers("idle-toy") == 0)
    assert not steps
    scheduler.run([Countdown(1)])
    assert workers("idle-toy") == 1


def test_a_closed_scheduler_fails_the_calls_under_way_and_refuses_new_ones():
    batch = CountingBatch(before=lambda: time.sleep(0.001))
    scheduler = Scheduler(batch, max_rows=1, name="toy")
    running, errors = in_thread(lambda: scheduler.run([Countdown(100_000), Countdown(1)]))
    wait_for(lambda: bool(batch.rows))
    scheduler.close()
    running.join()
    assert isinstance(errors[0], ModelError)
    assert not batch.rows
    with pytest.raises(ModelError, match="toy is closed"):
        scheduler.run([Countdown(1)])


def test_rows_of_an_interrupted_caller_make_room():
    batch = CountingBatch(before=lambda: time.sleep(0.001))
    scheduler = Scheduler(batch, max_rows=1)
    interrupted = threading.Event()

    class Interrupt(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            wait_for(lambda: bool(batch.rows))
            interrupted.set()
            raise KeyboardInterrupt

    import exptilt.scheduler as module

    row = Countdown(100_000)
    original = module._Call.__init__

    def patched(self: module._Call[Countdown], rows: Sequence[Countdown]) -> None:
        original(self, rows)
        if row in rows:
            self.done = Interrupt()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module._Call, "__init__", patched)
        with pytest.raises(KeyboardInterrupt):
            scheduler.run([row])
    scheduler.run([Countdown(2, label="next")])
    assert interrupted.is_set()
    assert batch.finished == ["next"]


def test_a_scheduler_without_room_is_refused():
    with pytest.raises(ValueError, match="max_rows=0"):
        Scheduler(CountingBatch(), max_rows=0)
