"""The commands `exptilt sample`, `exptilt run`, `exptilt eval`, `exptilt doctor` and `exptilt report`.

The exit code is 0 where all went well, 1 where an answer failed, 2 where the request was refused before any work, and
130 after Ctrl-C. Errors are one paragraph on standard error: what was wrong, and the cure.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

from exptilt import __version__
from exptilt.cli.doctor import diagnose
from exptilt.cli.eval import evaluate_task
from exptilt.cli.flags import parse
from exptilt.cli.parts import UsageError, make_budget, make_sampler, make_select, make_target, read_prompts
from exptilt.cli.report import report
from exptilt.core import Sampler, Target
from exptilt.errors import AllWeightsZero, BudgetSpent, ExptiltError, RewardError, WeightsError
from exptilt.running.cluster import Cluster
from exptilt.running.lines import encode
from exptilt.running.result import Failure, Outcome
from exptilt.running.run import Select, run, sample
from exptilt.usage import Budget

try:
    from rich.console import Console

    from exptilt.cli.terminal import progress_bar, result_line, show_error, show_note, show_result, show_summary, stderr
except ModuleNotFoundError as error:
    raise SystemExit(f"the command line needs the package {error.name}: pip install 'exptilt[cli]'") from None

_FAILED = (RewardError, AllWeightsZero, WeightsError, BudgetSpent)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; `argv` without the program's name, taken from the system where not given."""
    console = stderr()
    try:
        args = parse(sys.argv[1:] if argv is None else argv, __version__)
        commands = {"sample": _sample, "run": _run, "eval": evaluate_task, "doctor": diagnose, "report": _report}
        return commands[args.command](args, console)
    except ExptiltError as error:
        show_error(console, str(error))
        return 1 if isinstance(error, _FAILED) else 2
    except KeyboardInterrupt:
        show_note(console, "stopped")
        return 130


def _sample(args: argparse.Namespace, console: Console) -> int:
    sampler, select, budget = _settings(args)
    with _status(console, f"loading {args.model}"):
        target = _target(args)
    with _status(console, "drawing"):
        result = sample(
            target, args.prompt, sampler, select=select, seed=args.seed, budget=budget, reward_timeout=args.reward_timeout
        )
    print(encode(result_line(result)) if args.json else result.text, flush=True)
    if not args.json:
        show_result(console, result, target.beta)
    return 0


def _run(args: argparse.Namespace, console: Console) -> int:
    sampler, select, budget = _settings(args)
    if args.concurrency < 1:
        raise UsageError(f"--concurrency {args.concurrency} must be at least 1")
    prompts = read_prompts(Path(args.prompts))
    cluster = _cluster(args)
    with _status(console, f"loading {args.model}"):
        target = _target(args) if cluster is None else partial(_target, args)
    began, heard = time.monotonic(), list[Outcome]()

    def hear(done: int, total: int, outcome: Outcome) -> None:
        heard.append(outcome)
        if args.json:
            print(encode(result_line(outcome)), flush=True)
        show(done, total, outcome)

    try:
        with progress_bar(console, len(prompts)) as show:
            outcomes = run(
                target, prompts, sampler, select=select, seed=args.seed, store=args.out, concurrency=args.concurrency,
                budget=budget, progress=hear, retry=args.retry, on_error="stop" if args.stop_on_error else "record",
                reward_timeout=args.reward_timeout, store_population=not args.no_population, cluster=cluster,
            )  # fmt: skip
    except KeyboardInterrupt:
        show_note(console, f"stopped; {len(heard)} more prompts are in {args.out}. The same command goes on from there.")
        return 130
    except ExptiltError as error:
        if not (args.stop_on_error and _failed(heard)):
            raise
        show_error(console, str(error))
        show_note(console, f"stopped as told; {len(heard)} more prompts are in {args.out}")
        return 1
    failed, fresh = _failed(outcomes), len(heard)
    if args.json:
        print(encode({"prompts": len(outcomes), "failed": failed, "fresh": fresh, "store": args.out}))
    else:
        show_summary(console, outcomes, fresh, time.monotonic() - began, args.out)
    return 1 if failed else 0


def _failed(outcomes: Sequence[Outcome]) -> int:
    return sum(isinstance(outcome, Failure) for outcome in outcomes)


def _report(args: argparse.Namespace, console: Console) -> int:
    with _status(console, "reading"):
        path = report(args)
    print(path, flush=True)
    show_note(console, f"{path.stat().st_size / 1e6:.1f} MB, to be opened in any browser")
    return 0


def _settings(args: argparse.Namespace) -> tuple[Sampler, Select, Budget | None]:
    try:
        return make_sampler(args), make_select(args), make_budget(args)
    except ValueError as error:  # ranges are checked at construction
        raise _refusal(error, args) from error


def _target(args: argparse.Namespace) -> Target:
    try:
        return make_target(args)
    except ValueError as error:
        raise _refusal(error, args) from error


def _cluster(args: argparse.Namespace) -> Cluster | None:
    if args.ray is None:
        return None
    try:
        return Cluster(args.ray, args.ray_workers, args.ray_gpus, args.ray_cpus)
    except ValueError as error:
        raise _refusal(error, args) from error


def _refusal(error: ValueError, args: argparse.Namespace) -> UsageError:
    return UsageError(f"{str(error).rstrip('.')}; see exptilt {args.command} --help.")


def _status(console: Console, said: str) -> AbstractContextManager[object]:
    """A spinner while something takes its time, where somebody watches."""
    return console.status(f"[dim]{said}") if console.is_terminal else nullcontext()
