"""What `run` is asked to do, apart from where it is done: the parts of a run checked, and its prompts as jobs.

A request answers one job at a time and keeps nothing between them, so threads, processes and machines can share the
jobs out among them as they like. The random stream of a job hangs on the seed, the prompt's text, and how often the
same text came before it in the list: its answer is the same wherever and beside whatever else it is computed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Any

from exptilt.core import Sampler, Target, check_capabilities
from exptilt.describe import describe
from exptilt.draft import Draft
from exptilt.errors import (
    AllWeightsZero,
    AnswerError,
    BudgetSpent,
    ExptiltError,
    PromptError,
    RewardError,
    SelectError,
    TargetError,
    WeightsError,
    raised_at,
)
from exptilt.keys import Key, digest
from exptilt.populations.population import Population
from exptilt.populations.warnings import warnings
from exptilt.proposals import cover_warning
from exptilt.running.result import Failure, Outcome, Posterior, Result
from exptilt.running.session import Session
from exptilt.usage import Budget

Select = Callable[[Population, Key], Draft]
"""Picks the answer from a population."""

_OF_ONE_PROMPT = (PromptError, AnswerError, RewardError, SelectError, AllWeightsZero, WeightsError, BudgetSpent)
"""What becomes a Failure. Whatever else is raised, a ModelError above all, concerns the other prompts too and ends the run."""


@dataclass(frozen=True)
class Job:
    """A prompt, and how many of the same text come before it."""

    prompt: str
    occurrence: int

    @property
    def name(self) -> str:
        return f"{digest(self.prompt)}-{self.occurrence}"


def number_jobs(prompts: Sequence[str]) -> list[Job]:
    """The prompts as jobs, in their order. Raises TargetError for what is no text."""
    if isinstance(prompts, str):
        raise TargetError("run takes a list of prompts and was given one string: use sample, or put it into a list")
    seen: Counter[str] = Counter()
    jobs = []
    for prompt in prompts:
        if not isinstance(prompt, str):
            raise TargetError(f"the prompt {prompt!r} is no text: give a list of strings")
        jobs.append(Job(prompt, seen[prompt]))
        seen[prompt] += 1
    return jobs


@dataclass(frozen=True)
class Request:
    """What `sample` and `run` share: everything but the prompts. Checked when it is made.

    reward_timeout: seconds that one call of the reward may take. It decides nothing that is drawn, so it is no setting:
    a run that hung goes on from its file with a limit.
    """

    target: Target
    sampler: Sampler
    select: Select
    seed: int
    budget: Budget | None
    reward_timeout: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.sampler, type):
            raise TargetError(f"the sampler is the class {self.sampler.__name__}: give an instance, with its parameters")
        if isinstance(self.select, type) or not callable(self.select):
            raise TargetError(f"the select {self.select!r} cannot be called: give draw, best, vote(...), mbr(...) or a function")
        if self.reward_timeout is not None and not 0 < self.reward_timeout < math.inf:
            raise TargetError(f"reward_timeout={self.reward_timeout} must be a positive number of seconds, or None for no limit")
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
        """The result of one prompt; raises what went wrong. `halt` ends it at its next call, with `Halted`."""
        key = Key(self.seed, digest(prompt), occurrence)
        session = Session(self.target, prompt, key, self.budget, halt, self.reward_timeout)
        population = session.run(self.sampler, key.child("sampler"))
        draft, posterior = self._selected(population, key.child("select"))
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
            warnings=(*self._of_target(), *warnings(population, self.target.beta)),
            posterior=posterior,
        )

    def _of_target(self) -> list[str]:
        """What speaks against trusting any population of this target."""
        engine, proposal = self.target.engine, self.target.proposal
        if proposal is None:
            return []
        found = cover_warning(engine.name, engine.settings, proposal.name, proposal.settings)
        return [found] if found else []

    def _selected(self, population: Population, key: Key) -> tuple[Draft, Mapping[Any, float] | None]:
        """The chosen draft, and the weight of each answer where the select tells it. Raises SelectError."""
        name = getattr(self.select, "__qualname__", None) or type(self.select).__qualname__
        try:
            draft = self.select(population, key)
            posterior = dict(self.select.posterior(population)) if isinstance(self.select, Posterior) else None
        except (ExptiltError, KeyboardInterrupt):
            raise
        except BaseException as error:  # SystemExit too: a select that calls exit() must not end the run
            raise SelectError(
                f"select {name} raised {type(error).__name__}: {error}{raised_at(error)}. Correct the select."
            ) from error
        if not isinstance(draft, Draft):
            raise SelectError(f"select {name} returned {draft!r:.80}: return one of population.drafts")
        return draft, posterior

    def outcome(self, job: Job, halt: Event | None = None) -> Outcome:
        """The result, or what was wrong with this one prompt."""
        try:
            return self.answer(job.prompt, job.occurrence, halt)
        except _OF_ONE_PROMPT as error:
            return Failure(job.prompt, type(error).__name__, str(error))
