"""What a run returns: a result for each prompt, or the record of why there is none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol, runtime_checkable

from exptilt.core import Sampler
from exptilt.draft import Draft, Prompt, prompt_text, shortened
from exptilt.populations.notebook import framed
from exptilt.populations.population import Population
from exptilt.running.notebook import result_html
from exptilt.usage import Usage

Stopped = Literal["done", "budget", "until"]


@runtime_checkable
class Posterior(Protocol):
    """A select that can also tell the weight of each answer, as `vote` can."""

    def posterior(self, population: Population) -> Mapping[Any, float]: ...


@dataclass(frozen=True, eq=False)
class Result:
    """The answer to one prompt, with everything that led to it.

    draft: the chosen response.
    population: all weighted drafts it was chosen from.
    usage: what the run cost.
    trace: one record for each population the sampler yielded: tokens and seconds so far, n, ess, max_share, log_z, mean_reward,
        excluded, and grown: whether the population before it is its first rows; with a proposal also its overlap with the model
        so far, the fields of `exptilt.populations.overlap.Overlap`. How the sampler reached the last of them is in
        `population.trace`.
    stopped: "done", "budget" where a limit came first, or "until" where the stop rule was met; then `limit` says which and why,
        in words, and the population is the last complete one. Its size depends on what was drawn: at a budget log Ẑ is no longer
        exactly unbiased, and at a stop rule, which biases it most, it is None.
    warnings: in plain words, why these numbers may deserve less trust than they seem to.
    posterior: the weight of each answer, where the select can tell it.
    proved: of a vote, the answer that is proved to be the most probable under π (`Population.certified`), where one is and the
        reward tells an upper bound of itself; None otherwise.
    id, columns: what the data set has besides the prompt.
    index: the place of the prompt in the input of its run.
    """

    prompt: Prompt
    draft: Draft
    population: Population
    usage: Usage
    trace: tuple[Mapping[str, Any], ...]
    sampler: Sampler
    seed: int
    stopped: Stopped = "done"
    limit: str | None = None
    warnings: tuple[str, ...] = ()
    posterior: Mapping[Any, float] | None = None
    proved: str | None = None
    id: str | int | None = None
    columns: Mapping[str, Any] = field(default_factory=dict, repr=False)
    index: int = 0

    def __repr__(self) -> str:
        facts = [f"reward={self.reward:.4g}"] if self.reward is not None else []
        facts += [f"{name}={share:.3g}" for name, share in self._leading()]
        facts += [repr(self.population), f"{self.usage.tokens:,} tokens"]
        facts += [f"stopped={self.stopped!r}"] if self.stopped != "done" else []
        facts += [f"{len(self.warnings)} warning{'s' * (len(self.warnings) > 1)}"] if self.warnings else []
        return f"Result({shortened(self.text, 70)!r}, {', '.join(facts)})"

    def _leading(self) -> list[tuple[str, float]]:
        """The first answer of the posterior, with its weight."""
        first = next(iter((self.posterior or {}).items()), None)
        return [] if first is None else [(f"P({shortened(str(first[0]), 20)!r})", first[1])]

    @property
    def text(self) -> str:
        """The chosen response as text."""
        return self.draft.text

    def _repr_html_(self) -> str:
        """The result in a notebook: the answer, its numbers, and how it came about."""
        return framed(result_html(self))

    def _repr_png_(self) -> bytes | None:
        """The chosen response in notebooks, where it is a picture."""
        return self.draft._repr_png_()

    @property
    def log_z(self) -> float | None:
        """log Ẑ in nats; None where the sampler's weights are not proper, or a stop rule ended the run."""
        return self.population.log_z

    @property
    def reward(self) -> float | None:
        """The reward of the chosen response; None for a select that returned a draft from outside the population."""
        return reward_of(self.draft, self.population)


@dataclass(frozen=True, eq=False)
class Partial:
    """The state of a prompt's run after one of its populations; the answer is selected when it is first asked for.

    population: the weighted drafts so far.
    usage: what they cost.
    trace: as in `Result`.
    select: picks the answer from the population, and tells the weight of each answer where it can.
    """

    prompt: Prompt
    population: Population
    usage: Usage
    trace: tuple[Mapping[str, Any], ...]
    select: Callable[[], tuple[Draft, Mapping[Any, float] | None]] = field(repr=False)

    def __repr__(self) -> str:
        return f"Partial({self.population!r}, {self.usage.tokens:,} tokens)"

    @property
    def draft(self) -> Draft:
        """The response that the run would return if it ended here."""
        return self._selected[0]

    @property
    def posterior(self) -> Mapping[Any, float] | None:
        """The weight of each answer, where the select can tell it."""
        return self._selected[1]

    @cached_property
    def _selected(self) -> tuple[Draft, Mapping[Any, float] | None]:
        return self.select()

    @property
    def text(self) -> str:
        """That response as text."""
        return self.draft.text

    @property
    def log_z(self) -> float | None:
        """log Ẑ in nats; None where the sampler's weights are not proper."""
        return self.population.log_z

    @property
    def reward(self) -> float | None:
        """The reward of that response; None for a select that returned a draft from outside the population."""
        return reward_of(self.draft, self.population)


def reward_of(chosen: Draft, population: Population) -> float | None:
    """The reward of a draft of the population; None for one from outside."""
    rows = [row for row, draft in enumerate(population.drafts) if draft == chosen]
    return float(population.rewards[rows[0]]) if rows else None


@dataclass(frozen=True)
class Failure:
    """A prompt that has no result.

    error: the name of the exception, such as "RewardError".
    message: its text.
    usage: what was spent on it, where that is known: not in older results files, and not where a worker died.
    id, columns, index: as in `Result`.
    """

    prompt: Prompt
    error: str
    message: str
    usage: Usage | None = None
    id: str | int | None = None
    columns: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)
    index: int = 0

    def __repr__(self) -> str:
        return f"Failure({self.error}: {shortened(self.message, 120)!r}, prompt={shortened(prompt_text(self.prompt), 40)!r})"


Outcome = Result | Failure
