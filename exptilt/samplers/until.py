"""Stop rules: when enough has been seen of a population. Any function `(Population) -> bool` is one; these are ready-made.

    xt.sample(target, prompt, xt.Independent(64, batch=4), select=xt.vote(answer), until=xt.until.sure(answer, 0.95))

A rule is asked after every population that a sampler yields, so a sampler that yields more often can stop earlier. A run that
stops by what it has drawn is no longer exactly unbiased: log Ẑ and averages lean towards what the rule waits for.

    reward(r)        a draft has the reward r, or more
    sure(answer)     the leading answer of a weighted vote is likely to stay the leading one (an estimate)
    certain(answer)  no further draw can make another answer the most probable one (a proof, `exptilt.populations.certificate`)
    ess(n)           the effective sample size has reached n
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from exptilt.draft import check_text
from exptilt.populations.certificate import certified
from exptilt.populations.population import Population

Answer = Callable[[str], str | None]


@dataclass(frozen=True)
class RewardReached:
    """Whether a draft of positive weight has the reward `least`, or more; made by `reward`."""

    least: float

    def __call__(self, population: Population) -> bool:
        held = population.log_w > -math.inf
        return bool(np.any(population.rewards[held] >= self.least))

    def __str__(self) -> str:
        return f"reward {self.least:g} reached"


def reward(least: float) -> RewardReached:
    """Stop at the first draft with this reward, such as 1.0 for a program that passes every test."""
    if math.isnan(least):
        raise ValueError(f"until.reward({least}): give a number")
    return RewardReached(least)


@dataclass(frozen=True)
class Sure:
    """Whether the leading answer is likely to stay the leading one; made by `sure`."""

    answer: Answer
    level: float

    def __call__(self, population: Population) -> bool:
        check_text("until.sure", population.drafts)
        shares: dict[str, float] = {}
        for draft, weight in zip(population.drafts, population.weights.tolist(), strict=True):
            found = self.answer(draft.text) if weight > 0 else None
            if found is not None:
                shares[found] = shares.get(found, 0.0) + weight
        first, second, *_ = [*sorted(shares.values(), reverse=True), 0.0, 0.0]
        return first > 0 and leads(population.ess * first, population.ess * second) >= self.level

    def __str__(self) -> str:
        return f"the leading answer is sure at {self.level:g}"


def sure(answer: Answer, level: float = 0.95) -> Sure:
    """Stop when the leading answer would stay in front of the second one with probability `level`.

    With a and b the shares of the two times the effective sample size, the probability is that of θ > 1/2 under
    Beta(a + 1, b + 1): as if the population were that many independent draws from π. It is an estimate: among drafts that
    share beginnings, as those of ETS, it is too sure. Four equal answers that weigh the same reach 0.95. Drafts without an
    answer do not count. (For votes of equal weights this is adaptive consistency, Aggarwal et al., 2305.11860.)
    """
    if not 0.5 < level < 1:
        raise ValueError(f"until.sure(level={level}): give a probability above 1/2 and below 1")
    return Sure(answer, level)


def leads(first: float, second: float) -> float:
    """P(θ > 1/2) for θ ~ Beta(first + 1, second + 1), by the midpoint rule; counts need not be whole numbers."""
    cells = 20_000
    theta = (np.arange(cells) + 0.5) / cells
    log_density = first * np.log(theta) + second * np.log1p(-theta)
    density = np.exp(log_density - log_density.max())
    return float(density[cells // 2 :].sum() / density.sum())


@dataclass(frozen=True)
class Certain:
    """Whether an answer is proved to be the most probable one; made by `certain`."""

    answer: Answer
    beta: float
    reward_max: float

    def __call__(self, population: Population) -> bool:
        check_text("until.certain", population.drafts)
        return certified(population, self.answer, beta=self.beta, reward_max=self.reward_max) is not None

    def __str__(self) -> str:
        return "the most probable answer is proved"


def certain(answer: Answer, *, beta: float, reward_max: float) -> Certain:
    """Stop when the drafts seen prove which answer is the most probable one under π.

    beta: that of the target. reward_max: an upper bound of the reward. The drafts must carry log-probabilities of the target's
    own engine, without a proposal (`exptilt.populations.certificate`).
    """
    return Certain(answer, beta, reward_max)


@dataclass(frozen=True)
class EnoughSamples:
    """Whether the effective sample size has reached `least`; made by `ess`."""

    least: float

    def __call__(self, population: Population) -> bool:
        return population.ess >= self.least

    def __str__(self) -> str:
        return f"effective sample size {self.least:g} reached"


def ess(least: float) -> EnoughSamples:
    """Stop when the effective sample size has reached `least`."""
    if not 1 <= least < math.inf:
        raise ValueError(f"until.ess({least}): give a number of 1 or more")
    return EnoughSamples(least)
