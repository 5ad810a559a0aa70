"""What notebooks show of a result: the answer, how far it can be trusted, and how it came about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from exptilt.core import Sampler
from exptilt.draft import Draft, shortened
from exptilt.markup import Html, element, joined
from exptilt.populations.growth import growth
from exptilt.populations.notebook import bar, drawn, facts, heaviest, number, passage
from exptilt.populations.population import Population
from exptilt.running.described import words_of
from exptilt.usage import Usage

_MOST_ANSWERS = 6


class Shown(Protocol):
    """What is shown of a `Result`, which see."""

    @property
    def draft(self) -> Draft: ...
    @property
    def population(self) -> Population: ...
    @property
    def usage(self) -> Usage: ...
    @property
    def sampler(self) -> Sampler: ...
    @property
    def seed(self) -> int: ...
    @property
    def limit(self) -> str | None: ...
    @property
    def warnings(self) -> tuple[str, ...]: ...
    @property
    def posterior(self) -> Mapping[Any, float] | None: ...
    @property
    def proved(self) -> str | None: ...
    @property
    def reward(self) -> float | None: ...
    @property
    def log_z(self) -> float | None: ...


def result_html(result: Shown, *, rated: bool = True) -> Html:
    """The chosen response, its numbers, the answers of a vote, its tree or chain, and behind a line the drafts.

    rated: whether there is a reward; without one, numbers that follow from it are left out.
    """
    population = result.population
    grown = drawn(growth(population.trace, len(population), result.draft.glimpse), population.rewards)
    return joined(
        passage(result.draft.glimpse, chosen=True),
        facts(*_numbers(result, rated)),
        element("div", _how(result), class_="xt-soft"),
        [element("div", sentence, class_="xt-note") for sentence in result.warnings],
        shares(result.posterior) if result.posterior else None,
        grown,
        heaviest(population.drafts, population.weights, population.rewards, opened=False),
    )


def shares(posterior: Mapping[Any, float]) -> Html:
    """The most probable answers with their bars, and what the rest hold together."""
    ranked = sorted(posterior.items(), key=lambda item: -item[1])
    told = [("(no answer)" if answer is None else shortened(str(answer), 60), share) for answer, share in ranked[:_MOST_ANSWERS]]
    if rest := ranked[_MOST_ANSWERS:]:
        told.append((f"{len(rest)} more", sum(share for _, share in rest)))
    cells = [(element("span", answer, dir_="auto"), element("span", bar(share), f"{share:.1%}")) for answer, share in told]
    return element("div", *(cell for pair in cells for cell in pair), class_="xt-shares")


def _numbers(result: Shown, rated: bool) -> list[tuple[str, str]]:
    population, usage = result.population, result.usage
    told = [("reward", number(result.reward))] if rated and result.reward is not None else []
    told += [("mean reward", number(population.mean_reward))] if rated else []
    told += [("log Ẑ", number(result.log_z))] if rated and result.log_z is not None else []
    told += [("ESS", f"{population.ess:.1f} of {len(population)}")] if population.proper or not population.even else []
    told += [("proved", result.proved)] if result.proved is not None else []
    return [*told, ("tokens", f"{usage.tokens:,}"), ("seconds", f"{usage.seconds:.1f}")]


def _how(result: Shown) -> str:
    beta = "" if result.population.beta is None else f" · β {result.population.beta:g}"
    stopped = "" if result.limit is None else f" · stopped: {result.limit}"
    return f"{words_of(result.sampler)}{beta} · seed {result.seed}{stopped}"
