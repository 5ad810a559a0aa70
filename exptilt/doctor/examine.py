"""From a pilot to advice: `examine` draws and rates a pilot, and says what a long run should be and what it would cost."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from exptilt.core import Engine, PromptReward, Reward, Target
from exptilt.doctor.checks import check_reward
from exptilt.doctor.examination import Examination, Goal, Plan, Speed
from exptilt.doctor.findings import Findings
from exptilt.doctor.pilot import PLACES, Pilot, Sounding, piloted
from exptilt.doctor.tilt import Estimate, Tilt, attainable_kl, best_of, common_beta, heavy_tails, measure, resample
from exptilt.doctor.warnings import warn
from exptilt.draft import Prompt
from exptilt.errors import TargetError, error_named
from exptilt.evaluation.compare import Comparison, curve, head
from exptilt.evaluation.tasks.task import Task
from exptilt.keys import Floats, Key
from exptilt.populations.population import Population
from exptilt.populations.select import draw
from exptilt.rating import reward_name
from exptilt.rewards.columns import filled
from exptilt.running.example import Example
from exptilt.running.request import Request, number_jobs
from exptilt.running.result import Failure, Result
from exptilt.running.run import Progress, run
from exptilt.usage import Budget

USUAL = Goal()
_RESAMPLES = 200
_USUAL_KL = 1.0  # nats; best-of-7 of Gaussian rewards has as much
_LITTLE = 0.2  # half of a response that explains less of the variance of exp(r/β) is not a guide
_SEEN = 0.25  # as many of the lost draws seen halfway make early abort or a filter pay
_OFTEN = 0.15  # success of a draw above which abort is cheaper than a filter
_BATCH = 8  # as many draws are made between two checks of a budget, where it pays for so many at once


def examine(
    engine: Engine,
    reward: Reward | PromptReward,
    prompts: Sequence[Prompt | Example],
    goal: Goal = USUAL,
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

    task: problems whose prompts these are, for accuracies.
    concurrency: prompts under way at once, as in the run that is planned, because seconds depend on it.
    tokens: the most the pilot may take, shared out evenly; what was drawn until then is judged.
    reward_timeout, progress: as in `run`.

    A prompt that fails is left out, with a warning; where all fail, the first error is raised. Raises TargetError for a
    reward that has no fixed target.
    """
    target = Target(engine, reward, beta=1.0)
    request = check_pilot(target, prompts, draws=draws, seed=seed, tokens=tokens, reward_timeout=reward_timeout)
    began = time.monotonic()
    outcomes = run(
        target,
        prompts,
        request.sampler,
        seed=seed,
        concurrency=concurrency,
        budget=request.budget,
        reward_timeout=reward_timeout,
        progress=progress or False,  # whoever asks shows what is going on
    )
    seconds = time.monotonic() - began
    results = [outcome for outcome in outcomes if isinstance(outcome, Result)]
    failures = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    if not results:
        raise error_named(failures[0].error, failures[0].message)
    first = results[0]
    checks = check_reward(engine, filled(reward, first.columns), first.prompt, first.population.drafts, Key(seed, "doctor"))
    soundings = [Sounding.of(result) for result in results]
    examination = _advise(Examination(Findings.of(results, soundings), checks, _speed(results, seconds)), soundings, goal, seed)
    if task is not None:
        examination = _solve(examination, results, task, goal)
    return replace(examination, warnings=tuple(warn(examination, goal, engine, failures, results)))


def check_pilot(
    target: Target,
    prompts: Sequence[Prompt | Example],
    *,
    draws: int,
    seed: int = 0,
    tokens: int | None = None,
    reward_timeout: float | None = None,
) -> Request:
    """What is drawn of each prompt, as `examine` has it; all that it refuses before anything is drawn is refused here."""
    if not target.fixed:
        raise TargetError(
            f"{reward_name(target.reward)} changes while it is used, so no π exists that a β could belong to: use a frozen one"
        )
    each = None if tokens is None else max(1, tokens // len(prompts))
    pilot = Pilot(draws, None if each is None else max(2, min(_BATCH, each // target.engine.max_tokens)))
    request = Request(target, pilot, draw, seed, None if each is None else Budget(tokens=each), reward_timeout)
    request.check_columns(number_jobs(prompts))
    return request


def _speed(results: Sequence[Result], seconds: float) -> Speed:
    """The wall clock shared out by the threads' own clocks: drawing and rating of other prompts go on at the same time."""
    traces = [piloted(result) for result in results]
    drawing, rating = sum(each.drawing for each in traces), sum(each.rating for each in traces)
    tokens, drawn = sum(result.usage.tokens for result in results), sum(each.drawn for each in traces)
    rated = sum(result.usage.rated for result in results)
    busy = max(drawing + rating, 1e-9)
    return Speed(
        tokens,
        seconds,
        seconds * drawing / busy / drawn,
        seconds * rating / busy / max(1, rated),
        (tokens - drawn) / len(results),
    )


# ---------------------------------------------------------------------------------------------------- β and the plan


def _advise(examination: Examination, soundings: Sequence[Sounding], goal: Goal, seed: int) -> Examination:
    """β, the tilt it makes, and the number of draws that reaches the goal."""
    beta = _beta(soundings, goal)
    if math.isnan(beta):
        return examination
    samples = resample(soundings, _RESAMPLES, seed)
    tilt, tilts = measure(soundings, beta), [measure(sample, beta) for sample in samples]
    same = goal if goal.beta is not None or goal.share is not None else Goal(kl=tilt.kl)
    others = [] if goal.beta is not None else [_beta(sample, same) for sample in samples[:50]]
    spread = partial(_spread, tilt, tilts)
    explained, lost = (_by_place(tilt, tilts, name) for name in ("explained", "lost"))
    return replace(
        examination,
        beta=Estimate.of(beta, others),
        kl=spread("kl"),
        share=spread("share"),
        best_of=best_of(soundings, beta),
        heavy=heavy_tails(soundings, beta),
        explained=explained,
        lost=lost,
        acceptance=None if math.isnan(tilt.acceptance) else spread("acceptance"),
        plan=Plan.reaching(goal.ess, tilt, tilts, examination.findings.length),
        why=_why(explained, lost, tilt.share),
    )


def _spread(tilt: Tilt, tilts: Sequence[Tilt], name: str) -> Estimate:
    return Estimate.of(getattr(tilt, name), [getattr(other, name) for other in tilts])


def _by_place(tilt: Tilt, tilts: Sequence[Tilt], name: str) -> tuple[Estimate, ...]:
    """The estimates at each of `PLACES`, from the resamples that have them."""
    samples = [getattr(other, name) for other in tilts if getattr(other, name)]
    return tuple(Estimate.of(value, [sample[place] for sample in samples]) for place, value in enumerate(getattr(tilt, name)))


def _beta(soundings: Sequence[Sounding], goal: Goal) -> float:
    """The β that the goal asks for, or the nearest that this pilot can estimate; NaN where no reward varies."""
    if not any(sounding.varies for sounding in soundings):
        return math.nan
    if goal.beta is not None:
        return goal.beta
    if goal.share is not None:
        return common_beta(soundings, share=goal.share)
    return common_beta(soundings, kl=min(goal.kl or _USUAL_KL, tellable_kl(soundings)))


def tellable_kl(soundings: Sequence[Sounding]) -> float:
    """The largest KL (nats) that a pilot of these draws can estimate: 2 below the log of their number, or half of what the best
    reward seen amounts to where that is more."""
    count = min(len(sounding.rewards) for sounding in soundings)
    return max(math.log(count) - 2.0, 0.5 * attainable_kl(soundings))


def _why(explained: Sequence[Estimate], lost: Sequence[Estimate], share: float) -> str:
    """Whether prefixes tell enough for guided sampling to be worth a try, in a sentence; empty without forks.

    share: of draws that stay effective. Giving up what is lost costs (1 - q)/(εq) steps where a draw succeeds with probability q
    and fails at a step with probability ε, a filter of three 3·log(1/q)/ε: equal at q = 0.15 (`reproduce/chains.py`).
    """
    if not explained:
        return ""
    half = explained[PLACES.index(0.5)]
    seen = lost[PLACES.index(0.5)].low if lost else 0.0
    if seen >= _SEEN:
        told = f"Half of a response shows {lost[PLACES.index(0.5)].value:.0%} of the draws without weight to be lost"
        if share >= _OFTEN:
            return f"{told}: Rejection with a block gives them up there, at fewer tokens than independent draws (docs/chains.md)."
        return (
            f"{told}, and only {share:.0%} of draws count: filters with the reward as their value, such as "
            'SMC(4, block="\\n", value=reward, floor=0.01), need fewer tokens by far than independent draws (docs/chains.md).'
        )
    if half.high < _LITTLE:
        return "Half of a response tells next to nothing about its reward: there is nothing to guide by."
    return (
        f"Half of a response tells {half.value:.0%} of its reward: samplers that guide by prefixes (ets, smc) may need fewer "
        "tokens. Compare them by exptilt eval."
    )


# ---------------------------------------------------------------------------------------------------------- accuracy


def _solve(examination: Examination, results: Sequence[Result], task: Task, goal: Goal) -> Examination:
    """The accuracy of 1, 2, 4, ... of the pilot's draws; the fewest that reach the goal by best-of-n or a weighted vote."""
    some = replace(
        task,
        prompts=tuple(result.prompt for result in results),
        references=tuple(task.references[result.index] for result in results),
    )
    count = min(len(result.population) for result in results)
    beta = math.inf if examination.beta is None else examination.beta.value
    pool = tuple(replace(result, population=head(_weighted(result.population, beta), count)) for result in results)
    points = tuple(curve(Comparison((), (pool,), count), some))
    examination = replace(examination, curve=points, select="vote")
    if goal.accuracy is None or examination.plan is None:
        return examination
    for point in points:
        select, accuracy = max(("best", point.best), ("vote", point.weighted), key=lambda item: item[1])
        if accuracy >= goal.accuracy:
            said = f"The {select} of {point.k} solves {accuracy:.0%} of the pilot's {len(pool)} problems."
            return replace(examination, plan=examination.plan.resized(point.k), select=select, why=said)
    said = (
        f"An accuracy of {goal.accuracy:.0%} is out of reach of {count} draws; one of them is right on {points[-1].passed:.0%}."
    )
    return replace(examination, why=f"{said} {examination.why}".rstrip())


def _weighted(population: Population, beta: float) -> Population:
    """The draws as `Independent` would have weighted them."""
    if population.rewards.max() == -math.inf:
        return population
    log_w: Floats = population.rewards / beta if beta < math.inf else population.log_w * 0.0
    return Population(population.drafts, log_w - math.log(len(population)), population.rewards)
