"""What a run hands back: a result for each prompt, or the record of why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from exptilt.core import Sampler
from exptilt.draft import Draft
from exptilt.populations.population import Population
from exptilt.usage import Usage


@runtime_checkable
class Posterior(Protocol):
    """A select that can also tell the weight of each answer, as `vote` can."""

    def posterior(self, population: Population) -> Mapping[Any, float]: ...


@dataclass(frozen=True, eq=False)
class Result:
    """The answer to one prompt, with everything that led to it.

    draft: the chosen response. population: all weighted drafts it was chosen from. usage: what the run cost.
    trace: one record for each population the sampler yielded: tokens and seconds so far, n, ess, max_share, log_z,
        mean_reward. How the sampler came to the last of them is told by `population.trace`.
    stopped: "done", or "budget" where a limit came first; then `limit` says which, in words, and the population is the
        last complete one. Its size hangs on what was drawn, so log Ẑ is no longer exactly unbiased.
    warnings: in plain words, why these numbers may deserve less trust than they seem to.
    posterior: the weight of each answer, where the select can tell it.
    """

    prompt: str
    draft: Draft
    population: Population
    usage: Usage
    trace: tuple[Mapping[str, Any], ...]
    sampler: Sampler
    seed: int
    stopped: Literal["done", "budget"] = "done"
    limit: str | None = None
    warnings: tuple[str, ...] = ()
    posterior: Mapping[Any, float] | None = None

    @property
    def text(self) -> str:
        """The chosen response as text."""
        return self.draft.text

    @property
    def log_z(self) -> float | None:
        """log Ẑ in nats; None where the sampler's weights are not proper."""
        return self.population.log_z

    @property
    def reward(self) -> float | None:
        """The reward of the chosen response; None for a select that returned a draft from outside the population."""
        rows = [row for row, draft in enumerate(self.population.drafts) if draft == self.draft]
        return float(self.population.rewards[rows[0]]) if rows else None


@dataclass(frozen=True)
class Failure:
    """A prompt that has no result. error: the name of the exception, such as "RewardError"; message: its words."""

    prompt: str
    error: str
    message: str


Outcome = Result | Failure
