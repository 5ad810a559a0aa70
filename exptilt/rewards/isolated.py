"""A reward in its own process: a crash, a hang or an exit there fails one prompt, and nothing else.

    target = xt.Target(engine, xt.rewards.Isolated(score, seconds=20), beta=0.1)

Python cannot end a thread, and an interpreter does not survive a crash in native code, os._exit, or a lack of memory. A
process can be ended: after a crash or a time-out it is killed with everything that it started and that stayed in its
group, the prompt fails with a RewardError, and the next call starts it anew.

This protects against accidents. Run untrusted programs in `exptilt.sandbox`, which isolates them.
"""

from __future__ import annotations

import math
import os
import pickle
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection, get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from multiprocessing.util import Finalize
from queue import LifoQueue
from threading import Thread
from typing import Any, cast

from exptilt.core import PromptReward, Reward
from exptilt.draft import Draft, Prompt
from exptilt.errors import ExptiltError, RewardError, error_named
from exptilt.rating import rate, reward_name
from exptilt.rewards.columns import Filled, filled, taken, wanted

_START = 300.0  # seconds to start a process and import what the reward needs
_LAST_WORDS = 1.0  # seconds between the end of the pipe and that of the process


@dataclass(frozen=True)
class Isolated:
    """A reward that another process computes. Its values, and the errors that it raises, are those of the reward.

    reward: a plain reward that pickle can carry: a function at the top of a module, or an object of a class there. It is imported
        in the process anew, so a script that makes one must guard its main part by `if __name__ == "__main__":`. A reward that
        must see the engine (`PromptReward`) is refused, because the engine cannot go with it.
    seconds: how long one call may take, the start of the process not counted.
    processes: how many calls run at once; the others wait, and the waiting does not count.
    memory: bytes of address space of each process (POSIX systems only).

    The limits do not change what is drawn, so a run with other limits may resume the same results file. A process is
    started when it is first needed, and ends with this object or with the program.
    """

    reward: Reward
    seconds: float = field(default=60.0, compare=False)
    processes: int = field(default=1, compare=False)
    memory: int | None = field(default=None, compare=False)
    _idle: LifoQueue[_Worker] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        name = reward_name(self.reward)
        if isinstance(self.reward, PromptReward) or not callable(self.reward):
            raise ValueError(f"Isolated({name}): give a function (prompt, drafts) -> floats, which needs no engine")
        if not 0 < self.seconds < math.inf:
            raise ValueError(f"Isolated(seconds={self.seconds}): give a positive number")
        for option, value in (("processes", self.processes), ("memory", self.memory)):
            if value is not None and not (isinstance(value, int) and value >= 1):
                raise ValueError(f"Isolated({option}={value}): give a whole number of 1 or more")
        try:
            task = pickle.dumps(self.reward)
        except Exception as error:
            raise ValueError(
                f"Isolated({name}): it cannot be sent to another process ({error}). Define it at the top of a module."
            ) from error
        idle: LifoQueue[_Worker] = LifoQueue()
        for _ in range(self.processes):
            idle.put(_Worker(name, task, self.memory))
        object.__setattr__(self, "_idle", idle)
        object.__setattr__(self, "__qualname__", f"Isolated({name})")

    def __reduce__(self) -> tuple[Any, ...]:
        return Isolated, (self.reward, self.seconds, self.processes, self.memory)

    @property
    def columns(self) -> frozenset[str]:
        """The columns that the reward reads."""
        return wanted(self.reward)

    def given(self, columns: Mapping[str, Any]) -> Reward:
        """This reward for one problem. Its columns go to the process with each call."""
        values = taken(self.reward, columns)
        return Filled(self, {"columns": values}) if values else self

    def __call__(self, prompt: Prompt, drafts: Sequence[Draft], columns: Mapping[str, Any] | None = None) -> list[float]:
        worker = self._idle.get()
        try:
            return worker.rate(prompt, list(drafts), self.seconds, columns or {})
        finally:
            self._idle.put(worker)


class _Worker:
    """One process and the pipe to it, used by one thread at a time."""

    def __init__(self, name: str, task: bytes, memory: int | None) -> None:
        self._name, self._task, self._memory = name, task, memory
        self._process: SpawnProcess | None = None
        self._pipe: Connection | None = None
        self._end: Callable[[], Any] = lambda: None  # kills the process, at the first call

    def rate(self, prompt: Prompt, drafts: list[Draft], seconds: float, columns: Mapping[str, Any]) -> list[float]:
        try:
            pipe = self._start() if self._pipe is None or self._has_ended(0.0) else self._pipe
            pipe.send((prompt, drafts, columns))
            kind, said = self._hear(pipe, seconds, f"did not return within {seconds:g} s for {len(drafts)} drafts")
        except (EOFError, OSError):  # the other end of the pipe is closed
            raise self._failure(self._last_words()) from None
        except BaseException:  # the call was given up before its end
            self._bury()
            raise
        if kind != "values":
            raise error_named(kind, said)
        return said

    def _start(self) -> Connection:
        self._bury()
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self._task, self._memory), name=f"exptilt {self._name}")
        process.start()
        # A priority makes it run at the program's exit, before multiprocessing waits there for its processes.
        self._end = Finalize(self, _kill, args=(process,), exitpriority=10)
        self._process = process
        theirs.close()
        try:
            kind, said = self._hear(self._pipe, _START, f"was not loaded within {_START:g} s")
        except EOFError:
            guard = "a script that starts it needs `if __name__ == '__main__':` around its main part"
            raise self._failure(f"{self._last_words()} while it was loaded ({guard})") from None
        if kind != "ready":
            raise self._failure(said)
        return self._pipe

    def _hear(self, pipe: Connection, seconds: float, otherwise: str) -> tuple[str, Any]:
        if not pipe.poll(seconds):
            raise self._failure(f"{otherwise}, and was killed")
        return pipe.recv()

    def _has_ended(self, seconds: float) -> bool:
        """Whether the process ends within a time. It stays a zombie, so that its group's number remains its own."""
        return self._process is None or bool(connection.wait([self._process.sentinel], seconds))

    def _failure(self, what: str) -> RewardError:
        cure = "Fix the reward, or give Isolated more time or memory; no score is assumed."
        return RewardError(f"reward {self._name}, in a process of its own, {what}. {cure}")

    def _last_words(self) -> str:
        """How the process ended, after its end of the pipe was closed."""
        self._has_ended(_LAST_WORDS)
        process = self._process
        self._bury()
        code = 0 if process is None else process.exitcode or 0
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"left with exit status {code}"

    def _bury(self) -> None:
        """Kill the process and all that it started, where there is one."""
        self._end()
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None


def _kill(process: SpawnProcess) -> None:
    """End a process and what it started. It leads a group of its own, except in its first moments."""
    assert process.pid is not None  # it was started
    try:
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        process.kill()
    process.join()


# ------------------------------------------------------------------------------------------------- in the process


def _serve(pipe: Connection, task: bytes, memory: int | None) -> None:
    """Load the reward, report it, then rate until the pipe is closed."""
    if sys.platform != "win32":
        os.setsid()
    Thread(target=_end_with_parent, daemon=True).start()
    try:
        if memory is not None:
            _limit(memory)
        reward = pickle.loads(task)
    except Exception as error:  # noqa: BLE001 - raised where the reward is called
        pipe.send(("failed", f"cannot be loaded ({type(error).__name__}: {error}), so its module must be where Python finds it"))
        return
    pipe.send(("ready", None))
    while True:
        try:
            prompt, drafts, columns = pipe.recv()
        except EOFError:
            return
        try:
            said = "values", rate(cast(Reward, filled(reward, columns)), prompt, drafts).tolist()
        except ExptiltError as error:
            said = type(error).__name__, str(error)
        pipe.send(said)


def _end_with_parent() -> None:
    """A call that hangs must not outlive a program that was killed."""
    parent = parent_process()
    if parent is not None and sys.platform != "win32":
        parent.join()
        os.killpg(0, signal.SIGKILL)


def _limit(memory: int) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
