"""What `run` is asked to do, apart from where it is done: the parts of a run checked, and its prompts as jobs.

A request answers one job at a time and keeps nothing between them, so threads, processes and machines can share the
jobs out among them as they like. The random stream of a job depends on the seed, the prompt, and how often the same
prompt came before it in the list: its answer is the same wherever and beside whatever else it is computed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from exptilt.cancelling import Flag
from exptilt.core import Sampler, Target, check_capabilities
from exptilt.describe import describe
from exptilt.draft import Chat, Draft, Prompt, Turn, as_prompt, prompt_digest
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
from exptilt.proposals import cover_warning
from exptilt.rating import reward_name
from exptilt.rewards.rules import Zero
from exptilt.running.result import Failure, Outcome, Partial, Posterior, Result
from exptilt.running.session import Session
from exptilt.usage import Budget

Select = Callable[[Population, Key], Draft]
"""Picks the answer from a population."""

_OF_ONE_PROMPT = (PromptError, AnswerError, RewardError, SelectError, AllWeightsZero, WeightsError, BudgetSpent)
"""These errors become a Failure. Any other, a ModelError above all, concerns the other prompts too and ends the run."""


@dataclass(frozen=True)
class Job:
    """A prompt, and how many equal ones come before it."""

    prompt: Prompt
    occurrence: int

    @property
    def name(self) -> str:
        return f"{prompt_digest(self.prompt)}-{self.occurrence}"


def number_jobs(prompts: Sequence[Any]) -> list[Job]:
    """The prompts as jobs, in their order. Raises TargetError for one prompt alone, PromptError for what is not a prompt."""
    if isinstance(prompts, str | Chat) or any(map(_is_message, prompts)):
        raise TargetError("run takes a list of prompts and was given one prompt: use sample, or put it into a list")
    seen: Counter[Prompt] = Counter()
    jobs = []
    for prompt in map(as_prompt, prompts):
        jobs.append(Job(prompt, seen[prompt]))
        seen[prompt] += 1
    return jobs


def _is_message(given: Any) -> bool:
    return isinstance(given, Turn) or (isinstance(given, Mapping) and "role" in given)


@dataclass(frozen=True)
class Request:
    """What `sample`, `stream` and `run` share: everything but the prompts. Checked when it is made.

    until: a stop rule, asked after every population; None to let the sampler come to its end.
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

    def __post_init__(self) -> None:
        if isinstance(self.sampler, type):
            raise TargetError(f"the sampler is the class {self.sampler.__name__}: give an instance, with its parameters")
        if isinstance(self.select, type) or not callable(self.select):
            raise TargetError(f"the select {self.select!r} cannot be called: give draw, best, vote(...), mbr(...) or a function")
        if self.until is not None and (isinstance(self.until, type) or not callable(self.until)):
            raise TargetError(
                f"until={self.until!r} cannot be called: give a function of a population that returns True or False"
            )
        if self.reward_timeout is not None and not 0 < self.reward_timeout < math.inf:
            raise TargetError(f"reward_timeout={self.reward_timeout} must be a positive number of seconds, or None for no limit")
        check_capabilities(self.sampler, self.target)
        if isinstance(self.until, Checked):
            self.until.check(self.sampler, self.target)

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything that decides what is drawn, as JSON values."""
        target = self.target
        rule = {} if self.until is None else {"until": describe(self.until)}  # files from before stop rules have no such line
        return {
            "engine": describe(target.engine),
            "proposal": describe(target.proposal),
            "reward": describe(target.reward),
            "beta": describe(float(target.beta)),
            "sampler": describe(self.sampler),
            "select": describe(self.select),
            "seed": self.seed,
            "budget": describe(self.budget),
            **rule,
        }

    def partials(self, prompt: Prompt, occurrence: int, cancel: Flag | None = None) -> Generator[Partial, None, Result]:
        """What is known after each population, and then the result. `cancel` ends it within a step, with `Cancelled`."""
        key = Key(self.seed, prompt_digest(prompt), occurrence)
        session = Session(self.target, prompt, key, self.budget, cancel, self.reward_timeout)
        population: Population | None = None
        for population in session.populations(self.sampler, key.child("sampler"), self.until):
            select = partial(self._selected, population, key.child("select"))
            yield Partial(prompt, population, session.usage.copy(), session.trace, select)
        assert population is not None  # without one the session raises
        draft, posterior = self._selected(population, key.child("select"))
        return Result(
            prompt=prompt,
            draft=draft,
            population=population,
            usage=session.usage,
            trace=session.trace,
            sampler=self.sampler,
            seed=self.seed,
            stopped=session.stopped,
            limit=session.limit,
            warnings=(
                *self._of_target(),
                *self._of_rule(session),
                *warnings(population, self.target.beta, has_reward=not isinstance(self.target.reward, Zero)),
            ),
            posterior=posterior,
            proved=self._proved(population),
        )

    def answer(self, prompt: Prompt, occurrence: int, cancel: Flag | None = None) -> Result:
        """The result of one prompt; raises what went wrong."""
        partials = self.partials(prompt, occurrence, cancel)
        while True:
            try:
                next(partials)
            except StopIteration as end:
                return end.value

    def _of_target(self) -> list[str]:
        """Reasons not to trust any population of this target."""
        engine, proposal = self.target.engine, self.target.proposal
        if proposal is None:
            return []
        found = cover_warning(engine.name, engine.settings, proposal.name, proposal.settings)
        return [found] if found else []

    def _of_rule(self, session: Session) -> list[str]:
        """What a stop rule does to a result, beside what `stopped` and `limit` say."""
        if self.until is None:
            return []
        if len(session.trace) == 1 and getattr(self.sampler, "batch", 0) is None:
            return [
                f"{type(self.sampler).__name__} drew everything at once, so the stop rule could save nothing: give it a batch, "
                "and the rule is asked after each."
            ]
        if session.stopped == "done" and session.trace[-1]["log_z"] is not None:
            return [
                "The stop rule was not met, and only results where it was not have log Ẑ: over many prompts or seeds these are a "
                "selection, whose mean is biased."
            ]
        return []

    def _proved(self, population: Population) -> str | None:
        """The proved answer of a vote, where proofs are possible. Raises RewardError for a reward above its own bound."""
        select, told = self.select, (population.beta, population.reward_max)
        provable = population.own_logq and all(draft.logq is not None and draft.order is None for draft in population.drafts)
        if not isinstance(select, Vote) or None in told or not provable:
            return None
        top = float(population.rewards.max())
        if population.reward_max is not None and top > population.reward_max:
            raise RewardError(
                f"reward {reward_name(self.target.reward)} gave {top:g} and says that reward_max={population.reward_max:g} is "
                "its upper bound: correct the bound, or let it say None"
            )
        return population.certified(select.answer)

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

    def outcome(self, job: Job, cancel: Flag | None = None) -> Outcome:
        """The result, or what was wrong with this one prompt."""
        try:
            return self.answer(job.prompt, job.occurrence, cancel)
        except _OF_ONE_PROMPT as error:
            return Failure(job.prompt, type(error).__name__, str(error))
