"""A sampler against plain sampling, votes, MBR and best-of-n at the same tokens, over several seeds; accuracy-compute curves.

Every method draws from the same model at the same temperature and cap. The compared sampler sets the price; the others
choose from one pool of independent draws per problem, and the same pool tells what fewer draws would have achieved.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from exptilt.core import Sampler, Target
from exptilt.describe import describe
from exptilt.evaluation.cost import Cost, mean_cost
from exptilt.evaluation.evaluate import Conditions, Score, equal_samples, evaluate, judge, mean_length, run_all
from exptilt.evaluation.pools import best_at_k, pass_at_k, vote_at_k
from exptilt.evaluation.tasks.task import Task
from exptilt.keys import Key, digest
from exptilt.populations.population import Population
from exptilt.populations.select import best, draw, mbr, vote
from exptilt.populations.until import Until
from exptilt.running.result import Result
from exptilt.running.run import Progress, Select
from exptilt.samplers import Independent


@dataclass(frozen=True)
class Comparison:
    """scores: of all methods, plain sampling first, the compared sampler last. pools: for each seed the results of the
    independent draws, which the other methods and `evaluation.pools` choose from. draws: how many there are per problem."""

    scores: tuple[Score, ...]
    pools: tuple[tuple[Result, ...], ...]
    draws: int


Announce = Callable[[str, int], Progress | None]
"""Called before each run with a title and the number of problems; what it returns is called for each problem."""


def compare(
    target: Target,
    task: Task,
    sampler: Sampler,
    *,
    seeds: Sequence[int] = (0,),
    concurrency: int = 32,
    store: str | Path | None = None,
    announce: Announce = lambda title, total: None,
    reward_timeout: float | None = None,
    until: Until | None = None,
) -> Comparison:
    """Set `sampler` against plain sampling, votes, MBR and best-of-n at the same tokens, temperature and cap.

    The sampler's own tokens set the price: the others, which draw from the reference model alone, choose from as many
    independent draws as cost the same; where the reward draws a pilot, those that use the reward get fewer draws, by the
    cost of the pilot. An Independent sampler of plain draws is itself the pool, unless a stop rule ends it. Problems are the same
    for each seed; a problem's share of right seeds is what intervals resample.
    store: a folder; each sampler and seed has a results file in it, and the same call resumes where it was stopped.
    reward_timeout: as in `run`. until: a stop rule of the compared sampler alone; the others then draw what it cost in the mean.
    Raises what `evaluate` raises.
    """
    runs: list[list[Score]] = []
    pools: list[tuple[Result, ...]] = []
    pooled = isinstance(sampler, Independent) and sampler.weights == "draws" and until is None
    draws = sampler.n if isinstance(sampler, Independent) and pooled else 0
    how = Conditions(concurrency=concurrency, reward_timeout=reward_timeout)
    for seed in seeds:
        guided: list[Score] = []
        if not pooled:
            ruled = replace(how, seed=seed, until=until, store=_file(store, sampler, seed, until))
            guided, results = _guided(target, task, sampler, ruled, announce)
            draws = draws or equal_samples(guided[0].tokens, results)  # this is one number for all seeds
        plain = Independent(draws)
        progress = announce(f"{draws} independent draws, seed {seed}", len(task))
        alone = replace(how, seed=seed, progress=progress, store=_file(store, plain, seed))
        pool, seconds = run_all(replace(target, proposal=None), task.prompts, plain, alone)
        runs.append([*_pool_scores(task, pool, seconds, seed), *guided])
        pools.append(tuple(pool))
    return Comparison(tuple(_over_seeds(parts) for parts in zip(*runs, strict=True)), tuple(pools), draws)


def _guided(
    target: Target, task: Task, sampler: Sampler, how: Conditions, announce: Announce
) -> tuple[list[Score], list[Result]]:
    """The compared sampler's own answers: by `draw` and by vote, and by `best` where its draws are independent."""
    name = type(sampler).__name__ + ("" if how.until is None else " until")
    selects = {f"{name}, draw": draw, f"{name}, vote": vote(task.answer)}
    selects |= {f"{name}, best": best} if isinstance(sampler, Independent) else {}
    return evaluate(
        target, task.prompts, task.references, sampler, selects, task.correct, seed=how.seed, concurrency=how.concurrency,
        progress=announce(f"{name}, seed {how.seed}", len(task)), store=how.store, reward_timeout=how.reward_timeout,
        until=how.until,
    )  # fmt: skip


def _file(store: str | Path | None, sampler: Sampler, seed: int, until: Until | None = None) -> Path | None:
    """The results file of a sampler, stop rule and seed: other parameters are another file; another model is refused."""
    if store is None:
        return None
    named = describe(sampler) if until is None else [describe(sampler), describe(until)]
    return Path(store) / f"{type(sampler).__name__}-{digest(json.dumps(named))[:8]}-seed{seed}.jsonl"


def _pool_scores(task: Task, pool: Sequence[Result], seconds: float, seed: int) -> list[Score]:
    """The methods that choose among independent draws; those without a reward do not see it, and pay for draws alone."""
    count = len(pool[0].population)
    whole, drawn = mean_cost(pool), mean_cost(pool).draws_alone(mean_length(pool) * count)
    fewer = max(1, count - round((whole.tokens - drawn.tokens) / mean_length(pool)))
    cut = [replace(result, population=head(result.population, fewer)) for result in pool]
    price = whole.plus(drawn.plus(drawn.share(fewer / count), -1), -1)  # this leaves out the other draws
    bare = [replace(result, population=without_reward(result.population)) for result in pool]
    methods: list[tuple[str, Sequence[Result], Select | None, Cost]] = [
        ("plain sampling", pool, None, drawn.share(1 / count)),
        (f"majority of {count}", bare, vote(task.answer), drawn),
        (f"MBR of {count}", bare, mbr(task.utility), drawn),
        (f"weighted vote of {fewer}", cut, vote(task.answer), price),
        (f"soft best-of-{fewer}", cut, draw, price),
        (f"best-of-{fewer}", cut, best, price),
    ]
    scores = []
    for name, results, select, cost in methods:
        pairs = zip(results, task.references, strict=True)
        right = np.array([judge(result, reference, select, task.correct, seed) for result, reference in pairs])
        spent = seconds * cost.tokens / whole.tokens
        scores.append(Score(name, right, cost.tokens, spent, cost, (float(right.mean()),)))
    return scores


def head(population: Population, count: int) -> Population:
    """The first `count` of independent draws, with the weights that they would have had without the others."""
    log_w = population.log_w[:count] + math.log(len(population) / count)
    if np.all(log_w == -math.inf):  # the reward excludes all of these: any of them is as good as another
        return Population.unweighted(population.drafts[:count], population.rewards[:count])
    return Population(population.drafts[:count], log_w, population.rewards[:count], population.proper)


def without_reward(population: Population) -> Population:
    """The same drafts as a method without a reward sees them: none excluded, none heavier, none better."""
    return Population.unweighted(population.drafts, np.zeros(len(population)))


def _over_seeds(parts: Sequence[Score]) -> Score:
    """The same method's scores for several seeds as one: each problem's share of right seeds, costs in the mean."""
    cost = Cost()
    for part in parts:
        cost = cost.plus(part.cost or Cost(), 1 / len(parts))
    return Score(
        parts[0].name,
        np.mean([part.right for part in parts], axis=0),
        float(np.mean([part.tokens for part in parts])),
        float(np.sum([part.seconds for part in parts])),
        cost,
        tuple(part.accuracy for part in parts),
    )


# ---------------------------------------------------------------------------------------------------------- curves


@dataclass(frozen=True)
class Point:
    """What `k` draws achieve, and their tokens per problem: pass@k, and the accuracy of the methods that choose one of them."""

    k: int
    tokens: float
    passed: float
    majority: float
    weighted: float
    best: float


def curve(comparison: Comparison, task: Task) -> list[Point]:
    """The methods at 1, 2, 4, ... draws, from all subsets of the pools (see `evaluation.pools`), in the mean over problems.

    tokens counts the draws alone, without the pilot that a reward may draw.
    """
    sizes = sorted({comparison.draws, *(2**power for power in range(comparison.draws.bit_length()))})
    rows = [
        (result, [task.correct(draft.text, reference) for draft in result.population.drafts])
        for pool in comparison.pools
        for result, reference in zip(pool, task.references, strict=True)
    ]
    length = mean_length([result for result, _ in rows])
    points = []
    for k in sizes:
        means = np.mean([_at_k(result.population, task, right, k, row) for row, (result, right) in enumerate(rows)], axis=0)
        points.append(Point(k, k * length, *means.tolist()))
    return points


def _at_k(population: Population, task: Task, right: Sequence[bool], k: int, row: int) -> tuple[float, float, float, float]:
    answers = [task.answer(draft.text) for draft in population.drafts]
    key = Key(0, "curve", row, k)
    return (
        pass_at_k(right, k),
        vote_at_k(answers, right, k, key=key),
        vote_at_k(answers, right, k, weights=population.weights, key=key),
        best_at_k(right, population.rewards, k),
    )
