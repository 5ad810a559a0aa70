"""The scheduler, driven with a batch that counts instead of a network."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from exptilt.engines.scheduler import Scheduler
from exptilt.errors import ModelError, PromptError
from tests.engines.conftest import interrupt_start


class Countdown:
    """A row that is done after `steps` steps, and holds `size` tokens."""

    def __init__(self, steps: int, *, fatal: str = "", label: str = "", size: int = 1) -> None:
        self.steps, self.fatal, self.label, self.size = steps, fatal, label, size


class CountingBatch:
    """Counts down all rows; notes how many there were, what they held, and the order in which they finished."""

    def __init__(self, before: Callable[[], object] = lambda: None) -> None:
        self.rows: list[Countdown] = []
        self.before = before
        self.most = 0
        self.held: list[int] = []  # at each step
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
        self.held.append(sum(row.size for row in self.rows))
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


def asked(scheduler: Scheduler[Countdown]) -> set[Any]:
    """The calls that are not done."""
    with scheduler._lock:
        return scheduler.admission.calls()


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


def test_callers_whose_rows_end_together_go_on_together():
    """Where the first to come back went on alone, or with those that waited, all others would be a step behind, for ever."""
    began = threading.Event()
    batch = CountingBatch(before=lambda: (began.wait(), time.sleep(0.3)))
    scheduler = Scheduler(batch, max_rows=8, pause=10.0)

    def rounds() -> None:
        for _ in range(5):
            scheduler.run([Countdown(1)])

    threads = [in_thread(rounds)[0]]
    wait_for(lambda: len(batch.rows) == 1)
    threads += [in_thread(rounds)[0] for _ in range(2)]
    wait_for(lambda: len(scheduler.admission.queue) == 2)
    began.set()
    for thread in threads:
        thread.join()
    assert batch.held == [1, 2, 3, 3, 3, 3], "the first is back during the second step, and waits for the others of that"


def test_callers_that_do_not_come_back_are_not_waited_for():
    batch = CountingBatch()
    scheduler = Scheduler(batch, max_rows=8, pause=10.0)
    begun = time.monotonic()
    threads = [in_thread(lambda: scheduler.run([Countdown(3)]))[0] for _ in range(3)]
    for thread in threads:
        thread.join()
    scheduler.run([Countdown(1)])
    scheduler.call(lambda: None)
    assert time.monotonic() - begun < 5, "as long as a step took, at most"


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
    wait_for(lambda: len(scheduler.admission.queue) == 2)
    gate.set()
    for thread in (large, small):
        thread.join()
    assert batch.finished.index("small") <= 2 + scheduler.admission.turn, "the two in the batch, and a turn"
    assert len(batch.finished) == 42


def test_the_rows_of_a_turn_join_together_though_room_comes_row_by_row():
    """An engine evaluates equal rows once where they begin together: rows that joined one by one cost 1.6 times as much."""
    gate = threading.Event()
    batch = CountingBatch(before=gate.wait)
    scheduler = Scheduler(batch, max_rows=32)
    assert scheduler.admission.turn == 4
    calls = [[Countdown(1 + (number * row) % 7, label=str(number)) for row in range(4 + number % 3)] for number in range(40)]
    threads = [in_thread(lambda call=call: scheduler.run(call))[0] for call in calls]
    try:
        wait_for(lambda: len(asked(scheduler)) == len(calls))
    finally:
        gate.set()
    for thread in threads:
        thread.join()
    assert batch.most > 28, "and the batch is full all the same"
    for number, call in enumerate(calls):
        joined = [join.count(str(number)) for join in batch.joins if str(number) in join]
        assert joined in ([len(call)], [4, len(call) - 4]), number


def test_rows_wait_while_their_memory_would_exceed_the_cap():
    batch = CountingBatch()
    rows = [Countdown(1 + i % 3, size=1 + i % 4) for i in range(60)]
    Scheduler(batch, max_rows=50, max_memory=10, size=lambda row: row.size).run(rows)
    assert max(batch.held) <= 10
    assert sorted(batch.held)[len(batch.held) // 2] >= 7, "the cap is used, not only kept"
    assert all(row.steps <= 0 for row in rows)


def test_a_row_larger_than_the_cap_runs_alone():
    batch = CountingBatch()
    rows = [Countdown(3, size=2), Countdown(3, size=50, label="huge"), Countdown(3, size=2)]
    Scheduler(batch, max_rows=8, max_memory=10, size=lambda row: row.size).run(rows)
    assert batch.held == [2] * 3 + [50] * 3 + [2] * 3


def test_small_rows_do_not_starve_a_large_one():
    """The large row waits for those that were in the batch when its turn came, though small ones would fit all the time."""
    gate = threading.Event()
    batch = CountingBatch(before=gate.wait)
    scheduler = Scheduler(batch, max_rows=50, max_memory=10, size=lambda row: row.size)
    many, _ = in_thread(lambda: scheduler.run([Countdown(1 + i % 5, label="small") for i in range(200)]))
    wait_for(lambda: len(batch.rows) == 10)
    large, _ = in_thread(lambda: scheduler.run([Countdown(2, label="large", size=9)]))
    wait_for(lambda: len(scheduler.admission.queue) == 2)
    gate.set()
    for thread in (many, large):
        thread.join()
    before = batch.finished.index("large")
    assert before <= 10 + scheduler.admission.turn, "the ten in the batch, and those that joined in the turn before"
    assert max(batch.held) <= 10
    assert len(batch.finished) == 201


def test_memory_of_dropped_rows_is_free_again():
    """Rows that fail, and those of a closed caller, give back what they held: else the scheduler would admit less and less."""
    batch = CountingBatch()
    scheduler = Scheduler(batch, max_rows=8, max_memory=10, size=lambda row: row.size, name="toy")
    for place in ("step", "join"):
        with pytest.raises((ModelError, PromptError)):
            scheduler.run([Countdown(5, size=4), Countdown(5, size=4, fatal=place)])
    scheduler.run([Countdown(2, size=5, label="one"), Countdown(2, size=5, label="two")])
    assert max(batch.held[-2:]) == 10


def test_an_error_in_a_step_reaches_all_callers_in_flight_but_not_those_waiting():
    gate = threading.Event()
    batch = CountingBatch(before=gate.wait)
    scheduler = Scheduler(batch, max_rows=2, name="toy")
    first, errors = in_thread(lambda: scheduler.run([Countdown(5), Countdown(5, fatal="step")]))
    wait_for(lambda: len(batch.rows) == 2)
    second, none = in_thread(lambda: scheduler.run([Countdown(2, label="fine")]))
    wait_for(lambda: bool(scheduler.admission.queue))
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


def test_callers_whose_rows_join_together_do_not_share_an_error():
    """The rows of each caller are tried alone after the joint attempt, so only the one at fault hears of it."""
    gate = threading.Event()
    batch = CountingBatch(before=gate.wait)
    scheduler = Scheduler(batch, max_rows=1, name="toy")
    first, _ = in_thread(lambda: scheduler.run([Countdown(1)]))
    wait_for(lambda: bool(batch.rows))
    scheduler.admission.max_rows = 6
    calls = [
        in_thread(lambda fatal=fatal: scheduler.run([Countdown(2, fatal=fatal), Countdown(1)])) for fatal in ("", "join", "")
    ]
    wait_for(lambda: len(scheduler.admission.queue) == 3)
    gate.set()
    for thread, _ in [(first, []), *calls]:
        thread.join()
    assert [len(errors) for _, errors in calls] == [0, 1, 0]
    assert len(batch.finished) == 1 + 4
    assert not batch.rows


def test_functions_and_steps_take_turns():
    """Neither starves the other: while rows decode and functions wait, each step is followed by one function."""
    gate = threading.Event()
    turns: list[str] = []
    batch = CountingBatch(before=lambda: (gate.wait(), turns.append("step")))
    scheduler = Scheduler(batch, max_rows=4)
    row = Countdown(20)
    rows, _ = in_thread(lambda: scheduler.run([row]))
    wait_for(lambda: bool(batch.rows))
    errands = [in_thread(lambda: scheduler.call(lambda: turns.append("function")))[0] for _ in range(10)]
    wait_for(lambda: len(scheduler._errands) == 10)
    gate.set()
    for thread in (rows, *errands):
        thread.join()
    assert turns == ["step", "function"] * 10 + ["step"] * 10


class Interrupted(Exception):
    """What the alarm raises in a caller that waits."""


def interrupt_when(condition: Callable[[], bool], call: Callable[[], object]) -> None:
    """Run `call` in this, the main, thread, and interrupt its waiting by a signal once the condition holds."""

    def alarm(*_: object) -> None:
        raise Interrupted

    def send() -> None:
        wait_for(condition)
        time.sleep(0.01)  # by now the caller sleeps
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, alarm)
    try:
        sender, _ = in_thread(send)
        with pytest.raises(Interrupted):
            call()
        sender.join()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_rows_of_an_interrupted_caller_make_room():
    batch = CountingBatch(before=lambda: time.sleep(0.001))
    scheduler = Scheduler(batch, max_rows=1, max_memory=3, size=lambda row: row.size)
    interrupt_when(lambda: bool(batch.rows), lambda: scheduler.run([Countdown(10**6, size=3), Countdown(10**6, size=3)]))
    scheduler.run([Countdown(2, label="next", size=3)])
    assert batch.finished == ["next"]
    assert not batch.rows


def test_the_function_of_an_interrupted_caller_is_not_run():
    gate = threading.Event()
    batch = CountingBatch(before=gate.wait)
    scheduler = Scheduler(batch, max_rows=1)
    rows, _ = in_thread(lambda: scheduler.run([Countdown(3)]))
    wait_for(lambda: bool(batch.rows))
    ran: list[int] = []
    interrupt_when(lambda: bool(scheduler._errands), lambda: scheduler.call(lambda: ran.append(1)))
    gate.set()
    rows.join()
    scheduler.call(lambda: None)
    assert not ran


def workers(name: str) -> int:
    return sum(name in thread.name for thread in threading.enumerate())


@pytest.mark.parametrize("begun", [False, True])
def test_a_caller_interrupted_while_the_worker_starts_leaves_one_worker_at_most(begun: bool) -> None:
    """Ctrl-C came after the thread had begun and before it was noted: the next call began another, and both drove the batch."""
    drivers: set[int] = set()

    def before() -> None:
        drivers.add(threading.get_ident())
        time.sleep(0.0002)  # a second worker would take its turn

    batch = CountingBatch(before=before)
    scheduler = Scheduler(batch, max_rows=8)
    interrupt_start(begun, lambda: scheduler.run([Countdown(3)]))
    for _ in range(50):
        scheduler.run([Countdown(5) for _ in range(4)])
    assert len(drivers) == 1
    assert len(batch.finished) == 200
    scheduler.close()


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


def test_a_scheduler_without_room_is_refused():
    with pytest.raises(ValueError, match="max_rows=0"):
        Scheduler(CountingBatch(), max_rows=0)
    with pytest.raises(ValueError, match="both or neither"):
        Scheduler(CountingBatch(), max_rows=1, max_memory=5)
    with pytest.raises(ValueError, match="max_memory=0"):
        Scheduler(CountingBatch(), max_rows=1, max_memory=0, size=lambda row: row.size)


# ------------------------------------------------------------------------------------------------- the program's exit

AT_EXIT = """
import os, sys, threading, time
from exptilt.engines import lifetimes, scheduler

class Slow:
    def __init__(self, seconds):
        self.seconds, self.stepping = seconds, threading.Event()
    def join(self, rows):
        pass
    def step(self):
        self.stepping.set()
        time.sleep(self.seconds)
        os.write(1, b"stepped ")
        return []
    def leave(self, rows):
        pass

def start(seconds):
    slow = Slow(seconds)
    running = scheduler.Scheduler(slow, max_rows=1)
    threading.Thread(target=running.run, args=(["row"],), daemon=True).start()
    slow.stepping.wait()
"""


def exits(code: str) -> str:
    """What a program with `code` writes before it ends, well and without a word of complaint."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", AT_EXIT + code]  # of forking with threads
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


def test_exits_wait_for_the_step_under_way():
    """A program that ended while a worker was inside torch was aborted: "terminate called without an active exception"."""
    for _ in range(10):
        assert exits("start(0.2)") == "stepped "


def test_exits_do_not_wait_for_ever():
    assert exits("lifetimes.EXIT = 0.1; start(1000); start(1000)") == ""


def test_forked_programs_exit_alone():
    """The worker is not in the fork, and its lock may have been held at that moment."""
    forked = "lifetimes.EXIT = 1000; start(1000)\nchild = os.fork()\n"
    assert exits(forked + "if child: os.waitpid(child, 0); lifetimes.EXIT = 0.1; print('child', flush=True)") == "child\n"


def test_a_worker_inside_torch_does_not_abort_the_program():
    pytest.importorskip("torch")
    multiply = "torch.randn(64, 64) @ torch.randn(64, 64); return []"
    steps = f"import torch\nclass Busy(Slow):\n    def step(self):\n        self.stepping.set(); {multiply}\nSlow = Busy\n"
    assert exits(f"{steps}start(0)\ntime.sleep(0.05)") == ""


def test_nothing_is_kept_for_the_exit():
    used = [Scheduler(CountingBatch(), max_rows=1, linger=0.0)]
    used[0].run([Countdown(1)])
    reference = weakref.ref(used.pop())
    wait_for(lambda: gc.collect() >= 0 and reference() is None)


def forked(function: Callable[[], object]) -> str:
    """What becomes of a call in a forked process: "done", the words of its ModelError, or "hung"."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads
        child = os.fork()
    if child == 0:
        signal.alarm(20)
        try:
            function()
            os.write(writing, b"done")
        except ModelError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        words = told.read()
    os.waitpid(child, 0)
    return words or "hung"


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
@pytest.mark.parametrize("linger", [0.0, 60.0], ids=["worker gone", "worker waiting"])
def test_a_forked_process_has_a_worker_of_its_own(linger: float):
    """A child waited for ever for a worker that only its parent had: with a pool of processes, an evaluation stood still."""
    scheduler = Scheduler(CountingBatch(), max_rows=8, linger=linger)
    for _ in range(5):
        scheduler.run([Countdown(2)])
        assert forked(lambda: scheduler.run([Countdown(2)])) == "done"
        assert forked(lambda: scheduler.call(lambda: None)) == "done"
    scheduler.run([Countdown(2)])


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
@pytest.mark.parametrize("work", ["step", "call"])
def test_a_process_forked_in_the_midst_of_work_is_told_so(work: str):
    gate, inside = threading.Event(), threading.Event()

    def wait() -> None:
        inside.set()
        gate.wait()

    scheduler = Scheduler(CountingBatch(before=wait), max_rows=8, name="model")
    running, errors = in_thread(lambda: scheduler.run([Countdown(2)]) if work == "step" else scheduler.call(wait))
    inside.wait()
    assert forked(lambda: scheduler.run([Countdown(1)])) == (
        "model was at work when this process was forked from another: load the engine again"
    )
    gate.set()
    running.join()
    assert not errors
    scheduler.run([Countdown(1)])
