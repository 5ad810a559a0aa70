"""The pool of daemon threads: a caller that is interrupted costs it no thread, and `close` ends all of them."""

from __future__ import annotations

import threading
import time

import pytest

from exptilt.engines.daemons import Daemons
from exptilt.errors import ModelError
from tests.engines.conftest import interrupt_start


def alive(name: str) -> int:
    return sum(thread.name == name for thread in threading.enumerate())


@pytest.mark.parametrize("begun", [False, True])
def test_a_caller_interrupted_while_a_thread_starts(begun: bool) -> None:
    """A thread was counted before it began: a pool of one whose only thread never did waited for ever."""
    pool = Daemons(1, f"pool {begun}")
    interrupt_start(begun, lambda: pool.submit(lambda: 1))
    assert pool.submit(lambda: 2).result(timeout=60) == 2
    pool.close()
    end = time.monotonic() + 60
    while alive(f"pool {begun}"):
        assert time.monotonic() < end, "threads are left"
        time.sleep(0.001)


def test_close_ends_every_thread_once_its_work_is_done() -> None:
    """Work that came after it was never begun, and whoever waited for it waited for ever."""
    pool, together, gate = Daemons(3, "pool of three"), threading.Barrier(3), threading.Event()
    futures = [pool.submit(together.wait) for _ in range(3)]
    assert sorted(future.result(timeout=60) for future in futures) == [0, 1, 2]
    assert alive("pool of three") == 3
    late = [pool.submit(gate.wait) for _ in range(5)]
    pool.close()
    with pytest.raises(ModelError, match="closed"):
        pool.submit(lambda: 1)
    gate.set()
    assert all(future.result(timeout=60) for future in late)
    end = time.monotonic() + 60
    while alive("pool of three"):
        assert time.monotonic() < end, "threads are left"
        time.sleep(0.001)
