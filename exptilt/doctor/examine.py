"""From a pilot to advice: `examine` draws and rates a pilot, and says what a long run should be and what it would cost."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from exptilt.core import Engine, PromptReward, Reward, Target, reward_name
from exptilt.doctor.checks import Checks, check_reward
from exptilt.doctor.findings import Findings, warn
from exptilt.doctor.pilot import PLACES, Pilot, Sounding
from exptilt.doctor.plans import Plan, Shape, chain, cheapest, guided, independent, resized
from exptilt.doctor.tilt import Estimate, Tilt, attainable_kl, best_of, common_beta, heavy_tails, measure, resample
from exptilt.errors import TargetError, error_named
from exptilt.evaluation.compare import Comparison, Point, curve, head
from exptilt.evaluation.tasks.task import Task
from exptilt.keys import Floats, Key
from exptilt.populations.population import Population
from exptilt.running.result import Failure, Result
from exptilt.running.run import Progress, run
from exptilt.samplers import ETS
from exptilt.usage import Budget

_RESAMPLES = 200
_USUAL_KL = 1.0  # nats; best-of-7 of Gaussian rewards has as much
_LITTLE = 0.2  # of the variance of exp(r/β), below which half of a response is no guide
_BATCH = 8  # draws between two looks at a budget


@dataclass(frozen=True)
class Goal:
    """What the long run is to reach. ess: effective draws from π for each prompt. accuracy: share of problems solved, for a
    pilot with a task. beta, kl (nats) or share (ESS as a share of draws) fixes how far to tilt; at most one of them, and
    where none is given a KL of 1 nat, less where the pilot could not show as much."""

    ess: float = 8.0
    accuracy: float | None = None
    beta: float | None = None
    kl: float | None = None
    share: float | None = None

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.beta, self.kl, self.share)) > 1:
            raise ValueError(f"Goal(beta={self.beta}, kl={self.kl}, share={self.share}): give at most one of them")
        for name, most in (("ess", math.inf), ("accuracy", 1.0), ("beta", math.inf), ("kl", math.inf), ("share", 1.0)):
            value = getattr(self, name)
            if value is not None and not (0 < value <= most and value < math.inf):
                raise ValueError(f"Goal({name}={value}): give a positive number{' up to 1' if most == 1 else ''}")


@dataclass(frozen=True)
class Speed:
    """What the pilot cost, without the few drafts that are rated again. tokens, seconds (wall clock): of all of it. per_token,
    per_rating: seconds of one, each its share of the whole at the pilot's concurrency. binding: tokens that the reward draws
    for itself for each prompt, such as an agreement's pilot."""

    tokens: int
    seconds: float
    per_token: float
    per_rating: float
    binding: float


@dataclass(frozen=True)
class Bill:
    """What a run is expected to cost, from the pilot's lengths and speed. rated: drafts, of which equal ones count once."""

    tokens: float
    rated: float
    seconds: float


@dataclass(frozen=True)
class Examination:
    """What was found and what follows from it. `examine` says how.

    beta: the suggested β, or the one that was given; None where no reward varies, and then there is no tilt, plan or choice.
    kl (nats), share: what it does, in the mean over the prompts whose reward varies. best_of: the n whose best-of-n has the
    same mean reward; None where the pilot's draws do not suffice.
    heavy: prompts whose exp(r/β) has a heavy tail by k̂. explained: for `PLACES` mean lengths, the share of the variance of
    exp(r/β) that the beginning explains. acceptance: of suffix redraws under π.
    plans: independent draws first, then ETS and SuffixMCMC where they can reach the effective draws. chosen: the cheapest; why:
    a sentence. curve: accuracy of fewer draws, for a pilot with a task. Where an accuracy is wanted and reached, chosen is the
    number of draws that reaches it. select: how it picks the answer, "draw", "best" or "vote".
    warnings: in plain words, each with its cure.
    """

    findings: Findings
    checks: Checks
    speed: Speed
    beta: Estimate | None = None
    kl: Estimate | None = None
    share: Estimate | None = None
    best_of: int | None = None
    heavy: int = 0
    explained: tuple[Estimate, ...] = ()
    acceptance: Estimate | None = None
    plans: tuple[Plan, ...] = ()
    chosen: Plan | None = None
    why: str = ""
    curve: tuple[Point, ...] = ()
    select: str = "draw"
    warnings: tuple[str, ...] = ()

    def bill(self, plan: Plan, problems: int) -> Bill:
        """What `problems` prompts would cost."""
        tokens, rated = problems * (plan.tokens + self.speed.binding), problems * plan.rated
        return Bill(tokens, rated, tokens * self.speed.per_token + rated * self.speed.per_rating)


def examine(
    engine: Engine,
    reward: Reward | PromptReward,
    prompts: Sequence[str],
    goal: Goal = Goal(),
    *,
    draws: int = 32,
    task: Task | None = None,
    seed: int = 0,
    concurrency: int = 8,
    tokens: int | None = None,
    reward_timeout: float | None = None,
    progress: Progress | None = None,
) -> Examination:
    """Draw a pilot of `draws` responses for each prompt, and as many tokens again of moves and forks (`exptilt.doctor.pilot`).

    task: problems whose prompts these are, for accuracies. concurrency: prompts under way at once, as in the run that is
    planned, or the seconds are another machine's. tokens: the most the pilot may take; it may go over by one engine call
    for each prompt, and what was drawn until then is judged. reward_timeout, progress: as in `run`.

    A prompt that fails is left out, with a warning; where all fail, the first error is raised. Raises TargetError for a
    reward that has no fixed target.
    """
    target = Target(engine, reward, beta=1.0)
    if not target.fixed:
        raise TargetError(
            f"{reward_name(reward)} changes while it is used, so no π exists that a β could belong to: use a frozen one"
        )
    pilot = Pilot(draws, _BATCH if tokens is not None else None)
    budget = None if tokens is None else Budget(tokens=max(1, tokens // len(prompts)))
    began = time.monotonic()
    outcomes = run(
        target,
        prompts,
        pilot,
        seed=seed,
        concurrency=concurrency,
        budget=budget,
        reward_timeout=reward_timeout,
        progress=progress,
    )
    seconds = time.monotonic() - began
    results = [outcome for outcome in outcomes if isinstance(outcome, Result)]
    failures = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    if not results:
        raise error_named(failures[0].error, failures[0].message)
    first = results[0]
    checks = check_reward(engine, reward, first.prompt, first.population.drafts, Key(seed, "doctor"))
    soundings = [Sounding.of(result) for result in results]
    examination = _advise(
        Examination(Findings.of(results, soundings), checks, _speed(results, seconds)), soundings, goal, engine.max_tokens, seed
    )
    if task is not None:
        examination = _solve(examination, results, task, goal)
    return replace(examination, warnings=tuple(warn(examination, goal, engine, failures, results)))


def _speed(results: Sequence[Result], seconds: float) -> Speed:
    """The wall clock shared out by the threads' own clocks: drawing and rating of other prompts go on at the same time."""
    stats = [result.population.stats for result in results]
    drawing, rating = (sum(each[name] for each in stats) for name in ("drawing", "rating"))
    tokens, drawn = sum(result.usage.tokens for result in results), sum(each["drawn"] for each in stats)
    rated = sum(result.usage.rated for result in results)
    busy = max(drawing + rating, 1e-9)
    return Speed(
        tokens,
        seconds,
        seconds * drawing / busy / drawn,
        seconds * rating / busy / max(1, rated),
        (tokens - drawn) / len(results),
    )


# ------------------------------------------------------------------------------------------------------- β and plans


def _advise(examination: Examination, soundings: Sequence[Sounding], goal: Goal, cap: int, seed: int) -> Examination:
    """β, the tilt it makes, and the plans that reach the goal."""
    beta = _beta(soundings, goal)
    if math.isnan(beta):
        return examination
    samples = resample(soundings, _RESAMPLES, seed)
    tilt, tilts = measure(soundings, beta), [measure(sample, beta) for sample in samples]
    same = goal if goal.beta is not None or goal.share is not None else Goal(kl=tilt.kl)
    others = [] if goal.beta is not None else [_beta(sample, same) for sample in samples[:50]]
    shape = Shape.of(soundings, beta, cap)
    found = [make(goal.ess, tilt, tilts, shape) for make in (independent, guided, chain)]
    plans = [plan for plan in found if plan is not None]
    chosen = cheapest(plans)
    spread = partial(_spread, tilt, tilts)
    places = enumerate(tilt.explained)
    explained = tuple(Estimate.of(value, [other.explained[place] for other in tilts]) for place, value in places)
    return replace(
        examination,
        beta=Estimate.of(beta, others),
        kl=spread("kl"),
        share=spread("share"),
        best_of=best_of(soundings, beta),
        heavy=heavy_tails(soundings, beta),
        explained=explained,
        acceptance=None if math.isnan(tilt.acceptance) else spread("acceptance"),
        plans=tuple(plans),
        chosen=chosen,
        why=_why(plans, chosen, explained),
    )


def _spread(tilt: Tilt, tilts: Sequence[Tilt], name: str) -> Estimate:
    return Estimate.of(getattr(tilt, name), [getattr(other, name) for other in tilts])


def _beta(soundings: Sequence[Sounding], goal: Goal) -> float:
    """The β that the goal asks for, or the nearest that this pilot can tell; NaN where no reward varies."""
    if not any(sounding.varies for sounding in soundings):
        return math.nan
    if goal.beta is not None:
        return goal.beta
    if goal.share is not None:
        return common_beta(soundings, share=goal.share)
    return common_beta(soundings, kl=min(goal.kl or _USUAL_KL, tellable_kl(soundings)))


def tellable_kl(soundings: Sequence[Sounding]) -> float:
    """The largest KL (nats) that a pilot of these draws is a judge of: 2 below the log of their number, or half of what the best
    reward seen amounts to where that is more."""
    count = min(len(sounding.rewards) for sounding in soundings)
    return max(math.log(count) - 2.0, 0.5 * attainable_kl(soundings))


def _why(plans: Sequence[Plan], chosen: Plan, explained: Sequence[Estimate]) -> str:
    """Why this sampler, in a sentence or two."""
    plain = plans[0]
    if chosen is not plain:
        return f"{_name(chosen)} reaches the goal with {chosen.tokens / plain.tokens:.0%} of the tokens of independent draws."
    others = [f"{_name(plan)} would take {plan.tokens / plain.tokens:.1f} times the tokens" for plan in plans[1:]]
    if explained and not any(isinstance(plan.sampler, ETS) for plan in plans):
        others.insert(0, "no ETS of up to 4,096 candidates gets there")
    said = "Nothing else is clearly cheaper" + (f": {', '.join(others)}." if others else ".")
    if explained and explained[PLACES.index(0.5)].high < _LITTLE:
        said += " Half of a response tells next to nothing about its reward: there is nothing to guide by."
    return said


def _name(plan: Plan) -> str:
    return type(plan.sampler).__name__


# ---------------------------------------------------------------------------------------------------------- accuracy


def _solve(examination: Examination, results: Sequence[Result], task: Task, goal: Goal) -> Examination:
    """The accuracy of 1, 2, 4, ... of the pilot's draws; the fewest that reach the goal by best-of-n or a weighted vote."""
    references = dict(zip(task.prompts, task.references, strict=True))
    some = replace(
        task,
        prompts=tuple(result.prompt for result in results),
        references=tuple(references[result.prompt] for result in results),
    )
    count = min(len(result.population) for result in results)
    beta = math.inf if examination.beta is None else examination.beta.value
    pool = tuple(replace(result, population=head(_weighted(result.population, beta), count)) for result in results)
    points = tuple(curve(Comparison((), (pool,), count), some))
    examination = replace(examination, curve=points, select="vote")
    if goal.accuracy is None or examination.chosen is None:
        return examination
    for point in points:
        select, accuracy = max(("best", point.best), ("vote", point.weighted), key=lambda item: item[1])
        if accuracy >= goal.accuracy:
            said = f"The {select} of {point.k} solves {accuracy:.0%} of the pilot's {len(pool)} problems."
            return replace(examination, chosen=resized(examination.plans[0], point.k), select=select, why=said)
    said = (
        f"An accuracy of {goal.accuracy:.0%} is out of reach of {count} draws; one of them is right on {points[-1].passed:.0%}."
    )
    return replace(examination, why=f"{said} {examination.why}")


def _weighted(population: Population, beta: float) -> Population:
    """The draws as `Independent` would have weighted them."""
    if population.rewards.max() == -math.inf:
        return population
    log_w: Floats = population.rewards / beta if beta < math.inf else population.log_w * 0.0
    return Population(population.drafts, log_w - math.log(len(population)), population.rewards)
