"""What `run` is asked to do, apart from where it is done: the parts of a run checked, and its prompts as jobs.

A request answers one job at a time and keeps nothing between them, so threads, processes and machines can share the
jobs out among them as they like. The random stream of a job depends on the seed, the prompt, and how often the same
prompt came before it in the list: its answer is the same wherever and beside whatever else it is computed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from numbers import Integral
from pathlib import Path
from typing import Any

from exptilt.cancelling import Flag
from exptilt.core import Sampler, Target, check_capabilities
from exptilt.describe import describe
from exptilt.draft import Chat, Draft, Prompt, Turn, prompt_digest, prompt_text
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
from exptilt.keys import Key
from exptilt.populations.population import Population
from exptilt.populations.select import Vote
from exptilt.populations.until import Checked, Until
from exptilt.populations.warnings import warnings
from exptilt.rating import reward_name
from exptilt.rewards.columns import filled, reads_any, wanted
from exptilt.rewards.rules import Zero
from exptilt.running.allocation import Allocation
from exptilt.running.example import as_example
from exptilt.running.examples import read_examples
from exptilt.running.reasons import of_run, of_target
from exptilt.running.result import Failure, Outcome, Partial, Posterior, Result
from exptilt.running.session import Session
from exptilt.samplers import Independent
from exptilt.usage import Budget, Usage

Select = Callable[[Population, Key], Draft]
"""Picks the answer from a population."""

_OF_ONE_PROMPT = (PromptError, AnswerError, RewardError, SelectError, AllWeightsZero, WeightsError, BudgetSpent)
"""These errors become a Failure. Any other, a ModelError above all, concerns the other prompts too and ends the run."""


@dataclass(frozen=True)
class Job:
    """A prompt, how many equal ones come before it, and how many other runs of the sampler it had before this one.

    id, columns: of the problem that the prompt is part of.
    index: its position in the input.
    """

    prompt: Prompt
    occurrence: int
    part: int = 0
    id: str | int | None = field(default=None, compare=False)
    columns: Mapping[str, Any] = field(default_factory=dict, compare=False)
    index: int = field(default=0, compare=False)

    @cached_property
    def name(self) -> str:
        return f"{self._digest}-{self.occurrence}" + (f"+{self.part}" if self.part else "")

    @cached_property
    def _digest(self) -> str:
        return prompt_digest(self.prompt)

    def key(self, seed: int) -> Key:
        """The key of all that is drawn for it, apart from the sampler's own draws."""
        return Key(seed, self._digest, self.occurrence)

    def sampler_key(self, seed: int) -> Key:
        """The key of the sampler's draws: each part has streams of its own."""
        key = self.key(seed)
        return key.child("part", self.part, "sampler") if self.part else key.child("sampler")


def number_jobs(prompts: Iterable[Any] | Path) -> list[Job]:
    """The prompts or examples as jobs, in their order; those of a file for a path.

    Raises TargetError for one prompt alone, PromptError for what is not a prompt.
    """
    if isinstance(prompts, Path):
        prompts = read_examples(prompts)
    if not isinstance(prompts, Iterable):
        raise TargetError(f"run takes a list of prompts and was given {prompts!r:.60}, which has none")
    rows = [] if isinstance(prompts, str | Chat) else list(prompts)  # a generator can be gone through once
    if isinstance(prompts, str | Chat) or any(map(_is_message, rows)):
        raise TargetError("run takes a list of prompts and was given one prompt: use sample, or put it into a list")
    if isinstance(prompts, Mapping):
        raise TargetError("run takes a list of prompts and was given a mapping: give its rows")
    seen: Counter[Prompt] = Counter()
    jobs = []
    for index, example in enumerate(map(as_example, rows)):
        jobs.append(Job(example.prompt, seen[example.prompt], id=example.id, columns=example.columns, index=index))
        seen[example.prompt] += 1
    return jobs


def _is_message(given: Any) -> bool:
    return isinstance(given, Turn) or (isinstance(given, Mapping) and {"role", "content"} <= given.keys())


@dataclass(frozen=True)
class Request:
    """What `sample`, `stream` and `run` share: everything but the prompts. Checked when it is made.

    until: a stop rule, asked after every population; None to let the sampler come to its end.
    allocation: how the tokens of a whole run are shared out among its prompts; None where each prompt is on its own.
    reward_timeout: seconds that one call of the reward may take. It does not change what is drawn, so it is not a setting: a run
        that hung can be resumed from its file with a limit.
    """

    target: Target
    sampler: Sampler
    select: Select
    seed: int
    budget: Budget | None
    reward_timeout: float | None = None
    until: Until | None = None
    allocation: Allocation | None = None

    def __post_init__(self) -> None:
        if isinstance(self.sampler, type):
            raise TargetError(f"the sampler is the class {self.sampler.__name__}: give an instance, with its parameters")
        if not (callable(self.sampler) and callable(getattr(self.sampler, "needs", None))):
            raise TargetError(
                f"the sampler {self.sampler!r:.60} is not one: give a sampler with its parameters, such as xt.ETS(8, 2, 16)"
            )
        if not isinstance(self.seed, Integral) or isinstance(self.seed, bool):
            raise TargetError(f"seed={self.seed!r} must be a whole number")
        if not (self.budget is None or isinstance(self.budget, Budget)):
            raise TargetError(f"budget={self.budget!r} is not a Budget: give xt.Budget(tokens=...), or None for no limit")
        if isinstance(self.select, type) or not callable(self.select):
            raise TargetError(f"the select {self.select!r} cannot be called: give draw, best, vote(...), mbr(...) or a function")
        if self.until is not None and (isinstance(self.until, type) or not callable(self.until)):
            raise TargetError(
                f"until={self.until!r} cannot be called: give a function of a population that returns True or False"
            )
        if self.reward_timeout is not None and not 0 < self.reward_timeout < math.inf:
            raise TargetError(f"reward_timeout={self.reward_timeout} must be a positive number of seconds, or None for no limit")
        if self.budget is not None and self.budget.total_tokens is not None and self.allocation is None:
            raise TargetError(
                f"total_tokens={self.budget.total_tokens} is for a whole run and needs allocate=..., which shares it out: give "
                "that to run, or tokens=... as the limit of each prompt"
            )
        check_capabilities(self.sampler, self.target)
        if isinstance(self.until, Checked):
            self.until.check(self.sampler, self.target)

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything that decides what is drawn, as JSON values."""
        target = self.target
        later = {"until": self.until, "allocation": self.allocation}  # files from before have no such lines
        return {
            "engine": describe(target.engine),
            "proposal": describe(target.proposal),
            "reward": describe(target.reward),
            "beta": describe(float(target.beta)),
            "sampler": describe(self.sampler),
            "select": describe(self._select_as_used()),
            "seed": int(self.seed),
            "budget": describe(self.budget),
            **{name: describe(value) for name, value in later.items() if value is not None},
        }

    def check_columns(self, jobs: Iterable[Job]) -> None:
        """Raise TargetError for a problem without a column that the reward reads."""
        for job in jobs if self._needed else ():
            if missing := sorted(self._needed - job.columns.keys()):
                has = ", ".join(job.columns) or "none"
                raise TargetError(
                    f"reward {reward_name(self.target.reward)} reads the column {missing[0]!r}, and problem {job.index + 1} "
                    f"({prompt_text(job.prompt)[:40]!r}) has {has}: name the column so, or the reward's parameter"
                )

    @cached_property
    def _needed(self) -> frozenset[str]:
        """The columns that every problem must have."""
        return wanted(self.target.reward) if self._reads_any else frozenset()

    @cached_property
    def _posterior(self) -> Posterior | None:
        """The select, where it tells the weight of each answer too."""
        return self.select if isinstance(self.select, Posterior) else None

    @cached_property
    def _reads_any(self) -> bool:
        """Whether the reward is to be filled with a problem's columns."""
        return reads_any(self.target.reward)

    def _select_as_used(self) -> Select:
        """The select, without what it cannot do here: files of votes that count draws still resume where all votes do."""
        counts = isinstance(self.sampler, Independent) and "logq" in self.target.law.can and self.sampler.weights == "draws"
        if not isinstance(self.select, Vote) or counts or not type(self.sampler).__module__.startswith("exptilt."):
            return self.select
        return replace(self.select, distinct=False)

    def partials(self, job: Job, cancel: Flag | None = None, usage: Usage | None = None) -> Generator[Partial, None, Result]:
        """What is known after each population, and then the result. `cancel` ends it within a step, with `Cancelled`.

        usage: gets what is spent, also where an error ends it.
        """
        session, key = self._session(job, cancel, usage), job.key(self.seed).child("select")
        population: Population | None = None
        for population in session.populations(self.sampler, job.sampler_key(self.seed), self.until):
            yield Partial(job.prompt, population, session.usage.copy(), session.trace, partial(self._selected, population, key))
        assert population is not None  # without one the session raises
        return self._ended(job, session, population)

    def answer(self, job: Job, cancel: Flag | None = None, usage: Usage | None = None) -> Result:
        """The result of one job; raises what went wrong."""
        session = self._session(job, cancel, usage)
        return self._ended(job, session, session.run(self.sampler, job.sampler_key(self.seed), self.until))

    def _session(self, job: Job, cancel: Flag | None, usage: Usage | None) -> Session:
        self.check_columns([job])
        target = replace(self.target, reward=filled(self.target.reward, job.columns)) if self._reads_any else self.target
        return Session(target, job.prompt, job.key(self.seed), self.budget, cancel, self.reward_timeout, usage)

    def _ended(self, job: Job, session: Session, population: Population) -> Result:
        result = self.result(job, population, session.usage, session.trace, of_run(session, self.sampler, self.until))
        return replace(result, stopped=session.stopped, limit=session.limit)

    def result(
        self, job: Job, population: Population, usage: Usage, trace: tuple[Mapping[str, Any], ...], labels: Sequence[str]
    ) -> Result:
        """The result that a population makes. labels: what else is to be said of it, among its warnings."""
        draft, posterior = self._selected(population, job.key(self.seed).child("select"))
        return Result(
            prompt=job.prompt,
            draft=draft,
            population=population,
            usage=usage,
            trace=trace,
            sampler=self.sampler,
            seed=self.seed,
            warnings=(
                *of_target(self.target),
                *labels,
                *warnings(population, self.target.beta, has_reward=not isinstance(self.target.reward, Zero)),
            ),
            posterior=posterior,
            proved=self.proved(population),
            id=job.id,
            columns=job.columns,
            index=job.index,
        )

    def proved(self, population: Population) -> str | None:
        """The proved answer of a vote, where proofs are possible. Raises RewardError for a reward above its own bound."""
        top = float(population.rewards.max())
        if not isinstance(self.select, Vote):
            return None
        if population.reward_max is not None and top > population.reward_max:
            raise RewardError(
                f"reward {reward_name(self.target.reward)} gave {top:g} and says that reward_max={population.reward_max:g} is "
                "its upper bound: correct the bound, or let it say None"
            )
        return population.proved(self.select.answer)

    def _selected(self, population: Population, key: Key) -> tuple[Draft, Mapping[Any, float] | None]:
        """The chosen draft, and the weight of each answer where the select tells it. Raises SelectError."""
        name = getattr(self.select, "__qualname__", None) or type(self.select).__qualname__
        try:
            draft = self.select(population, key)
            posterior = None if self._posterior is None else dict(self._posterior.posterior(population))
        except (ExptiltError, KeyboardInterrupt):
            raise
        except BaseException as error:  # SystemExit too: a select that calls exit() must not end the run
            raise SelectError(
                f"select {name} raised {type(error).__name__}: {error}{raised_at(error)}. Correct the select."
            ) from error
        if not isinstance(draft, Draft):
            raise SelectError(f"select {name} returned {draft!r:.80}: return one of population.drafts")
        return draft, posterior

    def outcome(self, job: Job, cancel: Flag | None = None) -> Outcome:
        """The result, or what was wrong with this one prompt."""
        usage = Usage()
        try:
            return self.answer(job, cancel, usage)
        except _OF_ONE_PROMPT as error:
            return Failure(job.prompt, type(error).__name__, str(error), usage, job.id, job.columns, job.index)
