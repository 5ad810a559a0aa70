"""From a prompt to its answer: `sample` for one prompt, `run` for many at once, with a results file to resume from.

A request is checked first, so that what cannot work costs nothing. Then each prompt gets a session of its own, the
sampler yields its populations, and the select picks the answer from the last of them.

The random stream of a prompt hangs on the seed, the prompt's text, and how often the same text came before it in the
list. So an answer does not depend on the other prompts, on their order, on how many run at once, or on which machine,
and `sample(target, prompt, ...)` gives what `run(target, [..., prompt, ...], ...)` gives for it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, Protocol

from exptilt.cluster import Cluster
from exptilt.core import Sampler, Target
from exptilt.errors import TargetError
from exptilt.request import Job, Request, Select, number_jobs
from exptilt.result import Outcome, Result
from exptilt.select import draw
from exptilt.store import Store, from_line, to_line
from exptilt.usage import Budget

Build = Callable[[], Target]
"""Makes the target, where it is needed on another machine: models themselves do not travel."""

Progress = Callable[[int, int, Outcome], None]
"""Hears of each prompt that finishes: how many are done (those of the results file included), of how many, and what came out."""


def sample(
    target: Target, prompt: str, sampler: Sampler, *, select: Select = draw, seed: int = 0, budget: Budget | None = None
) -> Result:
    """Answer one prompt: a draw from π(y|x) ∝ p(y|x)·exp(r(x,y)/β), as exact as the sampler makes it.

    select: how the answer is picked from the weighted drafts; `draw` picks each with its weight's share.
    budget: limits for this prompt. The run then stops with its last complete population, and `stopped="budget"`.

    Raises CapabilityError or TargetError before any work where the parts do not fit, PromptError for an empty or
    overlong prompt, RewardError for a reward that raises or returns no proper numbers, AllWeightsZero where the reward
    excludes everything drawn, BudgetSpent where the budget ends before the first population.
    """
    return Request(target, sampler, select, seed, budget).answer(prompt, 0)


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
    store_population: bool = True,
    cluster: Cluster | None = None,
) -> list[Outcome]:
    """Answer many prompts, up to `concurrency` at a time: one Result or Failure for each, in their order.

    What goes wrong with one prompt (its text, its reward, its budget) becomes a Failure, and the others go on; what
    concerns them all is raised. The budget holds for each prompt.

    target: the target, or a function without arguments that makes it.
    store: a file that gets one JSON line per prompt as it finishes (`exptilt.store`). Where it exists, the prompts in
        it are not run again: it must come from the same settings, but the list of prompts may have grown.
    retry: run the prompts again that the file records as failed; otherwise their failures are kept.
    store_population: whether the file keeps all weighted drafts, so that results read from it are equal to new ones;
        if not, a result that is read back has the chosen draft alone as its population.
    cluster: machines to spread the prompts over, up to `concurrency` at a time on each worker (`exptilt.cluster`). The
        target must then be a function, which every worker calls once. Answers and results file are those of one machine.

    Raises, besides what `sample` raises of the whole request, StoreError for a file that cannot be used, ModelError
    for an engine that fails and ClusterError for a cluster that does. On KeyboardInterrupt the calls under way on this
    machine are completed, those on others given up, and every finished prompt is kept.
    """
    if concurrency < 1:
        raise ValueError(f"concurrency={concurrency} must be at least 1: it is the number of prompts under way at once")
    jobs = number_jobs(prompts)
    with (
        _open(target, partial(Request, sampler=sampler, select=select, seed=seed, budget=budget), concurrency, cluster) as place,
        Store(store, place.settings) if store is not None else nullcontext() as kept,
    ):
        outcomes = (
            {}
            if kept is None
            else {name: from_line(line, sampler, seed) for name, line in kept.lines.items() if not (retry and "error" in line)}
        )
        missing = [job for job in jobs if job.name not in outcomes]
        with closing(place.finish(missing)) as finished:
            for count, (job, outcome) in enumerate(finished, len(jobs) - len(missing) + 1):
                outcomes[job.name] = outcome
                if kept is not None:
                    kept.append(to_line(job.name, outcome, population=store_population))
                if progress is not None:
                    progress(count, len(jobs), outcome)
    return [outcomes[job.name] for job in jobs]


class _Place(Protocol):
    """Where jobs are done: the threads of this process, or the workers of a cluster."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """What `Request.settings` is there."""
        ...

    def finish(self, jobs: Sequence[Job]) -> Generator[tuple[Job, Outcome]]:
        """Jobs with their outcomes, each once, as they finish."""
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

    def finish(self, jobs: Sequence[Job]) -> Generator[tuple[Job, Outcome]]:
        """Outcomes as they come. If one raises, or the caller closes this, the others stop at their next call."""
        halt = Event()
        pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix="exptilt-prompt")
        try:
            futures = {pool.submit(self.request.outcome, job, halt): job for job in jobs}
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            halt.set()
            pool.shutdown(wait=True, cancel_futures=True)
