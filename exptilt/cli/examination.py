"""An examination on the screen: what was found, what is suggested, what it will cost, and the reasons against it."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from exptilt.cli.terminal import clock, counted, describe_sampler, labelled, stdout
from exptilt.doctor import Examination, Goal, Plan
from exptilt.doctor.pilot import PLACES
from exptilt.doctor.tilt import Estimate
from exptilt.evaluation.compare import Point
from exptilt.evaluation.evaluate import wilson


def show_examination(found: Examination, goal: Goal, problems: int, model: str, reward: str) -> None:
    """On standard output. problems: how many prompts the planned run has. model, reward: as the user wrote them."""
    console = stdout()
    pilot, speed = found.findings, found.speed
    drawn = f"{counted(pilot.prompts, 'prompt')} × {pilot.draws / pilot.prompts:.0f} draws"
    spent = f"{speed.tokens:,} tokens in {speed.seconds:.1f} s"
    console.print(Text.assemble("\n", (model, "bold"), f"  {reward} · {drawn} · {spent}\n"))
    for name, text in _facts(found):
        console.print(labelled(name, Text(text)))
    if found.plan is not None:
        prompts = "the prompt" if problems == 1 else f"each of {problems:,} prompts"
        wanted = f"an accuracy of {goal.accuracy:.0%}" if _reaching(found, goal) else f"{goal.ess:g} effective draws of π"
        console.print(Text.assemble("\n", (f"For {wanted}: {prompts}", "bold")))
        console.print(_plan(found, found.plan, problems))
    if found.curve:
        console.print(Text.assemble("\n", ("Problems solved by fewer draws", "bold"), ", over all subsets of the pilot's"))
        console.print(_curve(found, goal))
    console.print()
    if found.why:
        console.print(labelled("choice", Text(found.why)))
    for sentence in found.warnings:
        console.print(labelled("warning", Text(sentence), "yellow", "yellow"))


def _facts(found: Examination) -> Iterator[tuple[str, str]]:
    pilot, checks = found.findings, found.checks
    cap = f"{pilot.capped:.0%} cut at the cap" if pilot.capped else "none cut at the cap"
    yield (
        "responses",
        f"{pilot.length:.0f} tokens ({pilot.short:.0f} to {pilot.long:.0f}) · {cap} · {pilot.distinct:.0%} differ in text",
    )
    excluded = f" · {pilot.excluded:.0%} excluded" if pilot.excluded else ""
    yield "reward", f"mean {pilot.mean:.3g} · deviation {pilot.within:.3g} within a prompt, {pilot.between:.3g} between{excluded}"
    steady = "the same when asked again" if checks.changed == 0 else "NOT the same when asked again"
    partial = " · refuses unfinished drafts, so no value=" if checks.partial is False else ""
    yield "", f"{steady} · {_duration(found.speed.per_rating)} per draft, {_duration(found.speed.per_token)} per token{partial}"
    if found.beta is None or found.kl is None or found.share is None:
        return
    like = "" if found.best_of is None else f" · mean reward of best-of-{found.best_of}"
    yield "β", f"{_ranged(found.beta, '.3g')} · KL(π‖p) {_ranged(found.kl, '.2f')} nats{like}"
    yield "", f"{_percent(found.share)} of draws from the model stay effective"
    if found.explained:
        first, *more = (f"{_percent(value)}{{}} after {place:.0%}" for place, value in zip(PLACES, found.explained, strict=True))
        parts = [first.format(" of exp(r/β)") + " of a response", *(part.format("") for part in more)]
        yield "prefixes", f"tell {', '.join(parts)}"
    if found.lost and found.lost[-1].value > 0:
        parts = [f"{_percent(value)} by {place:.0%}" for place, value in zip(PLACES, found.lost, strict=True)]
        yield "losses", f"of the draws without weight {', '.join(parts)} of a response are seen to be lost"
    if found.acceptance is not None:
        yield "suffixes", f"redrawn from a random position are accepted {_percent(found.acceptance)} of the time"


def _plan(found: Examination, plan: Plan, problems: int) -> Table:
    table = _columns("", "effective draws", "tokens", "ratings", "time")
    bill = found.bill(plan, problems)
    ess = f"{plan.ess.value:.1f} ({plan.ess.low:.0f} to {plan.ess.high:.0f})"
    cells = (ess, f"{bill.tokens:,.0f}", f"{bill.rated:,.0f}", clock(bill.seconds))
    table.add_row(f"▸ {describe_sampler(plan.sampler)}", *cells, style="bold green")
    return table


def _curve(found: Examination, goal: Goal) -> Table:
    table = _columns("", "draws", "tokens", "pass@k", "majority", "weighted vote", "best-of-n", "95 %")
    wanted = _reaching(found, goal)
    for point in found.curve:
        low, high = wilson(_better(point), found.findings.prompts)
        shares = (point.passed, point.majority, point.weighted, point.best)
        cells = (f"{point.tokens:,.0f}", *(f"{share:.0%}" for share in shares), f"{100 * low:.0f} to {100 * high:.0f}")
        is_wanted = point is wanted
        table.add_row("▸" if is_wanted else " ", str(point.k), *cells, style="bold green" if is_wanted else "")
    return table


def _reaching(found: Examination, goal: Goal) -> Point | None:
    """The fewest draws that reach the wanted accuracy; None where none was wanted or they do not."""
    return None if goal.accuracy is None else next((point for point in found.curve if _better(point) >= goal.accuracy), None)


def _better(point: Point) -> float:
    return max(point.weighted, point.best)


def _columns(*names: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for number, name in enumerate(names):
        table.add_column(name, justify="right" if number else "left", no_wrap=number > 0)
    return table


def _ranged(estimate: Estimate, form: str) -> str:
    if estimate.low == estimate.high:
        return f"{estimate.value:{form}}"
    return f"{estimate.value:{form}} ({estimate.low:{form}} to {estimate.high:{form}})"


def _percent(estimate: Estimate) -> str:
    value, low, high = (100 * part for part in estimate)
    return f"{value:.0f}% ({low:.0f} to {high:.0f})" if low < high else f"{value:.0f}%"


def _duration(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"
