"""`exptilt eval`: a sampler on a task, against plain sampling, votes, MBR and best-of-n at the same tokens."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from exptilt import answers, names
from exptilt.cli import groups
from exptilt.cli.forecast import forecast, show_dry_run
from exptilt.cli.terminal import counted, progress_bar, show_note, stderr, stdout
from exptilt.cli.values import whole
from exptilt.core import Target
from exptilt.errors import UsageError
from exptilt.evaluation.compare import Announce, Comparison, Point, compare, curve
from exptilt.evaluation.cost import Parameters
from exptilt.evaluation.evaluate import Score, paired_difference
from exptilt.evaluation.tasks import Task, file_task, load_task
from exptilt.evaluation.tasks.files import REFERENCE_KEYS
from exptilt.running.lines import encode
from exptilt.running.result import Outcome
from exptilt.samplers import Independent

ABOUT = """Compare a sampler with plain sampling, votes, MBR and best-of-n on problems with known answers, at the same
tokens, temperature and cap. With --out, the same command resumes a stopped evaluation. --reward verifier is the
judge of the task itself, which knows the right answers."""


def add_flags(parser: argparse.ArgumentParser, argv: Sequence[str]) -> groups.Asked:
    groups.add_model(parser)
    group = parser.add_argument_group("task")
    groups.add_task(group, required=False)
    group.add_argument("--prompts", metavar="FILE", help="problems of your own instead, as for exptilt run, with right answers")
    groups.add_keys(group)
    known = ", ".join(REFERENCE_KEYS)
    group.add_argument("--reference-key", metavar="NAME", help=f"the column of the right answers; default the first of {known}")
    group.add_argument("--problems", type=whole, metavar="N", help="the first N problems; default all, 100 of a generated set")
    group.add_argument("--seeds", type=whole, metavar="N", help="repeat with the seeds 0 to N-1; default 1, or 32 for aime24")
    group.add_argument("--shots", type=whole, metavar="N", help="few-shot examples of an lm-eval task")
    group.add_argument(
        "--scoring",
        metavar="FILTER:METRIC",
        help="what counts as right in an lm-eval task, or answer, by --answer; default its first",
    )
    group.add_argument(
        "--prompt-template", metavar="TEXT", help="what an lm-eval task asks, in Jinja, such as 'Solve this: {{question}}'"
    )
    group.add_argument("--include", metavar="FOLDER", help="a folder with lm-eval task files of your own")
    groups.add_answer(group, "as suits the task")
    asked = groups.add_request(parser, argv, select=False)
    groups.add_until(parser.add_argument_group("limits"))
    group = parser.add_argument_group("output")
    group.add_argument("--out", metavar="FOLDER", help="keep all results in this folder, and resume from them")
    group.add_argument("--concurrency", type=whole, default=32, metavar="N", help="problems in progress at once; default 32")
    groups.add_parameters(group)
    group.add_argument("--json", action="store_true", help="print one JSON object instead of the tables")
    groups.add_dry_run(group)
    return asked


def execute(args: argparse.Namespace, console: Console) -> int:
    """Run the command; the tables go to standard output."""
    groups.at_least_one(args, "seeds", "concurrency")
    with groups.checked(args):
        sampler, until = groups.sampler_of(args), groups.until_of(args)
        task = _task(args)
        args.seeds = args.seeds or task.seeds
        args.max_tokens, args.stop = args.max_tokens or task.max_tokens, args.stop or list(task.stop)
        target = _target(args, task)
    if args.dry_run:
        also = "" if isinstance(sampler, Independent) else ", and as much again for the draws that it is compared with"
        show_dry_run(stdout(), target, task.prompts, sampler, None, runs=args.seeds, also=also)
        return 0
    if args.out and args.prompts is None:  # results keep the columns of a file, the right answers among them
        _write_references(task, Path(args.out))
    seeds = tuple(range(args.seeds))
    with _bars(console) as announce:
        comparison = compare(
            target, task, sampler, seeds=seeds, concurrency=args.concurrency, store=args.out, announce=announce,
            reward_timeout=args.reward_timeout, until=until,
        )  # fmt: skip
    points = curve(comparison, task)
    if args.json:
        print(encode(_as_json(task, comparison, points, args.parameters)))
    else:
        _show(task, comparison, points, args)
    return 0


def _task(args: argparse.Namespace) -> Task:
    if (args.task is None) == (args.prompts is None):
        raise UsageError("give either --task NAME or --prompts FILE; see exptilt eval --help.")
    answer = names.ANSWERS.find(args.answer) if args.answer else None
    if args.prompts is None:
        return load_task(
            args.task, problems=args.problems, seed=args.task_seed, shots=args.shots, scoring=args.scoring, include=args.include,
            prompt_template=args.prompt_template, answer=answer,
        )  # fmt: skip
    if args.problems is not None and args.problems < 1:
        raise UsageError(f"--problems {args.problems} must be at least 1; see exptilt eval --help.")
    if any(given is not None for given in (args.shots, args.scoring, args.include, args.prompt_template)):
        raise UsageError(
            "--shots, --scoring, --include and --prompt-template belong to lm-eval tasks: leave them out with --prompts."
        )
    return file_task(
        args.prompts, answer=answer or answers.number, prompt_key=args.prompt_key, id_key=args.id_key,
        reference_key=args.reference_key, problems=args.problems,
    )  # fmt: skip


def _target(args: argparse.Namespace, task: Task) -> Target:
    """What the flags ask for; the reward "verifier" is the task's."""
    if args.reward != "verifier":
        return groups.target_of(args, task.answer)()
    verifier = task.verifier  # what is wrong with it is said before a model is loaded
    return replace(groups.target_of(args, task.answer, reward="none")(), reward=verifier)


def _write_references(task: Task, folder: Path) -> None:
    """The right answers beside the results, for `exptilt report`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"the folder {folder} cannot be created: {error.strerror}. Give another one with --out.") from error
    pairs = zip(task.prompts, task.references, strict=True)
    lines = [json.dumps({"prompt": prompt, "reference": reference}) for prompt, reference in pairs]
    (folder / "references.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


@contextmanager
def _bars(console: Console) -> Iterator[Announce]:
    """One bar after the other, each under its title."""
    with ExitStack() as stack:

        def announce(title: str, total: int) -> Callable[[int, int, Outcome], None]:
            stack.close()
            show_note(console, title)
            return forecast(console, stack.enter_context(progress_bar(console, total, "problem")), "problem")

        yield announce


def _as_json(task: Task, comparison: Comparison, points: Sequence[Point], parameters: Parameters | None) -> dict[str, Any]:
    return {
        "task": task.name,
        "problems": len(task),
        "draws": comparison.draws,
        "scores": [
            asdict(score)
            | {"accuracy": score.accuracy, "interval": score.interval}
            | ({} if parameters is None or score.cost is None else {"flops": score.cost.flops(parameters)})
            for score in comparison.scores
        ],
        "curve": [asdict(point) for point in points],
    }


# ---------------------------------------------------------------------------------------------------------- tables


def _show(task: Task, comparison: Comparison, points: Sequence[Point], args: argparse.Namespace) -> None:
    console = stdout()
    console.print(
        f"\n[bold]{task.name}[/bold]  {counted(len(task), 'problem')} · {counted(args.seeds, 'seed')} · "
        f"temperature {args.temperature or 1:g} · cap {args.max_tokens} tokens · {args.model}",
        width=min(console.width, stderr().width),  # the tables may be wider than the screen, and words must not break there
    )
    console.print(_scores(comparison.scores, args.parameters))
    console.print(f"\nFrom 1 to {comparison.draws} draws, over all subsets; weighted and best use the reward", style="dim")
    console.print(_curve(points))
    if args.out:
        console.print(f"[dim]results[/dim] {args.out}", soft_wrap=True)


def _table(*names: str) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="dim")
    for number, name in enumerate(names):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    return table


def _scores(scores: Sequence[Score], parameters: Parameters | None) -> Table:
    more = () if parameters is None else ("GFLOPs",)
    table = _table("method", "accuracy", "95 %", "over majority", "tokens", "forwards", *more, "s")
    base, top = scores[1], max(score.accuracy for score in scores)
    for score in scores:
        low, high = score.interval
        difference, least, most = paired_difference(score, base)
        cells = [f"{score.accuracy:.1%}", f"{100 * low:.0f} to {100 * high:.0f}"]
        cells += ["" if score is base else f"{100 * difference:+.1f} ({100 * least:+.0f} to {100 * most:+.0f})"]
        cells += [f"{score.tokens:,.0f}", f"{score.cost.forwards:,.0f}" if score.cost else ""]
        if parameters is not None and score.cost:
            cells += [" + ".join(f"{part / 1e9:,.3g}" for part in score.cost.flops(parameters) if part)]
        table.add_row(score.name, *cells, f"{score.seconds:,.0f}", style="bold green" if score.accuracy == top else "")
    return table


def _curve(points: Sequence[Point]) -> Table:
    table = _table("draws", "tokens", "pass@k", "majority", "weighted", "best")
    for point in points:
        shares = (point.passed, point.majority, point.weighted, point.best)
        table.add_row(str(point.k), f"{point.tokens:,.0f}", *(f"{share:.1%}" for share in shares))
    return table


COMMAND = groups.Subcommand(
    "eval",
    "accuracy on a task, at equal tokens, with intervals",
    ABOUT,
    "exptilt eval MODEL --task NAME --reward SPEC --beta X [options]",
    add_flags,
    execute,
)
