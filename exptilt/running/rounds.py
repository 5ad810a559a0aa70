"""The rounds of a run whose tokens are allocated: parts of prompts, run side by side, and pooled at the end.

Every part is a run of the sampler with a random stream of its own, so it is the same whenever and beside whatever it runs. What
is decided before a round depends on the rounds before alone. The parts are kept in a results file of their own beside the run's,
so a run that was killed decides the same again, and runs only what is missing.

Parts are pooled with equal weight where "accuracy" decided how many there are; such a population has no log Ẑ, because a
prompt that looked doubtful was drawn more often. By "log_z" every prompt has parts in both rounds, and the mean of each round has
a share that was fixed beforehand: then E[Ẑ] = Z (`exptilt.running.allocation.SHARES`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Generator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from exptilt.errors import AllWeightsZero
from exptilt.populations.population import Population
from exptilt.running.allocation import SHARES, Allocation, Candidate, Value, choose, of_accuracy, of_log_z
from exptilt.running.ledger import Outcomes, finish, read_back
from exptilt.running.places import Finished, Place, Threads
from exptilt.running.request import Job, Request
from exptilt.running.result import Failure, Outcome, Result
from exptilt.running.store import Store
from exptilt.usage import Usage

_log = logging.getLogger("exptilt")
_PRIOR = 4  # parts that the mean over prompts counts for beside a prompt's own, in the cost of a part


def parts_file(store: str | Path) -> Path:
    """The file that the parts of a run are kept in, beside its results file."""
    path = Path(store)
    return path.with_name(f"{path.stem}.parts{path.suffix}")


@dataclass
class Parts:
    """What one prompt has got so far: the outcomes of its parts, round by round."""

    job: Job
    rounds: list[list[Outcome]] = field(default_factory=list)

    @property
    def all(self) -> list[Outcome]:
        return [outcome for each in self.rounds for outcome in each]

    @property
    def results(self) -> list[Result]:
        return [outcome for outcome in self.all if isinstance(outcome, Result)]

    @property
    def costs(self) -> list[int]:
        """The tokens of each part."""
        return [outcome.usage.tokens for outcome in self.all if outcome.usage is not None]

    @property
    def dead(self) -> int:
        """How many parts ended with all weights zero: their Ẑ is 0."""
        return sum(map(_is_dead, self.all))

    @property
    def failure(self) -> Failure | None:
        """What went wrong with the prompt in one of its parts, if anything did."""
        return next((each for each in self.all if isinstance(each, Failure) and not _is_dead(each)), None)


@dataclass(frozen=True)
class Pooled:
    """Where the outcomes of a run in rounds come from: each is pooled from its parts."""

    request: Request
    parts: Mapping[str, Parts]

    @property
    def settings(self) -> Mapping[str, Any]:
        return self.request.settings

    def check(self, jobs: Sequence[Job]) -> None:
        self.request.check_columns(jobs)

    def finish(self, jobs: Sequence[Job], *, stop: bool) -> Generator[Finished]:
        for job in jobs:
            yield [(job, pooled(self.request, self.parts[job.name]))]


def in_rounds(jobs: Sequence[Job], place: Threads, store: str | Path | None, *, stop: bool) -> Pooled:
    """Run all rounds; the place that hands out each prompt's pooled parts. store: the run's results file, if it has one."""
    with Store(parts_file(store), place.settings) if store is not None else nullcontext() as file:
        lines = {} if file is None else file.lines
        request = place.request
        whole = {job.name: job for job in jobs}
        known = {
            name: read_back(line, whole[name.partition("+")[0]], request.sampler, request.seed)
            for name, line in lines.items()
            if name.partition("+")[0] in whole
        }
        ledger = Outcomes(known, file, population=True)
        return Pooled(request, {each.job.name: each for each in run_rounds(request, jobs, place, ledger, stop=stop)})


def run_rounds(request: Request, jobs: Sequence[Job], place: Place, ledger: Outcomes, *, stop: bool) -> list[Parts]:
    """Run all rounds, but for what the ledger knows already. stop: raise the error of the first failure."""
    allocation = request.allocation
    assert allocation is not None
    prompts = [Parts(job) for job in jobs]
    plan = [1] * len(prompts)
    for number in range(allocation.rounds):
        wanted = [
            [replace(each.job, part=len(each.all) + more) for more in range(count)]
            for each, count in zip(prompts, plan, strict=True)
        ]
        for _ in finish([job for parts in wanted for job in parts], place, ledger, stop=stop):
            pass
        for each, parts in zip(prompts, wanted, strict=True):
            each.rounds.append([ledger.known[job.name] for job in parts])
        spent = sum(cost for each in prompts for cost in each.costs)
        _log.info("round %d: %d parts, %d of %d tokens", number, sum(plan), spent, allocation.total_tokens)
        plan = _plan(request, allocation, prompts, (allocation.total_tokens - spent) / max(1, allocation.rounds - number - 1))
        if not any(plan):
            break
    return prompts


def _plan(request: Request, allocation: Allocation, prompts: Sequence[Parts], tokens: float) -> list[int]:
    """How many parts each prompt gets in the next round, for about so many tokens."""
    if tokens <= 0:
        return [0] * len(prompts)
    usual = float(np.mean([cost for each in prompts for cost in each.costs]))
    open_rows = [row for row, each in enumerate(prompts) if each.failure is None]
    values = _values(request, allocation, [prompts[row] for row in open_rows])
    candidates = [Candidate(value, _cost(prompts[row], usual)) for row, value in zip(open_rows, values, strict=True)]
    if allocation.least * sum(each.cost for each in candidates) > tokens:
        return [0] * len(prompts)
    chosen = dict(zip(open_rows, choose(candidates, tokens, allocation.least), strict=True))
    return [chosen.get(row, 0) for row in range(len(prompts))]


def _values(request: Request, allocation: Allocation, prompts: Sequence[Parts]) -> list[Value]:
    """What more parts are worth to each prompt."""
    found = [[result.population for result in each.results] for each in prompts]
    if allocation.by == "log_z":
        return of_log_z([populations[0] if populations else None for populations in found])
    proved = [bool(some) and request.proved(Population.merge(some)) is not None for some in found]
    return [of_accuracy(request.select, some, each.dead, sure) for some, each, sure in zip(found, prompts, proved, strict=True)]


def _cost(each: Parts, usual: float) -> float:
    """The tokens of one part, by those so far, drawn towards the mean over prompts: what looks cheap by one part seldom is."""
    return max(1.0, (sum(each.costs) + _PRIOR * usual) / (len(each.costs) + _PRIOR))


# ----------------------------------------------------------------------------------------------------------- pooled


def pooled(request: Request, each: Parts) -> Outcome:
    """The outcome of a prompt: its parts as one population, and the answer from it."""
    usage = Usage.total([outcome.usage for outcome in each.all if outcome.usage is not None])
    if each.failure is not None:
        return replace(each.failure, usage=usage, index=each.job.index)
    if not each.results:
        said = f"each of {each.dead} parts has weight zero: {_last(each)}"
        return Failure(each.job.prompt, AllWeightsZero.__name__, said, usage, each.job.id, each.job.columns, each.job.index)
    allocation = request.allocation
    assert allocation is not None
    shared = allocation.by == "log_z" and len(each.rounds) == len(SHARES) and all(each.rounds)
    population = _by_rounds(each) if shared and each.results[0].population.proper else _by_parts(each)
    trace = tuple(
        {**entry, "round": number}
        for number, parts in enumerate(each.rounds)
        for result in parts
        if isinstance(result, Result)
        for entry in result.trace
    )
    label = (
        f'This prompt got {len(each.all)} runs of the sampler, which allocate="{allocation.by}" decided by comparing it with the '
        "other prompts of the run: its result depends on them."
    )
    return request.result(each.job, population, usage, trace, [label])


def _by_parts(each: Parts) -> Population:
    """All parts with equal weight, without log Ẑ: how many there are depends on what was drawn."""
    return replace(Population.merge([result.population for result in each.results], each.dead), proper=False)


def _by_rounds(each: Parts) -> Population:
    """The mean of each round's parts with its share; a dead part has Ẑ = 0 and counts in the mean."""
    populations, log_w = list[Population](), list[np.ndarray]()
    for share, parts in zip(SHARES, each.rounds, strict=True):
        for result in parts:
            if isinstance(result, Result):
                populations.append(result.population)
                log_w.append(result.population.log_w + math.log(share / len(parts)))
    return replace(Population.merge(populations), log_w=np.concatenate(log_w), independent=False)


def _is_dead(outcome: Outcome) -> bool:
    return isinstance(outcome, Failure) and outcome.error == AllWeightsZero.__name__


def _last(each: Parts) -> str:
    last = each.all[-1]
    return last.message if isinstance(last, Failure) else ""
