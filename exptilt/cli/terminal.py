"""What the command line shows: answers on standard output, everything about them on standard error.

So the answer alone goes into a pipe or a file, and the numbers stay on the screen.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import asdict, fields, is_dataclass
from typing import Any, TextIO, cast

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from exptilt.blocks import Block
from exptilt.core import Sampler
from exptilt.draft import prompt_json
from exptilt.errors import raised_at
from exptilt.populations.overlap import Overlap
from exptilt.running.progress import Pace, clock
from exptilt.running.result import Failure, Outcome, Result

_WIDTH = 100  # of what is read on a screen
_ENDLESS = 10_000  # into a pipe or a file, where no screen limits the line
_BAR = 20  # characters of the longest bar
_QUIET = 30.0  # seconds between progress lines where nobody watches
_MOST = 6  # answers or kinds of failure shown


def stderr() -> Console:
    """A console on standard error, no wider than is comfortable to read."""
    console = Console(stderr=True, highlight=False)
    console.width = min(_WIDTH, console.width) if _has_edge(console) else _ENDLESS
    return console


def stdout() -> Console:
    """A console for tables, wide enough for them: a wrapped line can be read, a dropped column cannot."""
    console = Console(highlight=False)
    console.width = _WIDTH if _has_edge(console) else _ENDLESS
    return console


def _has_edge(console: Console) -> bool:
    return console.is_terminal or "COLUMNS" in os.environ


def status(console: Console, said: str) -> AbstractContextManager[object]:
    """A spinner while something takes a while, if the output is a terminal."""
    return console.status(f"[dim]{said}") if console.is_terminal else nullcontext()


class _Patient:
    """A stream that drops what nobody reads any more, as after `| head -1`, or what does not fit, so that the work goes on."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._lost: str | None = None

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._drop(error)

    def lost(self) -> str | None:
        """Why some of it could not be written, if a reader who left is not the reason."""
        self.flush()
        return self._lost

    def _drop(self, error: OSError) -> None:
        if not isinstance(error, BrokenPipeError):
            self._lost = error.strerror or str(error)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def patient_streams() -> Iterator[_Patient]:
    """Standard output, which is given, and standard error that outlive their readers."""
    output = _Patient(sys.stdout)
    with redirect_stdout(cast(TextIO, output)), redirect_stderr(cast(TextIO, _Patient(sys.stderr))):
        try:
            yield output
        finally:
            sys.stdout.flush()


def show_error(console: Console, message: str) -> None:
    """One paragraph: what was wrong and the cure."""
    table = Table.grid(padding=(0, 2))
    table.add_row(Text("error", style="bold red"), Text(message))
    console.print(table)


def show_crash(console: Console, error: Exception) -> None:
    """An error that was not raised on purpose: what it was, and the file and line that it came from."""
    message = f"{type(error).__name__}: {error}".rstrip(": ")
    place = raised_at(error) or " inside exptilt, which should have given a clear message"
    show_error(console, f"{message}{place}. Add --debug to the command to see the traceback.")


def show_note(console: Console, message: str) -> None:
    console.print(Text(message, style="dim"))


# ------------------------------------------------------------------------------------------------------ one result


def show_result(console: Console, result: Result, beta: float) -> None:
    """The numbers behind an answer, a line for each kind."""
    console.print()
    for name, text in _facts(result, beta):
        console.print(labelled(name, text, "dim"))
    show_posterior(console, result.posterior or {})
    for sentence in result.warnings:
        console.print(labelled("warning", sentence, "yellow", "yellow"))


def show_posterior(console: Console, posterior: Mapping[Any, float]) -> None:
    """The answers of a vote, a line for each."""
    for row, line in enumerate(_posterior(posterior)):
        console.print(labelled("answers" if row == 0 else "", line, "dim"))


def labelled(name: str, text: str | Text, style: str = "", name_style: str = "dim cyan") -> Table:
    """A line with a name in front; continuation lines are indented past the name."""
    table = Table.grid(padding=(0, 2))
    table.add_column(width=10, style=name_style)
    table.add_column(style=style, overflow="fold")
    table.add_row(name, text)
    return table


def _facts(result: Result, beta: float) -> Iterator[tuple[str, str]]:
    population, usage, stats = result.population, result.usage, result.population.stats
    yield "sampler", f"{describe_sampler(result.sampler)} · β {beta:g} · seed {result.seed}"
    size = counted(len(population), "draft")
    if population.proper or not population.even:
        yield "population", f"{size} · ESS {population.ess:.1f} · largest share {population.max_share:.0%}"
    else:  # equal weights: how many of the states differ says more
        yield "population", f"{size}, {len({draft.tokens for draft in population.drafts})} of them different"
    chosen = "" if result.reward is None else f"{result.reward:.3g} · "
    yield "reward", f"{chosen}population mean {population.mean_reward:.3g}"
    if result.log_z is not None:
        kl = population.kl(beta)
        yield "log Z", f"{result.log_z:+.3f}" + ("" if kl is None else f" · KL(π‖p) {kl:.2f} nats")
    if overlap := result.trace[-1].get("overlap"):
        fit = Overlap(**overlap)
        tail = f" · k̂ of p/q {fit.k_hat:.2f}" if math.isfinite(fit.k_hat) else ""
        yield "proposal", f"{counted(fit.count, 'continuation')} count as {fit.effective:.1f}{tail}"
    if "acceptance" in stats:
        mixing = stats.get("r_hat")
        yield "acceptance", f"{stats['acceptance']:.0%}" + ("" if mixing is None else f" · R̂ {mixing:.2f}")
    yield "cost", f"{usage.tokens:,} tokens · {counted(usage.reward_calls, 'reward call')} · {usage.seconds:.1f} s"
    if result.limit is not None:
        by = "the budget" if result.stopped == "budget" else "the stop rule"
        yield "stopped", f"by {by} ({result.limit}): this is the last complete population"
    if result.proved is not None:
        yield "proved", f"{result.proved}: no unseen response can make another answer more probable"


def _posterior(posterior: Mapping[Any, float]) -> Iterator[Text]:
    """The most probable answers with their bars, and what the rest hold together."""
    shown = sorted(posterior.items(), key=lambda item: -item[1])
    rest = [share for _, share in shown[_MOST:]]
    rows = [("(none)" if answer is None else " ".join(str(answer).split()), share) for answer, share in shown[:_MOST]]
    if rest:
        rows.append((f"{len(rest)} more", sum(rest)))
    width = min(40, max((len(answer) for answer, _ in rows), default=0))
    for answer, share in rows:
        bar = "━" * round(share * _BAR)
        yield Text.assemble((f"{answer[:width]:<{width}}  ", "bold not dim"), f"{share:6.1%}  ", (bar, "cyan"))


def describe_sampler(sampler: Sampler) -> str:
    """A sampler with the parameters that are not at their defaults, such as "ETS candidates 8, block 16"."""
    return f"{type(sampler).__name__} {', '.join(_parameters(sampler))}".strip()


def _parameters(sampler: Sampler) -> Iterator[str]:
    for item in fields(sampler) if is_dataclass(sampler) else ():
        value = getattr(sampler, item.name)
        if isinstance(value, Block):
            yield f"block {value.words}"
        elif is_dataclass(value):
            yield f"of ({describe_sampler(value)})"  # type: ignore[arg-type]
        elif item.init and value != item.default:
            shown = repr(value) if isinstance(value, str) and not value.isprintable() else value
            yield f"{item.name.replace('_', ' ')} {shown}"


def result_line(outcome: Outcome) -> dict[str, Any]:
    """An outcome as JSON values, without its population: for --json."""
    if isinstance(outcome, Failure):
        return asdict(outcome) | {"prompt": prompt_json(outcome.prompt)}
    population = outcome.population
    return {
        "prompt": prompt_json(outcome.prompt),
        "text": outcome.text,
        "reward": outcome.reward,
        "log_z": outcome.log_z,
        "ess": population.ess,
        "drafts": len(population),
        "mean_reward": population.mean_reward,
        "posterior": None if outcome.posterior is None else list(outcome.posterior.items()),
        "stopped": outcome.stopped,
        "limit": outcome.limit,
        "proved": outcome.proved,
        "warnings": outcome.warnings,
        "usage": asdict(outcome.usage) | {"tokens": outcome.usage.tokens},
        "sampler": describe_sampler(outcome.sampler),
        "seed": outcome.seed,
    } | ({} if outcome.draft.output is None else {"picture": outcome.draft.glimpse})


# ---------------------------------------------------------------------------------------------------- many prompts


@contextmanager
def progress_bar(
    console: Console, total: int, unit: str = "prompt", done: int = 0
) -> Iterator[Callable[[int, int, Outcome], None]]:
    """A live bar with rate and time left, to be given to `run` as its `progress`; plain lines if the output is not a terminal.

    done: how many of them are done already, where the bar begins.
    """
    live = console.is_terminal
    count = TextColumn("{task.completed:.0f}/{task.total:.0f}")
    columns = (
        BarColumn(bar_width=32, complete_style="cyan", finished_style="green"),
        count,
        TextColumn("[dim]{task.fields[said]}"),
    )
    pace, spoken = Pace(unit), time.monotonic()
    with Progress(*columns, console=console, disable=not live, refresh_per_second=8) as bar:
        begins = "starting" if done < total else "all of them in earlier runs"
        task = bar.add_task("", total=total, completed=done, said=begins)

        def hear(done: int, total: int, outcome: Outcome) -> None:
            nonlocal spoken
            now, said = time.monotonic(), pace.hear(done, total, outcome)
            bar.update(task, completed=done, total=total, said=said)
            if not live and now - spoken > _QUIET:
                spoken = now
                show_note(console, f"{done}/{total} · {said}")

        yield hear


def show_summary(console: Console, outcomes: Sequence[Outcome], fresh: int, seconds: float, store: str) -> None:
    """One line on the whole run, the kinds of failure, and where the results are."""
    failures = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    kept = len(outcomes) - fresh
    tokens = sum(outcome.usage.tokens for outcome in outcomes if isinstance(outcome, Result))
    parts = [f"{counted(len(outcomes) - len(failures), 'prompt')} answered"]
    parts += [f"{len(failures)} failed"] if failures else []
    parts += [f"{kept} of them in earlier runs" if kept < len(outcomes) else "all of them in earlier runs"] if kept else []
    parts += [f"{tokens:,} tokens", clock(seconds)]
    verdict = ("done  ", "bold green") if len(failures) < len(outcomes) else ("failed  ", "bold red")
    console.print(Text.assemble(verdict, " · ".join(parts)))
    kinds = Counter((failure.error, failure.message) for failure in failures)
    for (error, message), count in kinds.most_common(_MOST):
        console.print(Text.assemble(f"  {count} × ", (error, "red"), f"  {message}"))
    if len(kinds) > _MOST:
        console.print(f"  and {len(kinds) - _MOST} other messages in the file")
    console.print(Text.assemble(("results  ", "dim"), store), soft_wrap=True)


def counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
