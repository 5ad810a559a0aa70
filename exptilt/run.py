"""From a prompt to its answer: `sample` for one prompt, `run` for many at once, with a results file to resume from.

A request is checked first, so that what cannot work costs nothing. Then each prompt gets a session of its own, the
sampler yields its populations, and the select picks the answer from the last of them.

The random stream of a prompt hangs on the seed, the prompt's text, and how often the same text came before it in the
list. So an answer does not depend on the other prompts, on their order, or on how many run at once, and
`sample(target, prompt, ...)` gives what `run(target, [..., prompt, ...], ...)` gives for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from exptilt.core import Draft, Sampler, Target, check_capabilities
from exptilt.describe import describe, digest
from exptilt.diagnostics import warnings
from exptilt.errors import AllWeightsZero, BudgetSpent, PromptError, RewardError, TargetError, WeightsError
from exptilt.keys import Key
from exptilt.population import Population
from exptilt.result import Failure, Outcome, Posterior, Result
from exptilt.select import draw
from exptilt.session import Session
from exptilt.store import Store, from_line, to_line
from exptilt.usage import Budget

Select = Callable[[Population, Key], Draft]
"""Picks the answer from a population."""

Progress = Callable[[int, int, Outcome], None]
"""Hears of each prompt that finishes: how many are done (those of the results file included), of how many, and what came out."""

_OF_ONE_PROMPT = (PromptError, RewardError, AllWeightsZero, WeightsError, BudgetSpent)


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
    request = _Request(target, sampler, select, seed, budget)
    return request.answer(prompt, 0)


def run(
    target: Target,
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
) -> list[Outcome]:
    """Answer many prompts, up to `concurrency` at a time: one Result or Failure for each, in their order.

    What goes wrong with one prompt (its text, its reward, its budget) becomes a Failure, and the others go on; what
    concerns them all is raised. The budget holds for each prompt.

    store: a file that gets one JSON line per prompt as it finishes (`exptilt.store`). Where it exists, the prompts in
        it are not run again: it must come from the same settings, but the list of prompts may have grown.
    retry: run the prompts again that the file records as failed; otherwise their failures are kept.
    store_population: whether the file keeps all weighted drafts, so that results read from it are equal to new ones;
        if not, a result that is read back has the chosen draft alone as its population.

    Raises, besides what `sample` raises of the whole request, StoreError for a file that cannot be used and ModelError
    for an engine that fails. On KeyboardInterrupt the calls under way are completed and every finished prompt is kept.
    """
    request = _Request(target, sampler, select, seed, budget)
    if isinstance(prompts, str):
        raise TargetError("run takes a list of prompts and was given one string: use sample, or put it into a list")
    if concurrency < 1:
        raise ValueError(f"concurrency={concurrency} must be at least 1: it is the number of prompts under way at once")
    jobs = _number(prompts)
    with Store(store, request.settings) if store is not None else nullcontext() as kept:
        outcomes = (
            {}
            if kept is None
            else {name: from_line(line, sampler, seed) for name, line in kept.lines.items() if not (retry and "error" in line)}
        )
        missing = [job for job in jobs if job.name not in outcomes]
        with closing(_finish(request, missing, concurrency)) as finished:
            for count, (job, outcome) in enumerate(finished, len(jobs) - len(missing) + 1):
                outcomes[job.name] = outcome
                if kept is not None:
                    kept.append(to_line(job.name, outcome, population=store_population))
                if progress is not None:
                    progress(count, len(jobs), outcome)
    return [outcomes[job.name] for job in jobs]


@dataclass(frozen=True)
class _Job:
    """A prompt, and how many of the same text come before it."""

    prompt: str
    occurrence: int

    @property
    def name(self) -> str:
        return f"{digest(self.prompt)}-{self.occurrence}"


def _number(prompts: Sequence[str]) -> list[_Job]:
    seen: Counter[str] = Counter()
    jobs = []
    for prompt in prompts:
        if not isinstance(prompt, str):
            raise TargetError(f"the prompt {prompt!r} is no text: give a list of strings")
        jobs.append(_Job(prompt, seen[prompt]))
        seen[prompt] += 1
    return jobs


@dataclass(frozen=True)
class _Request:
    """What `sample` and `run` share: everything but the prompts. Checked when it is made."""

    target: Target
    sampler: Sampler
    select: Select
    seed: int
    budget: Budget | None

    def __post_init__(self) -> None:
        if isinstance(self.sampler, type):
            raise TargetError(f"the sampler is the class {self.sampler.__name__}: give an instance, with its parameters")
        if isinstance(self.select, type) or not callable(self.select):
            raise TargetError(f"the select {self.select!r} cannot be called: give draw, best, vote(...), mbr(...) or a function")
        check_capabilities(self.sampler, self.target)

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything that decides what is drawn, as JSON values."""
        target = self.target
        return {
            "engine": describe(target.engine),
            "proposal": describe(target.proposal),
            "reward": describe(target.reward),
            "beta": describe(float(target.beta)),
            "sampler": describe(self.sampler),
            "select": describe(self.select),
            "seed": self.seed,
            "budget": describe(self.budget),
        }

    def answer(self, prompt: str, occurrence: int, halt: Event | None = None) -> Result:
        key = Key(self.seed, digest(prompt), occurrence)
        session = Session(self.target, prompt, key, self.budget, halt)
        population = session.run(self.sampler, key.child("sampler"))
        draft = self.select(population, key.child("select"))
        return Result(
            prompt=prompt,
            draft=draft,
            population=population,
            usage=session.usage,
            trace=session.trace,
            sampler=self.sampler,
            seed=self.seed,
            stopped="done" if session.limit is None else "budget",
            limit=session.limit,
            warnings=tuple(warnings(population, self.target.beta)),
            posterior=dict(self.select.posterior(population)) if isinstance(self.select, Posterior) else None,
        )

    def outcome(self, job: _Job, halt: Event) -> Outcome:
        """The result, or what was wrong with this one prompt."""
        try:
            return self.answer(job.prompt, job.occurrence, halt)
        except _OF_ONE_PROMPT as error:
            return Failure(job.prompt, type(error).__name__, str(error))


def _finish(request: _Request, jobs: Sequence[_Job], concurrency: int) -> Generator[tuple[_Job, Outcome]]:
    """Jobs with their outcomes as they finish. If one raises, or the caller closes this, the others stop at their next call."""
    halt = Event()
    pool = ThreadPoolExecutor(concurrency, thread_name_prefix="exptilt-prompt")
    try:
        futures = {pool.submit(request.outcome, job, halt): job for job in jobs}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        halt.set()
        pool.shutdown(wait=True, cancel_futures=True)
