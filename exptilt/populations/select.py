"""Selects: from a weighted population to one answer.

A select is any callable `(population, key) -> Draft`. With normalised weights w_i:

    draw                draft i with probability w_i (from Independent(n) this is soft best-of-n)
    best                argmax r_i (from Independent(n): best-of-n)
    vote(answer)        argmax_a Σ_i w_i·1[a(y_i) = a]; of independent draws each different response counts once
    mbr(utility)        argmax_y Σ_i w_i·u(y, y_i)

The population of a Markov chain has equal weights and repeats its states, so the same formulas hold. A draft of
weight zero (its reward is -inf: excluded) is never selected and never counts, not even in an unweighted vote.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from exptilt.draft import Draft, check_text
from exptilt.keys import Floats, Key
from exptilt.populations.population import Population
from exptilt.populations.utilities import PairUtility, Utility

Select = Callable[[Population, Key], Draft]
"""Picks the answer from a population."""

_TIE = 1e-9  # scores this close are equal: sums of the same weights in another order differ by rounding


def draw(population: Population, key: Key) -> Draft:
    """One draft with probability equal to its weight; as the population grows its distribution tends to π."""
    return population.drafts[key.choose(population.weights)]


def best(population: Population, key: Key) -> Draft:
    """The draft with the highest reward; of equals the heaviest, then the first. The key is not used."""
    return population.drafts[_first_of(_held(population), population.rewards, population.log_w)]


@dataclass(frozen=True)
class Vote:
    """Select by the answer with the most weight; made by `vote`."""

    answer: Callable[[str], str | None]
    weighted: bool = True
    distinct: bool = field(default=True, metadata={"as before": False})  # see `exptilt.describe`
    reads: ClassVar[str] = "text"

    def __post_init__(self) -> None:
        if not self.weighted:
            object.__setattr__(self, "distinct", False)  # there is nothing to weigh: heads are counted

    def __call__(self, population: Population, key: Key) -> Draft:
        """The heaviest draft of the winning answer, a proved one first; of equals that of highest reward, then the first."""
        population = self._counted(population)
        answers = self._answers(population)
        shares = self._shares(population, answers)
        standing = [answer for answer in shares if answer is not None] or [None]
        top = max(shares[answer] for answer in standing)
        tied = [answer for answer in standing if shares[answer] >= top - _TIE]
        proved = population.proved(self.answer) if self.weighted else None  # the shares are estimates, and may contradict it
        winner = tied[key.choose(np.ones(len(tied)))] if proved is None else proved
        rows = [row for row, answer in answers.items() if answer == winner]
        return population.drafts[_first_of(rows, population.log_w, population.rewards)]

    def posterior(self, population: Population) -> dict[str | None, float]:
        """The probability of each answer, from the most probable down; they sum to one.

        Drafts without an answer hold theirs under None. It is shown, but None wins only where there is nothing else.
        """
        population = self._counted(population)
        return self._shares(population, self._answers(population))

    def _counted(self, population: Population) -> Population:
        return population.distinct() if self.distinct else population

    def _answers(self, population: Population) -> dict[int, str | None]:
        """The answer of each row of positive weight. Raises TargetError for drafts without text."""
        check_text("vote", population.drafts)
        return {row: self.answer(population.drafts[row].text) for row in _held(population)}

    def _shares(self, population: Population, answers: dict[int, str | None]) -> dict[str | None, float]:
        """The probability of each answer, falling; equals in the order of their first draft."""
        weights = population.weights if self.weighted else np.full(len(population), 1.0 / len(answers))
        shares: dict[str | None, float] = {}
        for row, answer in answers.items():
            shares[answer] = shares.get(answer, 0.0) + float(weights[row])
        return dict(sorted(shares.items(), key=lambda item: -item[1]))


def vote(answer: Callable[[str], str | None], weighted: bool = True, *, distinct: bool = True) -> Vote:
    """Vote over answers: self-consistency, by weight or by count.

    answer: reads the canonical answer of a text, such as `exptilt.answers.number`; equal strings vote together.
    weighted: count each draft by its weight; otherwise every draft of positive weight counts once (plain majority).
    distinct: of independent draws with log-probabilities, count each different response once, by the probability that so many
        draws find it (`Population.distinct`): a vote of 8 is then about as good as one of 32 where responses repeat, and no other
        where none does (docs/fewer_tokens.md). Of other populations, and without `weighted`, every draft counts.
    Equally probable answers are decided between at random, by the key.
    """
    if not callable(answer):
        raise ValueError(f"vote({answer!r:.80}) cannot read answers: give a function (text) -> str or None")
    return Vote(answer, weighted, distinct)


@dataclass(frozen=True)
class MinimumBayesRisk:
    """Select the text with the highest expected utility; made by `mbr`."""

    utility: Utility
    reads: ClassVar[str] = "text"

    def __call__(self, population: Population, key: Key) -> Draft:
        """The draft with the best text; of equals the heaviest text, then the first. The key is not used."""
        texts, shares, scores = self._scores(population)
        tied = np.flatnonzero(scores >= scores.max() - _TIE)
        winner = texts[max(tied, key=lambda place: (shares[place], -place))]
        rows = [row for row in _held(population) if population.drafts[row].text == winner]
        return population.drafts[_first_of(rows, population.log_w, population.rewards)]

    def scores(self, population: Population) -> dict[str, float]:
        """Σ_i w_i·u(y, y_i) of each distinct text y, from the best down."""
        texts, _, scores = self._scores(population)
        return dict(sorted(zip(texts, scores.tolist(), strict=True), key=lambda item: -item[1]))

    def _scores(self, population: Population) -> tuple[list[str], Floats, Floats]:
        """Distinct texts, their weight, and their expected utility. Raises TargetError for drafts without text."""
        check_text("mbr", population.drafts)
        shares: dict[str, float] = {}
        all_weights = population.weights
        for row in _held(population):
            text = population.drafts[row].text
            shares[text] = shares.get(text, 0.0) + float(all_weights[row])
        texts, weights = list(shares), np.array(list(shares.values()))
        values = self.utility.matrix(texts)
        if values.shape != (len(texts), len(texts)) or not np.all(np.isfinite(values)):
            raise ValueError(
                f"the utility {self.utility!r} gave an array of shape {values.shape} for {len(texts)} texts, or a value that is "
                "not finite: return finite utilities [n, n]"
            )
        return texts, weights, values @ weights


def mbr(utility: Utility | Callable[[str, str], float]) -> MinimumBayesRisk:
    """Minimum Bayes risk: the text that agrees best with all the others, by weight.

    utility: `rouge1`, `chrf` or `exact` of `exptilt.populations.utilities`, any object with such a `matrix`, or a function
    (candidate text, reference text) -> float, which is then called for every ordered pair of distinct texts.
    """
    if not (isinstance(utility, Utility) or callable(utility)):
        raise ValueError(
            f"mbr({utility!r:.80}) cannot compare texts: give a utility, or a function (candidate, reference) -> float"
        )
    return MinimumBayesRisk(utility if isinstance(utility, Utility) else PairUtility(utility))


def _held(population: Population) -> list[int]:
    """The rows with a positive weight; every population has one."""
    return np.flatnonzero(population.log_w > -math.inf).tolist()


def _first_of(rows: list[int], *scores: Floats) -> int:
    """The row with the highest first score; of equals the highest second score, then the first row."""
    return max(rows, key=lambda row: (*(score[row] for score in scores), -row))
