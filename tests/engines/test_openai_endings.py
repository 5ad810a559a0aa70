"""A run that ends waits for no server: not for pauses before another attempt, and a program not for answers under way."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

import exptilt as xt
from exptilt.cancelling import cancelled_by
from exptilt.engines.daemons import Daemons
from exptilt.engines.transport import Transport
from exptilt.errors import Cancelled, ModelError
from exptilt.keys import Key
from tests.engines.fake_server import Fake, serving
from tests.engines.served import draw, table

pytest.importorskip("httpx2")
LONG = 250  # seconds that a server asks to wait, which is less than the longest that is waited for
GUARD = 100.0  # seconds after which a test is taken to hang
BUSY = (429, {"retry-after": str(LONG)}, {"error": {"message": "slow"}})


def is_draw(path: str, body: dict[str, Any]) -> bool:
    """Whether it is a request of one of the tests' prompts, and not of the probe of the server."""
    return path == "/v1/completions" and bool({1000 + ord(letter) for letter in "ABX"} & set(body["prompt"]))


def in_guard(work: Callable[[], object]) -> BaseException | None:
    """What the work raises, in a thread that a test that hangs leaves behind."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(GUARD)
    assert not thread.is_alive(), "it waits for a server"
    return raised[0] if raised else None


def requesting() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "exptilt-request" and thread.is_alive()]


def test_a_refused_key_ends_the_pauses_of_other_prompts(serve: Callable[..., Any]) -> None:
    """The run had raised its error, and up to 300 seconds later the last of its requests woke and was sent again."""
    fake = Fake(table())
    engine = serve(fake)
    draw(engine, 1)
    others, both, paused = set[int](), threading.Event(), threading.Event()

    def habit(path: str, body: dict[str, Any], answer: Any) -> Any:
        """The prompts are asked to wait, but the key is refused for the one with an X, once the others wait."""
        if not is_draw(path, body):
            return None
        if 1000 + ord("X") not in body["prompt"]:
            others.update({1000 + ord("A"), 1000 + ord("B")} & set(body["prompt"]))
            if len(others) == 2:
                both.set()
            return BUSY
        paused.set()
        assert both.wait(GUARD)  # of both requests of X, which must not take each other's turns
        return 401, {}, {"error": {"message": "no such key"}}

    fake.habit = habit
    target = xt.Target(engine, lambda prompt, drafts: [0.0] * len(drafts), 1.0)
    error = in_guard(lambda: xt.run(target, ["A", "B", "X"], xt.Independent(2), concurrency=3))
    assert isinstance(error, ModelError)
    assert "status 401" in str(error)
    assert paused.is_set()
    engine.close()
    for thread in requesting():
        thread.join(GUARD)
        assert not thread.is_alive(), "a request still pauses"


def test_a_cancelled_call_and_a_closed_engine_end_pauses() -> None:
    flag = threading.Event()
    transport = Transport(["http://127.0.0.1:9/v1"], "NO_KEY", timeout=1.0, attempts=2, concurrency=2, backoff=0.0)
    waits = threading.Event()

    def pause() -> None:
        waits.set()
        transport._wait(LONG)

    def cancelled() -> None:
        with cancelled_by(flag):
            transport.each([pause])

    threading.Thread(target=lambda: (waits.wait(GUARD), flag.set()), daemon=True).start()
    assert isinstance(in_guard(cancelled), Cancelled)
    waits.clear()
    threading.Thread(target=lambda: (waits.wait(GUARD), transport.close()), daemon=True).start()
    assert isinstance(in_guard(lambda: transport.each([pause])), Cancelled)


def test_one_request_that_fails_ends_the_pauses_of_its_call() -> None:
    transport = Transport(["http://127.0.0.1:9/v1"], "NO_KEY", timeout=1.0, attempts=2, concurrency=2, backoff=0.0)
    waits, ended = threading.Event(), threading.Event()

    def pause() -> None:
        waits.set()
        try:
            transport._wait(LONG)
        finally:
            ended.set()

    def fail() -> None:
        waits.wait(GUARD)
        raise ValueError

    assert isinstance(in_guard(lambda: transport.each([pause, fail])), ValueError)
    assert ended.wait(GUARD)
    transport.close()


SCRIPT = """
import sys
import exptilt as xt
engine = xt.load("openai:table", base_url=sys.argv[1], max_tokens=4, backoff=0.01)
target = xt.Target(engine, lambda prompt, drafts: [0.0] * len(drafts), 1.0)
try:
    xt.run(target, ["A", "B"], xt.Independent(2), concurrency=2)
except KeyboardInterrupt:
    print("stopped")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="it sends a signal")
@pytest.mark.parametrize("silent", [True, False])
def test_ctrl_c_ends_the_program(silent: bool) -> None:
    """It printed "stopped", and the interpreter then waited for its threads: a pause, or an answer under way."""
    fake, asked, end = Fake(table()), threading.Event(), threading.Event()

    def habit(path: str, body: dict[str, Any], answer: Any) -> Any:
        if not is_draw(path, body):
            return None
        asked.set()
        return BUSY if not silent else end.wait(LONG) and None

    fake.habit = habit
    with (
        serving(fake) as url,
        subprocess.Popen([sys.executable, "-c", SCRIPT, url], stdout=subprocess.PIPE, text=True) as program,
    ):
        assert asked.wait(GUARD)
        program.send_signal(signal.SIGINT)
        try:
            assert program.communicate(timeout=GUARD)[0].strip() == "stopped"
        finally:
            program.kill()
            end.set()


def test_a_reward_under_a_time_limit_is_left_when_its_run_is_cancelled() -> None:
    """The thread of the prompt waited for the reward's whole time limit."""
    cancel, begun, never = threading.Event(), threading.Event(), threading.Event()

    def reward(prompt: str, drafts: list[Any]) -> list[float]:
        begun.set()
        never.wait(LONG)
        return [0.0] * len(drafts)

    threading.Thread(target=lambda: (begun.wait(GUARD), cancel.set()), daemon=True).start()
    target = xt.Target(table(), reward, 1.0)
    error = in_guard(lambda: xt.sample(target, "Q?", xt.Independent(2), reward_timeout=LONG, cancel=cancel))
    never.set()
    assert isinstance(error, Cancelled)


def test_the_pool_does_all_work_and_ends_with_its_last_user() -> None:
    pool = Daemons(3, "exptilt-tested")
    key, futures = Key(0), [pool.submit(lambda number=number: number * number) for number in range(50)]
    assert [future.result(GUARD) for future in futures] == [number**2 for number in range(50)]
    failed = pool.submit(lambda: key.missing)  # type: ignore[attr-defined]
    assert isinstance(failed.exception(GUARD), AttributeError)
    threads = [thread for thread in threading.enumerate() if thread.name == "exptilt-tested"]
    assert len(threads) == 3
    del pool
    gc.collect()
    for thread in threads:
        thread.join(GUARD)
        assert not thread.is_alive()
