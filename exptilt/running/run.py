"""From a prompt to its answer: `sample` for one prompt, `run` for many at once, with a results file to resume from.

A request is checked first, so that what cannot work costs nothing. Then each prompt gets a session of its own, the
sampler yields its populations, and the select picks the answer from the last of them.

The random stream of a prompt hangs on the seed, the prompt's text, and how often the same text came before it in the
list. So an answer does not depend on the other prompts, on their order, on how many run at once, or on which machine,
and `sample(target, prompt, ...)` gives what `run(target, [..., prompt, ...], ...)` gives for it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, Literal, Protocol, get_args

from exptilt.core import Sampler, Target
from exptilt.errors import ExptiltError, StoreError, TargetError, error_named
from exptilt.populations.select import draw
from exptilt.running.cluster import Cluster
from exptilt.running.lines import from_line, to_line
from exptilt.running.request import Job, Request, Select, number_jobs
from exptilt.running.result import Failure, Outcome, Result
from exptilt.running.session import Halted
from exptilt.running.store import Store
from exptilt.usage import Budget

Build = Callable[[], Target]
"""Makes the target, where it is needed on another machine: models themselves do not travel."""

OnError = Literal["record", "stop"]

ALIKE = 10  # first prompts of a run that fail by the same one of these errors: then the set-up is at fault, not the prompts
_OF_THE_SET_UP = ("AnswerError", "RewardError", "SelectError")

Progress = Callable[[int, int, Outcome], None]
"""Hears of each prompt that finishes: how many are done (those of the results file included), of how many, and what came out."""


def sample(
    target: Target,
    prompt: str,
    sampler: Sampler,
    *,
    select: Select = draw,
    seed: int = 0,
    budget: Budget | None = None,
    reward_timeout: float | None = None,
) -> Result:
    """Answer one prompt: a draw from π(y|x) ∝ p(y|x)·exp(r(x,y)/β), as exact as the sampler makes it.

    select: how the answer is picked from the weighted drafts; `draw` picks each with its weight's share.
    budget: limits for this prompt. The run then stops with its last complete population, and `stopped="budget"`.
    reward_timeout: seconds that one call of the reward may take; None for any. A call that takes longer is left behind in
        a thread that nothing waits for: only `rewards.Isolated` can end it, or survive a crash of the interpreter.

    Raises CapabilityError or TargetError before any work where the parts do not fit, PromptError for an empty or
    overlong prompt, RewardError for a reward that raises, takes too long or returns no proper numbers, AllWeightsZero
    where the reward excludes everything drawn, BudgetSpent where the budget ends before the first population.
    """
    return Request(target, sampler, select, seed, budget, reward_timeout).answer(prompt, 0)


def run(
    target: Target | Build,
    prompts: Sequence[str],
    sampler: Sampler,
    *,
    select: Select = draw,
    seed: int = 0,
    store: str | Path | None = None,
    concurrency: int = 32,
    budget: Budget | None = None,
    progress: Progress | None = None,
    retry: bool = False,
    on_error: OnError = "record",
    reward_timeout: float | None = None,
    store_population: bool = True,
    cluster: Cluster | None = None,
) -> list[Outcome]:
    """Answer many prompts, up to `concurrency` at a time: one Result or Failure for each, in their order.

    What goes wrong with one prompt (its text, a server's answer, its reward, its budget) becomes a Failure, and the others
    go on; what concerns them all is raised. So is the error of the first 10 prompts, where a server's answers, the reward
    or the select fail for every one of them. The budget holds for each prompt, reward_timeout for each call of the reward,
    as in `sample`.

    target: the target, or a function without arguments that makes it.
    store: a file that gets one JSON line per prompt as it finishes (`exptilt.running.store`). Where it exists, the prompts in
        it are not run again: it must come from the same settings, but the list of prompts may have grown.
    retry: run the prompts again that the file records as failed; otherwise their failures are kept.
    on_error: "record" as above; "stop" ends the run at the first Failure and raises its error. The results file then holds
        that failure and all that was finished by then; without retry, the same run stops there again.
    store_population: whether the file keeps all weighted drafts, so that results read from it are equal to new ones;
        if not, a result that is read back has the chosen draft alone as its population.
    cluster: machines to spread the prompts over, up to `concurrency` at a time on each worker (`exptilt.running.cluster`). The
        target must then be a function, which every worker calls once. Answers and results file are those of one machine.

    Raises, besides what `sample` raises of the whole request, StoreError for a file that cannot be used, ModelError
    for an engine that fails and ClusterError for a cluster that does. On KeyboardInterrupt the calls under way on this
    machine are completed, those on others given up, and every finished prompt is kept.
    """
    if concurrency < 1:
        raise ValueError(f"concurrency={concurrency} must be at least 1: it is the number of prompts under way at once")
    if on_error not in get_args(OnError):
        raise ValueError(f'on_error={on_error!r}: give "record" to go on after a failure, or "stop"')
    jobs = number_jobs(prompts)
    names = {job.name for job in jobs}
    request = partial(Request, sampler=sampler, select=select, seed=seed, budget=budget, reward_timeout=reward_timeout)
    with (
        _open(target, request, concurrency, cluster) as place,
        Store(store, place.settings) if store is not None else nullcontext() as kept,
    ):
        outcomes = (
            {}
            if kept is None
            else {
                name: _read_back(line, sampler, seed, kept.path)
                for name, line in kept.lines.items()
                if name in names and not (retry and "error" in line)
            }
        )
        missing = [job for job in jobs if job.name not in outcomes]
        stop = on_error == "stop"
        if stop:
            _raise_failure(outcomes.values(), store)
        beginning = _Beginning(over=any(isinstance(outcome, Result) for outcome in outcomes.values()))
        with closing(place.finish(missing, stop=stop)) as finished:
            for count, (job, outcome) in enumerate(finished, len(jobs) - len(missing) + 1):
                outcomes[job.name] = outcome
                if kept is not None:
                    kept.append(to_line(job.name, outcome, population=store_population))
                if progress is not None:
                    progress(count, len(jobs), outcome)
                beginning.check(outcome)
        if stop:
            _raise_failure(outcomes.values(), store)
    return [outcomes[job.name] for job in jobs]


def _read_back(line: Mapping[str, Any], sampler: Sampler, seed: int, store: Path) -> Outcome:
    try:
        return from_line(line, sampler, seed)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, ExptiltError) as error:
        raise StoreError(
            f"the line of id {line['id']} in {store} is not of the form of a result ({type(error).__name__}: {error}). The file "
            "was not touched: restore it, or delete that line, and its prompt will run again."
        ) from error


def _raise_failure(outcomes: Iterable[Outcome], store: str | Path | None) -> None:
    """Raise the error of the first failure among the outcomes, if there is one."""
    for outcome in outcomes:
        if isinstance(outcome, Failure):
            where = "" if store is None else f" This is recorded in {store}: retry=True (--retry) runs the prompt again."
            raise error_named(outcome.error, f"the run stopped at the prompt {outcome.prompt[:60]!r}: {outcome.message}{where}")


@dataclass
class _Beginning:
    """The first prompts of a run, which tell whether its set-up works. over: one prompt has shown that it does."""

    over: bool = False
    failures: int = 0
    error: str = ""

    def check(self, outcome: Outcome) -> None:
        """Raise the error of the first prompts where as many as ALIKE, and all so far, failed by the same one."""
        if self.over or not isinstance(outcome, Failure) or self.error not in ("", outcome.error):
            self.over = True
            return
        self.failures, self.error = self.failures + 1, outcome.error
        if outcome.error in _OF_THE_SET_UP and self.failures == ALIKE:
            raise error_named(
                outcome.error,
                f"the first {ALIKE} prompts all failed, so the run was ended before the others do. The last one: "
                f"{outcome.message} Once that is put right, retry=True (--retry) runs failed prompts of a results file again.",
            )


class _Place(Protocol):
    """Where jobs are done: the threads of this process, or the workers of a cluster."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """What `Request.settings` is there."""
        ...

    def finish(self, jobs: Sequence[Job], *, stop: bool) -> Generator[tuple[Job, Outcome]]:
        """Jobs with their outcomes, each once, as they finish; with `stop` no more than those that end with the first failure."""
        ...


def _open(
    target: Target | Build, request: Callable[[Target], Request], concurrency: int, cluster: Cluster | None
) -> AbstractContextManager[_Place]:
    if cluster is None:
        return nullcontext(_Threads(request(target if isinstance(target, Target) else target()), concurrency))
    if isinstance(target, Target):
        raise TargetError(
            "a cluster's workers cannot be sent a loaded model: give a function without arguments that makes the target, "
            'such as lambda: xt.Target(xt.load("tiny"), reward, beta=0.1)'
        )
    return cluster.crew(target, request, concurrency)


@dataclass(frozen=True)
class _Threads:
    """This process, with a thread for each prompt under way."""

    request: Request
    concurrency: int

    @property
    def settings(self) -> Mapping[str, Any]:
        return self.request.settings

    def finish(self, jobs: Sequence[Job], *, stop: bool) -> Generator[tuple[Job, Outcome]]:
        """Outcomes as they come. If one raises, or the caller closes this, the others stop at their next call; so they do
        at a failure that is to stop the run, and those that are finished nevertheless still come."""
        halt = Event()
        pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix="exptilt-prompt")
        try:
            futures = {pool.submit(self._finish, job, halt, stop): job for job in jobs}
            for future in as_completed(futures):
                if (outcome := future.result()) is not None:
                    yield futures[future], outcome
        finally:
            halt.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def _finish(self, job: Job, halt: Event, stop: bool) -> Outcome | None:
        """None where the run was halted before."""
        if halt.is_set():
            return None
        try:
            outcome = self.request.outcome(job, halt)
        except Halted:
            return None
        if stop and isinstance(outcome, Failure):
            halt.set()  # here, before this thread takes up another prompt
        return outcome
