"""`exptilt run`: answers every prompt of a file, writes a JSON line for each as it finishes, and resumes a stopped run."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

from rich.console import Console

from exptilt.cli import groups
from exptilt.cli.forecast import forecast, kept_in, show_dry_run
from exptilt.cli.terminal import progress_bar, result_line, show_error, show_note, show_summary, status, stdout
from exptilt.cli.values import one_of, real, whole
from exptilt.core import Target
from exptilt.errors import ExptiltError, UsageError
from exptilt.running.allocation import Gain
from exptilt.running.cluster import Cluster
from exptilt.running.examples import read_examples
from exptilt.running.lines import encode
from exptilt.running.result import Failure, Outcome
from exptilt.running.run import run
from exptilt.usage import Budget

ABOUT = """Answer every prompt of a file, and write a JSON line for each as it finishes.
The same command resumes a stopped run where it left off."""


def add_flags(parser: argparse.ArgumentParser, argv: Sequence[str]) -> groups.Asked:
    groups.add_model(parser)
    parser.add_argument("prompts", metavar="PROMPTS", help=groups.PROMPTS)
    groups.add_keys(parser.add_argument_group("prompts"))
    asked = groups.add_request(parser, argv)
    _add_allocation(parser)
    _add_store(parser)
    _add_cluster(parser)
    return asked


def _add_allocation(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sharing out")
    group.add_argument(
        "--allocate",
        **one_of(*get_args(Gain)),
        help="give more runs of the sampler to the prompts that gain the most from them: accuracy, of --select vote, majority or "
        "best; or log_z, the error of log Ẑ. Results then depend on the other prompts of the file",
    )
    group.add_argument("--total-tokens", type=whole, metavar="N", help="tokens of the whole run, which --allocate shares out")


def _add_store(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument("--out", metavar="FILE", required=True, help="the results file; if it exists, its run is resumed")
    group.add_argument(
        "--concurrency", type=whole, default=32, metavar="N", help="prompts in progress at once, per worker; default 32"
    )
    group.add_argument("--retry", action="store_true", help="run again the prompts that the file records as failed")
    group.add_argument("--stop-on-error", action="store_true", help="end the run at the first prompt that fails")
    group.add_argument("--no-population", action="store_true", help="keep only each prompt's chosen response, for a small file")
    group.add_argument("--json", action="store_true", help="print one JSON line per prompt, and one with the totals")
    groups.add_dry_run(group)


def _add_cluster(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("many machines")
    group.add_argument(
        "--ray", metavar="ADDRESS", help='spread the prompts over a Ray cluster: HOST:PORT, "auto", or "local" for this machine'
    )
    group.add_argument(
        "--ray-workers", type=whole, metavar="N", help="workers, each with a copy of the model; default as many as fit"
    )
    group.add_argument(
        "--ray-gpus", type=real, default=0.0, metavar="X", help="GPUs for each worker, such as 1 or 0.5; default 0"
    )
    group.add_argument("--ray-cpus", type=real, default=1.0, metavar="X", help="cores for each worker; default 1")


def execute(args: argparse.Namespace, console: Console) -> int:
    groups.at_least_one(args, "concurrency", "total_tokens")
    _check_pairs(args)
    with groups.checked(args):
        sampler, select, until, budget = groups.request_of(args)
        if args.total_tokens is not None:
            budget = replace(budget or Budget(), total_tokens=args.total_tokens)
        build = groups.target_of(args)
        prompts = read_examples(args.prompts, args.prompt_key, args.id_key)
        cluster = None if args.ray is None else Cluster(args.ray, args.ray_workers, args.ray_gpus, args.ray_cpus)
        with status(console, f"loading {args.model}"):
            target = build() if cluster is None else build
    kept = kept_in(args.out, prompts, args.retry)
    if args.dry_run:
        made = target if isinstance(target, Target) else target()
        show_dry_run(stdout(), made, prompts, sampler, budget, kept=kept)
        return 0
    began, heard = time.monotonic(), list[Outcome]()

    def hear(done: int, total: int, outcome: Outcome) -> None:
        heard.append(outcome)
        if args.json:
            print(encode(result_line(outcome)), flush=True)
        show(done, total, outcome)

    try:
        with progress_bar(console, len(prompts), done=kept) as bar:
            show = bar if args.json else forecast(console, bar)
            outcomes = run(
                target, prompts, sampler, select=select, until=until, seed=args.seed, store=args.out,
                concurrency=args.concurrency, budget=budget, progress=hear, retry=args.retry,
                on_error="stop" if args.stop_on_error else "record",
                reward_timeout=args.reward_timeout, store_population=not args.no_population, cluster=cluster,
                allocate=args.allocate,
            )  # fmt: skip
    except KeyboardInterrupt:
        show_note(console, f"stopped; {len(heard)} more prompts are in {args.out}. Run the same command again to resume.")
        return 130
    except ExptiltError as error:
        if not (args.stop_on_error and _failed(heard)):
            raise
        show_error(console, str(error))
        show_note(console, f"stopped at the first failure; {len(heard)} more prompts are in {args.out}")
        return 1
    failed, fresh = _failed(outcomes), len(heard)
    if args.json:
        print(encode({"prompts": len(outcomes), "failed": failed, "fresh": fresh, "store": args.out}))
    else:
        show_summary(console, outcomes, fresh, time.monotonic() - began, args.out)
    return 1 if failed else 0


def _check_pairs(args: argparse.Namespace) -> None:
    """Refuse flags that mean nothing without another."""
    if (args.allocate is None) != (args.total_tokens is None):
        raise UsageError(
            "--allocate shares out the tokens that --total-tokens gives: give both, or --budget-tokens for each prompt."
        )
    for name, usual in (("ray_workers", None), ("ray_gpus", 0.0), ("ray_cpus", 1.0)):
        if args.ray is None and getattr(args, name) != usual:
            raise UsageError(f"{groups.setting_flag(name)} is of a cluster: give its address with --ray, or leave it out.")


def _failed(outcomes: Sequence[Outcome]) -> int:
    return sum(isinstance(outcome, Failure) for outcome in outcomes)


COMMAND = groups.Subcommand(
    "run",
    "answer a file of prompts, with resume",
    ABOUT,
    "exptilt run MODEL PROMPTS --reward SPEC --beta X --out FILE [options]",
    add_flags,
    execute,
)
