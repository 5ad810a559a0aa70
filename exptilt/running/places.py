"""Where the jobs of a run are done: in threads of this process, or by the workers of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from threading import Event
from typing import Any, Protocol

from exptilt.core import Target
from exptilt.errors import Cancelled, TargetError
from exptilt.running.cluster import Cluster
from exptilt.running.request import Job, Request
from exptilt.running.result import Failure, Outcome

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
        cancel = Event()
        pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix="exptilt-prompt")
        try:
            futures = {pool.submit(self._finish, job, cancel, stop): job for job in jobs}
            for future in as_completed(futures):
                if (outcome := future.result()) is not None:
                    yield futures[future], outcome
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
