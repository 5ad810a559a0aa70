"""Where the jobs of a run are done: in threads of this process, or by the workers of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Event, Semaphore, Thread
from time import monotonic, thread_time
from typing import Any, Protocol, TypeVar

from exptilt.cancelling import GLANCE, told_interrupts
from exptilt.core import Target
from exptilt.errors import Cancelled, TargetError
from exptilt.running.cluster import Cluster
from exptilt.running.request import Job, Request
from exptilt.running.result import Failure, Outcome

Word = TypeVar("Word")
Build = Callable[[], Target]
"""Makes the target on the machine that needs it: models themselves are not sent."""
Finished = list[tuple[Job, Outcome]]
"""The jobs that finished since one last asked, with their outcomes."""
_FEW = 8  # threads that begin at once; the others where these wait for something
_LOOK = 0.005  # seconds until that is seen
_WINDOW = 0.05  # seconds over which it is seen
_UNTAKEN = 64  # so many outcomes may wait to be taken: threads of cheap prompts would not let anybody write them down


class Place(Protocol):
    """Where jobs are done: the threads of this process, or the workers of a cluster."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """What `Request.settings` is there."""
        ...

    def check(self, jobs: Sequence[Job]) -> None:
        """Raise TargetError for a job that cannot be done, as far as that is known here."""
        ...

    def finish(self, jobs: Sequence[Job], *, stop: bool) -> Generator[Finished]:
        """Jobs with their outcomes, each once, as they finish: all that are there at a time. With `stop` none are begun after
        the first failure."""
        ...


def open_place(
    target: Target | Build, request: Callable[[Target], Request], concurrency: int, cluster: Cluster | None
) -> AbstractContextManager[Place]:
    if cluster is None:
        return nullcontext(Threads(request(target if isinstance(target, Target) else target()), concurrency))
    if isinstance(target, Target):
        raise TargetError(
            "a cluster's workers cannot be sent a loaded model: give a function without arguments that makes the target, "
            'such as lambda: xt.Target(xt.load("tiny"), reward, beta=0.1)'
        )
    return cluster.crew(target, request, concurrency)


class _Load:
    """How busy the threads of a run are. seconds: the processor time of each, as it was when it last finished a job."""

    def __init__(self, threads: int) -> None:
        self.seconds = [0.0] * threads
        self._before, self._since = 0.0, monotonic()

    def crowded(self) -> bool:
        """Whether they compute all the time, one after the other, as threads of Python do: more would be in each other's way."""
        now, spent = monotonic(), sum(self.seconds)
        share = (spent - self._before) / max(now - self._since, 1e-9)
        if now - self._since >= _WINDOW:
            self._before, self._since = spent, now
        return 0.5 < share < 1.5


@dataclass(frozen=True)
class Threads:
    """This process, with a thread for each prompt under way; a few where prompts only compute, and are done at once."""

    request: Request
    concurrency: int

    @property
    def settings(self) -> Mapping[str, Any]:
        return self.request.settings

    def check(self, jobs: Sequence[Job]) -> None:
        self.request.check_columns(jobs)

    def finish(self, jobs: Sequence[Job], *, stop: bool) -> Generator[Finished]:
        """Outcomes as they come. If one raises, or the caller closes this, the others end within a step; so they do at a
        failure that is to stop the run, and those that are finished nevertheless still come."""
        cancel, waiting = Event(), iter([*jobs])  # an iterator of a list gives each job to one thread
        said: SimpleQueue[tuple[Job, Outcome] | BaseException | None] = SimpleQueue()  # None: a thread has ended
        room, most = Semaphore(_UNTAKEN), min(self.concurrency, len(jobs))
        load = _Load(most)

        def work(number: int) -> None:
            try:
                for job in waiting:
                    outcome = self._finish(job, cancel, stop)
                    load.seconds[number] = thread_time()
                    if outcome is not None:
                        room.acquire()
                        said.put((job, outcome))
            except BaseException as error:  # noqa: BLE001 - raised again in the thread that hears of it
                said.put(error)
            finally:
                said.put(None)

        threads: list[Thread] = []

        def begin(count: int) -> None:
            for number in range(len(threads), count):
                thread = Thread(target=work, args=(number,), name=f"exptilt-prompt-{number}")
                thread.start()
                threads.append(thread)

        with told_interrupts(lambda: said.put(KeyboardInterrupt())):
            try:
                begin(min(_FEW, most))
                ended = 0
                while ended < len(threads):
                    heard = _all_said(said, GLANCE if len(threads) == most else _LOOK)
                    if len(threads) < most and not load.crowded():
                        begin(most)
                    if finished := [each for each in heard if isinstance(each, tuple)]:
                        yield finished
                        room.release(len(finished))
                    for each in heard:
                        if isinstance(each, BaseException):
                            raise each
                    ended += sum(each is None for each in heard)
            finally:
                cancel.set()
                room.release(self.concurrency)
                for thread in threads:
                    thread.join()

    def _finish(self, job: Job, cancel: Event, stop: bool) -> Outcome | None:
        """None where the run was cancelled before."""
        if cancel.is_set():
            return None
        try:
            outcome = self.request.outcome(job, cancel)
        except Cancelled:
            return None
        if stop and isinstance(outcome, Failure):
            cancel.set()  # here, before this thread takes up another prompt
        return outcome


def _all_said(said: SimpleQueue[Word], seconds: float) -> list[Word]:
    """Wait for a word, for so long at most, and take those that are there by then, but none that come meanwhile.

    Who waits for longer asks again: else Ctrl-C could go unheard until a silent server answers.
    """
    try:
        return [said.get(timeout=seconds), *(said.get() for _ in range(said.qsize()))]
    except Empty:
        return []
