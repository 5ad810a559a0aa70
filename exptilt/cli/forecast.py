"""What a long command will cost: the most there can be, before anything is drawn, and what to expect after the first prompts."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from exptilt.cli.terminal import clock, counted, describe_sampler, labelled, show_note
from exptilt.core import PromptReward, Sampler, Target
from exptilt.draft import Prompt
from exptilt.running.example import Example, as_example
from exptilt.running.foresight import foresee
from exptilt.running.request import number_jobs
from exptilt.running.result import Outcome
from exptilt.usage import Budget

Show = Callable[[int, int, Outcome], None]
_FIRST = 3  # prompts that say what the others will take
_SHORT = 2.0  # seconds: a run that has finished so many prompts before then needs no forecast
_ID = re.compile(rb'\{"id": ?"([^"]+)"')


def kept_in(path: str | None, prompts: Sequence[object], retry: bool = False) -> int:
    """How many of the prompts a results file has the outcome of, so that a bar starts where the run does."""
    if path is None or not Path(path).is_file():
        return 0
    names = {job.name for job in number_jobs(prompts)}
    with open(path, "rb") as file:
        kept = {match[1].decode() for line in file if (match := _ID.match(line)) and not (retry and b'"error": ' in line)}
    return len(kept & names)


def forecast(console: Console, show: Show, noun: str = "prompt") -> Show:
    """A `progress` that says once, after the first prompts, what all the others are expected to take."""
    began, heard, tokens, said = time.monotonic(), 0, 0, False

    def hear(done: int, total: int, outcome: Outcome) -> None:
        nonlocal heard, tokens, said
        heard, tokens = heard + 1, tokens + (outcome.usage.tokens if outcome.usage is not None else 0)
        seconds = time.monotonic() - began
        if not said and heard >= _FIRST and seconds >= _SHORT and done < total:
            said = True
            show_note(console, expected(heard, total - done, tokens, seconds, noun))
        show(done, total, outcome)

    return hear


def expected(heard: int, missing: int, tokens: int, seconds: float, noun: str) -> str:
    """What the missing prompts will take, by those that have been heard of."""
    share = missing / heard
    rounded = f"{round(tokens * share, -2 if tokens * share > 1000 else 0):,.0f}"
    rest = f"for {counted(missing, noun)}, by the first {heard}"
    return f"expected: about {rounded} tokens and {clock(seconds * share)} more {rest}"


def show_dry_run(
    console: Console, target: Target, prompts: Sequence[Prompt | Example], sampler: Sampler, budget: Budget | None, *,
    kept: int = 0, runs: int = 1, also: str = "",
) -> None:  # fmt: skip
    """Say what a run may cost, without drawing anything. runs: how often each prompt is answered. also: what comes on top."""
    foreseen, limits = foresee(target, as_example(prompts[0]).prompt, sampler), budget or Budget()
    told = f"{counted(len(prompts), 'prompt')}{f', {kept:,} of them in earlier runs' if kept else ''}"
    console.print(labelled("dry run", f"{told}{f', {runs} seeds' if runs > 1 else ''}; nothing is drawn"))
    model = f"{target.engine.name}, responses of up to {target.engine.max_tokens} tokens"
    console.print(labelled("sampler", f"{describe_sampler(sampler)} · {model}"))
    each = [count for count in (limits.tokens, None if foreseen is None else foreseen.whole) if count is not None]
    if limits.total_tokens is not None:
        said = f"about {limits.total_tokens:,} tokens, shared out"
    elif not each:
        said = f"not known: {type(sampler).__name__} cannot be looked at without drawing. Give a budget of tokens"
    else:
        count = (len(prompts) - kept) * runs
        said = f"{min(each):,} tokens a prompt, {min(each) * count:,} in all{also}"
    console.print(labelled("at most", said))
    if foreseen is not None and limits.tokens is not None and limits.tokens < foreseen.first:
        said = f"a first population may take {foreseen.first:,} tokens, more than the budget"
        console.print(labelled("warning", said, "yellow", "yellow"))
    if isinstance(target.reward, PromptReward):
        console.print(labelled("", f"and what {type(target.reward).__name__} itself draws and scores"))
