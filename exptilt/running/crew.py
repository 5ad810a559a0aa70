"""The workers of a run on a cluster, seen from both sides: what a worker does, and what happens when one dies.

Here is the process that called `run`; there, on some machine, a `Worker` with an engine of its own. A crew hands out
jobs as workers have room for them. When a worker dies, a new one replaces it, and its jobs go back to the end of
the list. A job with one attempt left gets it on a worker without other jobs, and
is recorded as failed if the worker dies again: no prompt is blamed for another.
"""

from __future__ import annotations

import importlib
import logging
import os
import pickle
import socket
import textwrap
from collections import Counter, deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exptilt.errors import ClusterError
from exptilt.running.request import Job, Request
from exptilt.running.result import Failure, Outcome
from exptilt.running.settings import changes

_DEATHS = 5  # a worker is not replaced after this many deaths, successors included, without a finished prompt in between
_PATIENCE = 30.0  # after as many seconds without a worker the cluster is looked at again
RESUME = "Finished prompts are in the results file, if the run has one: start it again to resume"

_log = logging.getLogger("exptilt")


# ------------------------------------------------------------------------------------------------- on the other side


class Worker:
    """A Ray actor: the request, made once, and the jobs it is handed, each in a thread.

    task: a pickled function that makes the request.
    folder: the run's working directory, taken where it exists here.
    """

    def __init__(self, task: bytes, folder: str) -> None:
        self.task = task
        if Path(folder).is_dir():
            os.chdir(folder)

    def start(self) -> tuple[str, Mapping[str, Any]]:
        """Make the request. The name of this machine, and the request's settings here."""
        host = socket.gethostname()
        try:
            make = pickle.loads(self.task)
        except (ImportError, AttributeError) as error:
            raise ClusterError(
                f"{host} cannot load the request ({error}): install there what is installed here, and send your own "
                "modules along with `ray job submit --working-dir . -- ...` or ray.init(runtime_env=...)"
            ) from error
        self.request: Request = make()
        return host, self.request.settings

    def do(self, job: Job) -> bytes:
        """The job's outcome, pickled: as plain bytes it does not hold on to Ray's shared memory."""
        return importlib.import_module("ray.cloudpickle").dumps(self.request.outcome(job))


# --------------------------------------------------------------------------------------------------- on this side


@dataclass(eq=False)
class _Post:
    """One worker from the crew's side. jobs: how many it has. alone: whether it has one that must run alone."""

    actor: Any
    deaths: int = 0
    ready: bool = False
    gone: bool = False
    alone: bool = False
    jobs: int = 0


@dataclass
class _Jobs:
    """The jobs nobody works on, in turn, and those that must be worked on alone because workers died of them."""

    attempts: int
    turn: deque[Job]
    apart: deque[Job] = field(default_factory=deque)
    deaths: Counter[Job] = field(default_factory=Counter)

    def __bool__(self) -> bool:
        return bool(self.turn or self.apart)

    def put_back(self, job: Job, reason: str) -> Failure | None:
        """Take a job back from a dead worker; a Failure where that was its last attempt."""
        self.deaths[job] += 1
        if self.deaths[job] >= self.attempts:
            times = f"{self.attempts} times" if self.attempts > 1 else "once"
            return Failure(
                job.prompt,
                ClusterError.__name__,
                f"its worker died {times} while it was under way, {'at last alone: ' if self.attempts > 1 else ''}{reason}",
                id=job.id,
                columns=job.columns,
                index=job.index,
            )
        (self.apart if self.deaths[job] == self.attempts - 1 else self.turn).append(job)
        return None


class Crew:
    """The workers of one run: `settings` and `finish` are what `run` needs of whatever does its jobs.

    ray: the package, connected.
    hire: starts a `Worker` and returns its handle.
    room: how many workers the cluster has room for, or ClusterError.
    workers: how many; None: as many as that.
    concurrency: jobs of one worker at a time.
    attempts: how many deaths of its worker make a job a Failure.
    """

    def __init__(
        self, ray: Any, hire: Callable[[], Any], room: Callable[[], int], *, workers: int | None, concurrency: int, attempts: int
    ) -> None:
        self._ray, self._hire, self._room, self._concurrency, self._attempts = ray, hire, room, concurrency, attempts
        self._posts: list[_Post] = []
        self._calls: dict[Any, tuple[_Post, Job | None]] = {}  # by their Ray references
        self._first: tuple[str, Mapping[str, Any]] | None = None
        self._end = ""  # the reason of the last death
        most = room()
        for _ in range(workers or most):
            self._fill(0)

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings that the workers agree on: waits for the first of them."""
        nothing = _Jobs(self._attempts, deque())
        while self._first is None:
            self._hear(nothing)
        return self._first[1]

    def check(self, jobs: Sequence[Job]) -> None:
        """Nothing: the reward is known to the workers alone, and each checks the jobs that it is handed."""

    def finish(self, jobs: Sequence[Job], *, stop: bool) -> Generator[list[tuple[Job, Outcome]]]:
        """Jobs with their outcomes, each once, as they finish. Raises what goes wrong with more than one prompt.

        stop: end with the first failure; what is under way on the workers then is given up.
        """
        waiting, left = _Jobs(self._attempts, deque(jobs)), len(jobs)
        while left:
            self._hand_out(waiting)
            done = self._hear(waiting)
            if done is not None:
                yield [done]
                left = 0 if stop and isinstance(done[1], Failure) else left - 1

    def close(self) -> None:
        for post in self._posts:
            self._ray.kill(post.actor)

    def _fill(self, deaths: int) -> None:
        post = _Post(self._hire(), deaths)
        self._posts.append(post)
        self._calls[post.actor.start.remote()] = (post, None)

    def _hand_out(self, waiting: _Jobs) -> None:
        """Give every worker as many jobs as it may have, in turns; those to be done alone only when no other is left."""
        while waiting:
            free = [post for post in self._posts if post.ready and not post.alone and post.jobs < self._concurrency]
            post = min(free, key=lambda post: post.jobs, default=None)
            if post is None or not (waiting.turn or post.jobs == 0):
                return
            post.alone = not waiting.turn
            job = (waiting.apart if post.alone else waiting.turn).popleft()
            post.jobs += 1
            self._calls[post.actor.do.remote(job)] = (post, job)

    def _hear(self, waiting: _Jobs) -> tuple[Job, Outcome] | None:
        """Wait for one call to end; a job with its outcome, where there is one now."""
        reference = self._next()
        post, job = self._calls.pop(reference)
        errors = self._ray.exceptions
        try:
            said = self._ray.get(reference)
        except errors.RayTaskError as error:  # the worker raised it
            raise error.cause from None
        except errors.RayError as error:
            self._bury(post, error)
            failure = None if job is None else waiting.put_back(job, self._end)
            return None if job is None or failure is None else (job, failure)
        if job is None:
            self._welcome(post, *said)
            return None
        post.jobs, post.alone, post.deaths = post.jobs - 1, False, 0
        return job, pickle.loads(said)

    def _next(self) -> Any:
        while self._calls:
            ended, _ = self._ray.wait([*self._calls], num_returns=1, timeout=_PATIENCE)
            if ended:
                return ended[0]
            if not any(post.ready for post in self._posts):
                self._room()
                _log.warning("no worker is ready yet: they load their models, or wait for machines that others use")
        raise ClusterError(f"no worker is left, each died {_DEATHS} times without finishing a prompt: {self._end}. {RESUME}.")

    def _welcome(self, post: _Post, host: str, settings: Mapping[str, Any]) -> None:
        self._first = self._first or (host, settings)
        if differences := changes(self._first[1], settings):
            raise ClusterError(
                f"the machines {self._first[0]} and {host} would not draw from the same distribution ({differences}): "
                f"give both the same model and the same versions. {RESUME}."
            )
        post.ready = True

    def _bury(self, post: _Post, error: Exception) -> None:
        """Replace a dead worker, at the first of its calls that reports the death."""
        if post.gone:
            return
        post.gone, self._end = True, _reason(error)
        self._posts.remove(post)
        self._ray.kill(post.actor)  # the worker may only be out of reach, and would keep its resources
        _log.warning("a worker died, and the %d prompts that it was working on go back to the list: %s", post.jobs, self._end)
        if post.deaths + 1 < _DEATHS:
            self._fill(post.deaths + 1)


def _reason(error: Exception) -> str:
    """What Ray says of a death, without the numbers of the actor and without its list of common causes."""
    said = " ".join(str(error).split()).partition("Some common causes")[0]
    return textwrap.shorten(said.partition("The actor is dead because ")[2] or said, 240, placeholder=" ...")
