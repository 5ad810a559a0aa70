"""Where the jobs of a run are done: in threads of this process, or by the workers of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from queue import SimpleQueue
from threading import Event
from typing import Any, Protocol

from exptilt.cancelling import told_interrupts
from exptilt.core import Target
from exptilt.errors import Cancelled, TargetError
from exptilt.running.cluster import Cluster
from exptilt.running.request import Job, Request
from exptilt.running.result import Failure, Outcome

_AHEAD = 2  # prompts under way or waiting for a thread, for each thread: one that ends finds the next at once
Build = Callable[[], Target]
"""Makes the target on the machine that needs it: models themselves are not sent."""


class Place(Protocol):
    """Where jobs are done: the threads of this process, or the workers of a cluster."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """What `Request.settings` is there."""
        ...

    def check(self, jobs: Sequence[Job]) -> None:
        """Raise TargetError for a job that cannot be done, as far as that is known here."""
        ...

    def finish(self, jobs: Sequence[Job], *, stop: bool) -> Generator[tuple[Job, Outcome]]:
        """Jobs with their outcomes, each once, as they finish; with `stop` no more than those that end with the first failure."""
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


@dataclass(frozen=True)
class Threads:
    """This process, with a thread for each prompt under way."""

    request: Request
    concurrency: int

    @property
    def settings(self) -> Mapping[str, Any]:
        return self.request.settings

    def check(self, jobs: Sequence[Job]) -> None:
        self.request.check_columns(jobs)

    def finish(self, jobs: Sequence[Job], *, stop: bool) -> Generator[tuple[Job, Outcome]]:
        """Outcomes as they come. If one raises, or the caller closes this, the others end within a step; so they do at a
        failure that is to stop the run, and those that are finished nevertheless still come."""
        cancel, waiting = Event(), iter(jobs)
        ended: SimpleQueue[Future[Outcome | None] | None] = SimpleQueue()  # None for Ctrl-C
        pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix="exptilt-prompt")
        futures: dict[Future[Outcome | None], Job] = {}
        with told_interrupts(lambda: ended.put(None)):
            try:
                while True:
                    for job in islice(waiting, _AHEAD * self.concurrency - len(futures)):
                        future = pool.submit(self._finish, job, cancel, stop)
                        futures[future] = job
                        future.add_done_callback(ended.put)
                    if not futures:
                        return
                    if (future := ended.get()) is None:
                        raise KeyboardInterrupt
                    job, outcome = futures.pop(future), future.result()
                    if outcome is not None:
                        yield job, outcome
            finally:
                cancel.set()
                pool.shutdown(wait=True, cancel_futures=True)

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
