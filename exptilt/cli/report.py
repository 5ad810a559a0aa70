"""`exptilt report`: results files in, one HTML page out. No model is loaded."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from exptilt.cli.groups import Subcommand, add_answer, add_parameters, checked
from exptilt.cli.terminal import show_note, status
from exptilt.cli.values import whole
from exptilt.draft import prompt_text
from exptilt.errors import UsageError
from exptilt.names import ANSWERS
from exptilt.report import MOST_DRAFTS, write_report
from exptilt.running.examples import read_prompts, read_text

ABOUT = """Make one HTML page about a results file, or about several files of the same prompts, to compare them. The page
needs no network. Without references it shows rewards instead of accuracy."""

_NAMES = ("reference", "answer")  # fields of a line of references, the first that is there


def add_flags(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    parser.add_argument(
        "stores", metavar="STORE", nargs="+", help="a results file of exptilt run; the page shows each as a method"
    )
    parser.add_argument(
        "--out", metavar="FILE", help="where to write the page; default the name of the first STORE with the ending .html"
    )
    parser.add_argument(
        "--references",
        metavar="FILE",
        help='the right answers: a .jsonl file, each line {"prompt": ..., "reference": ...}; or one per line, with --prompts',
    )
    parser.add_argument("--reference-key", metavar="NAME", help="the column of the prompts' file with the right answers instead")
    parser.add_argument("--prompts", metavar="FILE", help="the file of prompts that was run, in the order of the references")
    add_answer(parser, "that of the run's vote, or number")
    add_parameters(parser, action="append")
    parser.add_argument("--title", metavar="TEXT", default="exptilt report", help="the page's title")
    parser.add_argument(
        "--most-drafts", type=whole, metavar="N", default=MOST_DRAFTS, help=f"texts kept for each prompt; default {MOST_DRAFTS}"
    )


def execute(args: argparse.Namespace, console: Console) -> int:
    with status(console, "reading"):
        path = _written(args)
    print(path, flush=True)
    show_note(console, f"{path.stat().st_size / 1e6:.1f} MB: open it in any browser")
    return 0


def _written(args: argparse.Namespace) -> Path:
    """Write the page that was asked for and return its path."""
    out = Path(args.out) if args.out else Path(args.stores[0]).with_suffix(".html")
    if out in map(Path, args.stores):
        raise UsageError(f"--out {out} is one of the results files: give the page another name")
    if args.most_drafts < 0:
        raise UsageError(f"--most-drafts {args.most_drafts} must be 0 or more")
    try:
        with checked(args):
            return write_report(
                args.stores, out, references=_references(args), reference_key=args.reference_key,
                answer=ANSWERS.find(args.answer) if args.answer else None,
                title=args.title, most_drafts=args.most_drafts, parameters=args.parameters or (),
            )  # fmt: skip
    except OSError as error:
        raise UsageError(f"the page {out} cannot be written: {error.strerror}. Give another path with --out.") from error


def _references(args: argparse.Namespace) -> Mapping[str, str] | None:
    """The right answers by their prompts."""
    if args.references is None:
        return None
    if args.prompts is None:
        return _paired(Path(args.references))
    prompts = [prompt_text(prompt) for prompt in read_prompts(args.prompts)]
    found = [line.strip() for line in read_text(args.references).split("\n") if line.strip()]
    if len(found) != len(prompts):
        raise UsageError(
            f"{args.references} has {len(found)} references for the {len(prompts)} prompts of {args.prompts}: give one "
            "reference per line, in the order of the prompts."
        )
    return dict(zip(prompts, found, strict=True))


def _paired(path: Path) -> dict[str, str]:
    """A .jsonl file of prompts with their references."""
    references = {}
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        where = f"line {number} of {path}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UsageError(f"{where} is not JSON ({error}): for plain references give --prompts as well") from error
        name = next((name for name in _NAMES if isinstance(row, dict) and name in row), None)
        if name is None or not isinstance(row.get("prompt"), str):
            raise UsageError(
                f'{where} pairs no prompt with a reference: give {{"prompt": "...", "reference": "..."}}, or --prompts as well'
            )
        references[row["prompt"]] = str(row[name])
    return references


COMMAND = Subcommand(
    "report",
    "one HTML page about results files: accuracy, cost, diagnostics, every tree",
    ABOUT,
    "exptilt report STORE [STORE ...] [options]",
    add_flags,
    execute,
)
