"""Results files as lessons: the drafts of each prompt, with weights that sum to one.

Aligning a model without reinforcement learning maximises Σ_x Σ_i ŵ_i log π_θ(y_i|x) (Jiao, Chen and Li, 2509.04372, eqs. 19-22),
where ŵ are weights normalised within the prompt. With draws from p and

    Tilt(beta):           w ∝ exp(r/β)            the maximum is π ∝ p·exp(r/β), what RL from human feedback aims at
    Power(length, beta):  w ∝ p(y)^(1/(Lβ - 1))   the maximum is p^(Lβ/(Lβ - 1)), what RL from internal feedback aims at

Any properly weighted population serves as well as draws from p; the states of a chain serve at the β of their run. Equal drafts
are counted once, by the probability that n draws find them, where the draws are independent (`exptilt.populations.distinct`).

Independent draws whose factors exp(r/β) are all equal have nothing to teach: their weights say p, and the model is p already.
Such prompts are left out and counted. A population of another sampler may have equal weights and still be drawn from π.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from exptilt.draft import Draft, Prompt, as_prompt, known_logq
from exptilt.errors import TrainError
from exptilt.keys import Floats
from exptilt.populations.diagnostics import log_shares
from exptilt.populations.population import Population
from exptilt.running.lines import stored_population
from exptilt.running.settings import changes
from exptilt.running.store import read_store

Settings = Mapping[str, Any]


class Form(Protocol):
    """What the drafts of a population weigh. whole: whether drafts that the reward excludes have a weight."""

    whole: ClassVar[bool]

    def factors(self, population: Population) -> Floats:
        """log of the factor by which the target differs from p, for each draft; float64 [n], in nats."""
        ...

    @property
    def settings(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Tilt:
    """π ∝ p·exp(r/β). beta: None for the β of the results files."""

    beta: float | None = None
    whole: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.beta is not None and not 0 < self.beta < math.inf:
            raise ValueError(f"beta={self.beta!r} must be a positive finite number")

    def factors(self, population: Population) -> Floats:
        return population.rewards / (self.beta or _beta(population))

    @property
    def settings(self) -> dict[str, Any]:
        return {"form": "tilt", "beta": self.beta}


@dataclass(frozen=True)
class Power:
    """p^(Lβ/(Lβ - 1)): the model sharpened by its own probabilities.

    length: L, the number of tokens of a response over which self-certainty is averaged, most simply the token cap.
    beta: β of that internal reward, in nats for each token; Lβ must be above 1.
    """

    length: int
    beta: float
    whole: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (isinstance(self.length, int) and self.length >= 1 and 0 < self.beta < math.inf):
            raise ValueError(f"length={self.length!r} must be a whole number of 1 or more, and beta={self.beta!r} positive")
        if not self.length * self.beta > 1:
            raise ValueError(
                f"length·beta = {self.length}·{self.beta:g} = {self.length * self.beta:g} must be above 1: the target is p to "
                "the power Lβ/(Lβ - 1), where L is the number of tokens of a response over which self-certainty is averaged. "
                f"Below 1 there is no such distribution, only the likeliest response. Give beta above {1 / self.length:g}."
            )

    @property
    def exponent(self) -> float:
        """1/(Lβ - 1), by which p is multiplied with itself: the target is p^(1 + exponent)."""
        return 1.0 / (self.length * self.beta - 1.0)

    def factors(self, population: Population) -> Floats:
        if not population.own_logq:
            raise TrainError("the log-probabilities of these drafts are a proposal's, but those of p are wanted: draw without it")
        return self.exponent * np.array([math.fsum(known_logq(draft)) for draft in population.drafts])

    @property
    def settings(self) -> dict[str, Any]:
        return {"form": "power", "length": self.length, "beta": self.beta}


@dataclass(frozen=True, eq=False)
class Lesson:
    """The drafts of one prompt. weights: float64 [drafts], positive, sum 1. ess: their effective sample size."""

    prompt: Prompt
    drafts: tuple[Draft, ...]
    weights: Floats

    @property
    def ess(self) -> float:
        return float(1.0 / np.sum(self.weights**2))


@dataclass(frozen=True, eq=False)
class Lessons:
    """What results files teach.

    engine, proposal: the settings of p, and of the distributions that drafts were drawn from instead, of each file one.
    items: a lesson for each prompt that has one.
    flat: how many prompts have nothing to teach. failed: how many have no result.
    """

    engine: Settings
    proposals: tuple[Settings, ...]
    items: tuple[Lesson, ...]
    flat: int = 0
    failed: int = 0

    @property
    def ess(self) -> Floats:
        """The effective sample size of each lesson's weights; float64 [lessons]."""
        return np.array([lesson.ess for lesson in self.items])

    @property
    def drafts(self) -> int:
        return sum(len(lesson.drafts) for lesson in self.items)


@dataclass(frozen=True, eq=False)
class Drawn:
    """The population of one prompt. plain: whether it consists of independent draws."""

    prompt: Prompt
    population: Population
    plain: bool


@dataclass(frozen=True, eq=False)
class Source:
    """What is in some results files of one target. failed: how many prompts have no result."""

    engine: Settings
    reward: Any
    proposals: tuple[Settings, ...]
    drawn: tuple[Drawn, ...]
    failed: int


def read_lessons(stores: Sequence[str | Path], form: Form | None = None) -> Lessons:
    """The lessons of results files. form: `Tilt()` where not given.

    Raises StoreError for a file that cannot be read, TrainError for files of different targets, without populations, or with
    nothing to teach.
    """
    form, source = form or Tilt(), read_source(stores)
    items, flat, alone = [], 0, 0
    for drawn in source.drawn:
        lesson = _lesson(drawn, form)
        flat += lesson is None
        alone += drawn.plain and len(drawn.population) == 1
        items += [] if lesson is None else [lesson]
    if not items:
        raise TrainError(_nothing(len(source.drawn), alone, source.failed))
    return Lessons(source.engine, source.proposals, tuple(items), flat, source.failed)


def _nothing(prompts: int, alone: int, failed: int) -> str:
    if not prompts:
        return f"there is no result to learn from ({failed} prompts failed): run the prompts again with --retry"
    if alone == prompts:
        return (
            "each prompt has a single draft, and weights are normalised within a prompt: its weight is 1 whatever its reward. "
            "Draw several for each prompt, such as --n 16."
        )
    return (
        f"none of the {prompts} prompts has anything to teach: within each, all drafts have the same reward, so π is p itself. "
        "Draw more for each prompt, take prompts that are neither always nor never solved, or a reward that tells drafts apart."
    )


def _lesson(drawn: Drawn, form: Form) -> Lesson | None:
    """The lesson of a prompt; None where its draws have nothing to teach."""
    if drawn.plain and np.ptp(form.factors(drawn.population)) == 0:  # of -inf and a number it is inf
        return None
    population = drawn.population
    if not population.proper and isinstance(form, Tilt) and form.beta in (None, population.beta):
        log_w = population.log_w  # states of a chain are draws from π as they are
    else:
        population = untilted(drawn, whole=form.whole)
        log_w = population.log_w + form.factors(population)
    held = np.flatnonzero(log_w > -math.inf)
    return Lesson(drawn.prompt, tuple(population.drafts[int(row)] for row in held), np.exp(log_shares(log_w[held])))


def untilted(drawn: Drawn, *, whole: bool) -> Population:
    """The drafts weighted for p itself, each different one once where they are independent draws.

    whole: whether drafts that the reward excluded count as well. Raises TrainError where their weight is not known.
    """
    population = drawn.population
    if not population.proper:
        raise TrainError(
            "the drafts are states of a chain, which are drawn from π at the β of their run and cannot be weighted for another "
            "target: draw with a sampler whose weights are proper, such as independent"
        )
    excluded = population.log_w == -math.inf
    alike = drawn.plain and population.own_logq  # draws from p have equal weights
    if whole and np.any(excluded) and not alike:
        raise TrainError(
            "the reward excluded some drafts, and the file does not say what they weigh under p: draw with --sampler independent "
            "from the model itself"
        )
    log_w = population.log_w - np.where(excluded, 0.0, population.rewards) / _beta(population)
    log_w[excluded] = -math.log(len(population)) if alike else -math.inf
    return replace(population, log_w=log_w).distinct()


def _beta(population: Population) -> float:
    if population.beta is None:
        raise TrainError(
            "the results do not record β, or their reward changed while they were drawn, so that no π exists: draw again with a "
            "fixed reward"
        )
    return population.beta


# ---------------------------------------------------------------------------------------------------------- files


def read_source(stores: Sequence[str | Path]) -> Source:
    """The populations of results files of one engine and one reward; β, sampler and seed may differ.

    Those of a file are in the order of their keys: their lines are in that in which prompts happened to end, and what is learned
    must not depend on it.
    """
    if not stores:
        raise TrainError("there are no results files: give one at least, as exptilt run writes it")
    settings, drawn, failed = [], list[Drawn](), 0
    for store in stores:
        found, lines = read_store(store)
        settings.append(found)
        drawn += _drawn(store, found, [line for _, line in sorted(lines.items()) if "error" not in line])
        failed += sum("error" in line for line in lines.values())
        for part in ("engine", "reward"):
            if differences := changes({part: settings[0].get(part)}, {part: found.get(part)}):
                raise TrainError(
                    f"{stores[0]} and {store} are of different targets ({differences}): their weights are for different "
                    "distributions. Give files of one engine and one reward."
                )
    proposals = tuple(each["proposal"] for each in settings if each.get("proposal"))
    return Source(settings[0]["engine"], settings[0].get("reward"), proposals, tuple(drawn), failed)


def _drawn(store: str | Path, settings: Settings, lines: Sequence[Mapping[str, Any]]) -> Iterator[Drawn]:
    sampler = settings.get("sampler")
    plain = isinstance(sampler, Mapping) and sampler.get("type") == "Independent"
    for line in lines:
        population = stored_population(line)
        if population is None:
            raise TrainError(f"{store} keeps only the chosen responses: draw again without --no-population")
        if any(draft.order is not None for draft in population.drafts):
            raise TrainError(
                f"{store} holds drafts of a masked-diffusion model, and only models that write from left to right learn"
            )
        yield Drawn(as_prompt(line["prompt"]), population, plain)
