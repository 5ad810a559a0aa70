"""What an answer costs per problem: tokens, forwards and FLOPs, of reference model, proposal and reward apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from exptilt.running.result import Result
from exptilt.usage import Usage, Work


@dataclass(frozen=True)
class Load:
    """What one model did per problem, on average: tokens prefilled, generated and scored, and forwards."""

    prompt: float = 0.0
    generated: float = 0.0
    scored: float = 0.0
    forwards: float = 0.0

    @property
    def tokens(self) -> float:
        """All tokens that went through the model."""
        return self.prompt + self.generated + self.scored

    def plus(self, other: Load, times: float = 1.0) -> Load:
        return Load(*(getattr(self, item.name) + times * getattr(other, item.name) for item in fields(Load)))


@dataclass(frozen=True)
class Parameters:
    """How many parameters each token passes through; 0 for a reward that is not a model."""

    reference: float
    proposal: float = 0.0
    reward: float = 0.0

    def __post_init__(self) -> None:
        for name, count in vars(self).items():
            if not 0 <= count < math.inf:
                raise ValueError(f"Parameters({name}={count}): give a number of parameters, 0 for no model")


@dataclass(frozen=True)
class Cost:
    """The mean cost of one problem.

    reward_calls: calls of the reward.
    rated: drafts it rated.
    reward_tokens: response tokens of those drafts, at the mean length of the population; the prompt, which a reward model reads
        too, is not counted.
    """

    reference: Load = Load()
    proposal: Load = Load()
    reward_calls: float = 0.0
    rated: float = 0.0
    reward_tokens: float = 0.0

    @property
    def tokens(self) -> float:
        """Generated and scored by both models: what "equal tokens" means, as in `Usage.tokens`."""
        return sum(load.generated + load.scored for load in (self.reference, self.proposal))

    @property
    def forwards(self) -> float:
        return self.reference.forwards + self.proposal.forwards

    def flops(self, parameters: Parameters) -> tuple[float, float, float]:
        """FLOPs of reference, proposal and reward: 2 per parameter and token, prefilled ones included, attention left out."""
        return (
            2 * parameters.reference * self.reference.tokens,
            2 * parameters.proposal * self.proposal.tokens,
            2 * parameters.reward * self.reward_tokens,
        )

    def plus(self, other: Cost, times: float = 1.0) -> Cost:
        """This cost plus `times` the other one; -1 subtracts it."""
        return Cost(
            self.reference.plus(other.reference, times),
            self.proposal.plus(other.proposal, times),
            self.reward_calls + times * other.reward_calls,
            self.rated + times * other.rated,
            self.reward_tokens + times * other.reward_tokens,
        )

    def share(self, part: float) -> Cost:
        """The cost of a share of the drafts; the prompt is prefilled once all the same."""
        scaled = Cost().plus(self, part)
        return replace(
            scaled,
            reference=replace(scaled.reference, prompt=self.reference.prompt),
            proposal=replace(scaled.proposal, prompt=self.proposal.prompt),
        )

    def draws_alone(self, tokens: float) -> Cost:
        """The cost if only `tokens` had been drawn from the reference: without reward, pilot and scoring."""
        per_token = self.reference.forwards / max(self.reference.generated, 1.0)
        return Cost(Load(self.reference.prompt, tokens, 0.0, tokens * per_token))


def mean_cost(results: Sequence[Result]) -> Cost:
    """The cost of one problem, averaged over results."""
    lengths = [float(np.mean([draft.decided for draft in result.population.drafts])) for result in results]
    return cost_of([result.usage for result in results], lengths)


def cost_of(usages: Sequence[Usage], lengths: Sequence[float]) -> Cost:
    """The mean cost of problems, given what each used and the mean length in tokens of the drafts that it rated."""
    return Cost(
        _mean_load([usage.reference for usage in usages]),
        _mean_load([usage.proposal for usage in usages]),
        float(np.mean([usage.reward_calls for usage in usages])),
        float(np.mean([usage.rated for usage in usages])),
        float(np.mean([usage.rated * length for usage, length in zip(usages, lengths, strict=True)])),
    )


def _mean_load(works: Sequence[Work]) -> Load:
    return Load(*(float(np.mean([getattr(work, item.name) for work in works])) for item in fields(Load)))
