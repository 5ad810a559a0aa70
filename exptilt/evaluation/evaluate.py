"""Compare methods on problems with known answers, at equal tokens and equal temperature, with intervals.

A *method* is a sampler with a select. `evaluate` runs one over a list of problems and returns a `Score`; methods that
share a pool of draws (plain sampling, votes, best-of-n) are judged on one run by giving several selects.
`exptilt.evaluation.compare` sets a sampler against all of them at its own tokens.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from exptilt.core import Sampler, Target
from exptilt.draft import Prompt, prompt_digest, prompt_text
from exptilt.errors import error_named
from exptilt.evaluation.cost import Cost, mean_cost
from exptilt.keys import Floats, Key
from exptilt.populations.until import Until
from exptilt.running.example import Example
from exptilt.running.result import Failure, Outcome, Result
from exptilt.running.run import Progress, Select, run

Correct = Callable[[str, str], bool]
"""Whether a response text gives the reference answer."""


@dataclass(frozen=True)
class Score:
    """How one method did.

    right: float64 [problems], 1 for a right answer, or the share of right draws or of right seeds.
    tokens: generated and scored tokens per problem, both models.
    seconds: wall clock of the whole run; where some of its results came from a file, the seconds of all its problems divided by
        how many ran at once.
    cost: the same cost in detail, per problem.
    seeds: the accuracy of each seed.
    """

    name: str
    right: Floats
    tokens: float
    seconds: float
    cost: Cost | None = None
    seeds: tuple[float, ...] = ()

    @property
    def accuracy(self) -> float:
        return float(self.right.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy over problems (Wilson's, which stays inside [0, 1]); too wide where right has shares."""
        return wilson(self.accuracy, len(self.right))


def wilson(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval of a share observed in `count` trials (Wilson, 1927); z = 1.96 covers 95 %."""
    if count < 1:
        raise ValueError(f"an interval needs at least one trial, not {count}")
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_difference(one: Score, other: Score, *, draws: int = 10_000, seed: int = 0) -> tuple[float, float, float]:
    """one.accuracy - other.accuracy with its 95 % bootstrap interval over the problems, which both must share."""
    if len(one.right) != len(other.right):
        raise ValueError(f"{one.name} has {len(one.right)} problems and {other.name} {len(other.right)}: pair the same ones")
    difference = one.right - other.right
    rows = Key(seed, "bootstrap").rng().integers(0, len(difference), (draws, len(difference)))
    low, high = np.quantile(difference[rows].mean(axis=1), [0.025, 0.975])
    return float(difference.mean()), float(low), float(high)


# ------------------------------------------------------------------------------------------------------- one sampler


def evaluate(
    target: Target,
    questions: Sequence[Prompt | Example],
    references: Sequence[str],
    sampler: Sampler,
    selects: Mapping[str, Select | None],
    correct: Correct,
    *,
    seed: int = 0,
    concurrency: int = 64,
    progress: Progress | None = None,
    store: str | Path | None = None,
    reward_timeout: float | None = None,
    until: Until | None = None,
) -> tuple[list[Score], list[Result]]:
    """Run `sampler` once over all questions and judge each named select on its populations.

    A select of None stands for plain sampling: the mean accuracy of the equally weighted drafts of the population, at the tokens
    of one of them.
    store: a results file to write and to resume from; reward_timeout and until: as in `run`.
    Raises ExptiltError where a question has no result: an accuracy over the rest would mislead.
    """
    how = Conditions(seed, concurrency, progress, store, reward_timeout, until)
    results, seconds = run_all(target, questions, sampler, how)
    scores = []
    for name, select in selects.items():
        judged = [judge(result, reference, select, correct, seed) for result, reference in zip(results, references, strict=True)]
        share = 1.0 if select is not None else float(np.mean([1 / len(result.population) for result in results]))
        scores.append(_score(name, np.array(judged), results, seconds, share))
    return scores, results


@dataclass(frozen=True)
class Conditions:
    """Under which a sampler is run over a task's questions; all but `concurrency` as in `run`."""

    seed: int = 0
    concurrency: int = 64
    progress: Progress | None = None
    store: str | Path | None = None
    reward_timeout: float | None = None
    until: Until | None = None


def run_all(
    target: Target, questions: Sequence[Prompt | Example], sampler: Sampler, how: Conditions
) -> tuple[list[Result], float]:
    """The results of all questions, and the seconds they took; see `Score` on those read from a file."""
    fresh = 0

    def hear(done: int, total: int, outcome: Outcome) -> None:
        nonlocal fresh
        fresh += 1
        if how.progress is not None:
            how.progress(done, total, outcome)

    began = time.monotonic()
    outcomes = run(
        target, questions, sampler, until=how.until, seed=how.seed, concurrency=how.concurrency, progress=hear, store=how.store,
        retry=how.store is not None, reward_timeout=how.reward_timeout,
    )  # fmt: skip
    seconds = time.monotonic() - began
    results = all_results(outcomes)
    if fresh < len(results):
        seconds = sum(result.usage.seconds for result in results) / min(how.concurrency, len(results))
    return results, seconds


def _score(name: str, right: Floats, results: Sequence[Result], seconds: float, share: float) -> Score:
    cost = mean_cost(results).share(share)
    return Score(name, right, cost.tokens, seconds * share, cost, (float(right.mean()),))


def all_results(outcomes: Sequence[Outcome]) -> list[Result]:
    """The results, if every prompt has one."""
    for outcome in outcomes:
        if isinstance(outcome, Failure):
            said = f"no accuracy without an answer to {prompt_text(outcome.prompt)[:60]!r}: {outcome.error}: {outcome.message}"
            raise error_named(outcome.error, said)
    return [outcome for outcome in outcomes if isinstance(outcome, Result)]


def judge(result: Result, reference: str, select: Select | None, correct: Correct, seed: int) -> float:
    """1 or 0 for the draft that the select picks, the one that `run` with this seed would; for None the share of right drafts."""
    if select is None:
        return float(np.mean([correct(draft.text, reference) for draft in result.population.drafts]))
    key = Key(seed, prompt_digest(result.prompt), 0).child("select")
    return float(correct(select(result.population, key).text, reference))


def equal_samples(tokens: float, results: Sequence[Result]) -> int:
    """How many independent draws cost `tokens` per problem, by the mean length of those in `results`."""
    return max(1, round(tokens / mean_length(results)))


def mean_length(results: Sequence[Result]) -> float:
    return float(np.mean([draft.decided for result in results for draft in result.population.drafts]))
