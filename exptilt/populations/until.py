"""Stop rules: when what has been drawn for a prompt is enough, asked of each population that a sampler yields.

    xt.sample(target, prompt, xt.Independent(64, batch=4), select=xt.vote(number), until=xt.until.sure(number, 0.95))

A stop rule is any function `(Population) -> bool`. These are the ready-made ones:

    reward(r)                    some draft has a reward of r or more
    sure(answer, level)          the leading answer is ahead with this posterior probability
    certain(answer)              the leading answer is proved to be the most probable one (`exptilt.populations.certificate`)
    ess(n)                       the effective sample size is n or more
    log_z_error(e)               the standard error of log Ẑ is e nats or less

A sampler that draws everything at once is asked at its end only: give `Independent` a `batch`. Stopping when enough is seen
biases Ẑ, by +31 % in a measured case, whatever the rule (docs/stopping.md), so a population at which a run was stopped has no
log Ẑ; its shares, and the answer, are those of the drafts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from exptilt.draft import check_text
from exptilt.errors import TargetError
from exptilt.populations.certificate import certified
from exptilt.populations.leading import different_draws, independent_draws, leading, leads
from exptilt.populations.population import Population

Until = Callable[[Population], bool]
"""A stop rule: whether enough has been seen."""

Answer = Callable[[str], str | None]

_LEAST = 16  # draws; a standard error that is estimated from fewer says nothing


@runtime_checkable
class Explained(Protocol):
    """A stop rule that tells what it saw."""

    def why(self, population: Population) -> str:
        """Why this population is enough, in words."""
        ...


@runtime_checkable
class Checked(Protocol):
    """A stop rule that is not of use with every sampler and target."""

    def check(self, sampler: Any, target: Any) -> None:
        """Raise TargetError, before any work, where the rule could not be right."""
        ...


# ------------------------------------------------------------------------------------------------------------ rules


@dataclass(frozen=True)
class RewardReached:
    """Some draft has this reward or more; made by `reward`."""

    least: float
    help: ClassVar[str] = "reward:R, a draft has a reward of R or more"

    def __post_init__(self) -> None:
        if not math.isfinite(self.least):
            raise ValueError(f"until.reward({self.least}): give a finite reward")

    def __call__(self, population: Population) -> bool:
        return self._top(population) >= self.least

    def why(self, population: Population) -> str:
        """The reward that was reached."""
        return f"reward {self.least:g} reached: a draft has {self._top(population):g}"

    def _top(self, population: Population) -> float:
        return float(population.rewards[population.log_w > -math.inf].max())


@dataclass(frozen=True)
class Sure:
    """The leading answer is ahead of the second with this posterior probability; made by `sure`."""

    answer: Answer
    level: float
    weighted: bool = True
    help: ClassVar[str] = "sure:ANSWER:P, the leading answer has the posterior probability P of leading"

    def __post_init__(self) -> None:
        _check_answer("sure", self.answer)
        if not 0.5 < self.level < 1:
            raise ValueError(f"until.sure(level={self.level}): give a probability above 0.5 and below 1, such as 0.95")

    def __call__(self, population: Population) -> bool:
        return leads(*self._leading(population)[1:]) >= self.level

    def why(self, population: Population) -> str:
        """The two leading counts, and how sure the first of them is."""
        leader, first, second = self._leading(population)
        level = leads(first, second)
        return f"sure at {self.level:g}: {leader!r:.40} leads by {first:.3g} draws to {second:.3g}, probability {level:.3g}"

    def _leading(self, population: Population) -> tuple[str | None, float, float]:
        check_text("until.sure", population.drafts)
        if self.weighted:
            return leading(population, self.answer, population.weights * independent_draws(population))
        held = (population.log_w > -math.inf).astype(np.float64)
        return leading(population, self.answer, held * min(1.0, different_draws(population) / held.sum()))


@dataclass(frozen=True)
class Certain:
    """The leading answer is proved; made by `certain`."""

    answer: Answer
    beta: float | None = None
    reward_max: float | None = None
    help: ClassVar[str] = "certain:ANSWER[:REWARD_MAX], the leading answer is proved to be the most probable one"

    def __post_init__(self) -> None:
        _check_answer("certain", self.answer)
        if self.beta is not None and not 0 < self.beta < math.inf:
            raise ValueError(f"until.certain(beta={self.beta}): give the target's β, a positive finite number, or leave it out")
        if self.reward_max is not None and not math.isfinite(self.reward_max):
            raise ValueError(f"until.certain(reward_max={self.reward_max}): give a finite upper bound of the reward")

    def check(self, sampler: Any, target: Any) -> None:
        """Refuse drafts that do not tell their probability under p, and another β than the target's."""
        if target.proposal is not None:
            raise TargetError("until.certain needs drafts of the engine itself, and the target has a proposal: leave it out")
        if "logq" not in target.engine.can:
            raise TargetError(
                f"until.certain needs log-probabilities, which {target.engine.name} does not tell: take another rule"
            )
        if self.beta not in (None, target.beta):
            raise TargetError(f"until.certain(beta={self.beta}) is not the target's beta={target.beta}: leave beta out")

    def __call__(self, population: Population) -> bool:
        return self._proved(population) is not None

    def why(self, population: Population) -> str:
        """The answer that is proved."""
        return f"proved: {self._proved(population)!r:.40} is the most probable answer"

    def _proved(self, population: Population) -> str | None:
        if self.beta is None:
            return population.certified(self.answer, self.reward_max)
        if (bound := population.reward_max if self.reward_max is None else self.reward_max) is None:
            raise TargetError("until.certain needs an upper bound of the reward, which this one does not tell: give reward_max")
        return certified(population, self.answer, beta=self.beta, reward_max=bound)


@dataclass(frozen=True)
class SampleSize:
    """The effective sample size is large enough; made by `ess`."""

    least: float
    help: ClassVar[str] = "ess:N, the effective sample size is N or more"

    def __post_init__(self) -> None:
        if not 1 <= self.least < math.inf:
            raise ValueError(f"until.ess({self.least}): give a number of drafts of 1 or more")

    def __call__(self, population: Population) -> bool:
        return independent_draws(population) >= self.least * (1 - 1e-9)  # n equal weights have n to the last digit but one

    def why(self, population: Population) -> str:
        """The effective sample size reached."""
        return f"effective sample size {self.least:g} reached: it is {independent_draws(population):.1f}"


@dataclass(frozen=True)
class LogZError:
    """The standard error of log Ẑ is small enough; made by `log_z_error`."""

    most: float
    help: ClassVar[str] = "log_z_error:E, the standard error of log Ẑ is E nats or less"

    def __post_init__(self) -> None:
        if not 0 < self.most < math.inf:
            raise ValueError(f"until.log_z_error({self.most}): give a positive number of nats")

    def check(self, sampler: Any, target: Any) -> None:
        """Refuse samplers whose drafts depend on each other: their weights do not tell the error of their sum."""
        if getattr(sampler, "weights", None) != "draws":
            raise TargetError(
                f"until.log_z_error needs independent draws, and those of {type(sampler).__name__} do not tell the error "
                'of log Ẑ: take Independent(n, batch=...) with weights="draws", or another stop rule'
            )

    def __call__(self, population: Population) -> bool:
        return len(population) >= _LEAST and self._error(population) <= self.most

    def why(self, population: Population) -> str:
        """The estimate and its error, which the result does not give as its own."""
        return (
            f"standard error {self.most:g} of log Ẑ reached: log Ẑ was {population.log_z:.4g} with "
            f"{self._error(population):.2g}, an estimate that stopping there biases"
        )

    def _error(self, population: Population) -> float:
        """The relative standard error of the mean of the n weights: √((1/ESS - 1/n)·n/(n - 1))."""
        if not population.proper:
            raise TargetError("until.log_z_error needs proper weights, and there is no log Ẑ here: take another stop rule")
        count = len(population)
        return math.sqrt(max(0.0, 1.0 / population.ess - 1.0 / count) * count / (count - 1))


# ----------------------------------------------------------------------------------------------------- how to make one


def reward(least: float) -> RewardReached:
    """Stop once a draft that has any weight has a reward of `least` or more: the first success of a verifier."""
    return RewardReached(least)


def sure(answer: Answer, level: float = 0.95, *, weighted: bool = True) -> Sure:
    """Stop once the leading answer is ahead of the second with posterior probability `level`.

    With v₁ and v₂ draws for the two leading answers, the share of the first among both is Beta(v₁+1, v₂+1) by a uniform
    prior, and the rule asks P(share > 1/2) ≥ level: the stopping rule of adaptive self-consistency (Aggarwal et al., 2305.11860).
    weighted: v is the answer's weight times the effective sample size; otherwise each draft counts once. A chain repeats its
    state where it rejects, so its draws are as many as its different states at the most. Drafts without an answer do not count.

    The level is calibrated only in expectation: over problems whose shares are as the prior says. It is not a guarantee for any
    one of them, and asking again after every batch makes errors more frequent than 1 - level on close votes. It speaks of
    the vote's limit and not of the right answer.
    """
    return Sure(answer, level, weighted)


def certain(answer: Answer, *, beta: float | None = None, reward_max: float | None = None) -> Certain:
    """Stop once the responses seen prove which answer is the most probable under π, whatever was not seen.

    beta: of the target; known to every population that `sample`, `stream` and `run` hand out. reward_max: an upper bound of the
    reward; may be left out where the reward tells its own, as exptilt's rules do. Needs log-probabilities and no proposal.
    """
    return Certain(answer, beta, reward_max)


def ess(least: float) -> SampleSize:
    """Stop once the effective sample size is `least` or more; of a chain, as many different states as that as well."""
    return SampleSize(least)


def log_z_error(most: float) -> LogZError:
    """Stop once the standard error of log Ẑ is `most` nats or less, by 16 or more independent draws.

    The error is estimated from the weights seen, and a rare large one that was not seen is not in it. The result has no log Ẑ,
    because stopping biases it; `limit` tells what it was. For an unbiased one draw as many as it took in a second run.
    """
    return LogZError(most)


def _check_answer(rule: str, answer: object) -> None:
    if not callable(answer):
        raise ValueError(f"until.{rule}({answer!r:.80}) cannot read answers: give a function (text) -> str or None")
