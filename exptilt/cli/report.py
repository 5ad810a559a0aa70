"""`exptilt report`: results files in, one HTML page out. No model is loaded."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exptilt.cli.parts import ANSWERS, UsageError, parameters, read_prompts
from exptilt.report import MOST_DRAFTS, write_report

ABOUT = """Make one HTML page about one results file, or several of the same prompts to compare. The page needs no network.
Without references it shows rewards where accuracy would be."""

_NAMES = ("reference", "answer")  # fields of a line of references, the first that is there


def add_report(commands: argparse._SubParsersAction[Any], formatter: Any) -> None:
    """The command's own flags."""
    parser = commands.add_parser(
        "report",
        help="one HTML page about results files: accuracy, cost, diagnostics, every tree",
        description=ABOUT,
        usage="exptilt report STORE [STORE ...] [options]",
        formatter_class=formatter,
        allow_abbrev=False,
    )
    parser.add_argument("stores", metavar="STORE", nargs="+", help="a results file of exptilt run; each is a method")
    parser.add_argument("--out", metavar="FILE", help="the page; default the first STORE with the ending .html")
    parser.add_argument(
        "--references",
        metavar="FILE",
        help='the right answers: a .jsonl file, each line {"prompt": ..., "reference": ...}; or one per line, with --prompts',
    )
    parser.add_argument("--prompts", metavar="FILE", help="the file of prompts that was run, in the order of the references")
    parser.add_argument(
        "--answer", choices=tuple(ANSWERS), help="what counts as an answer; default as in the run's vote, or number"
    )
    parser.add_argument(
        "--parameters",
        type=parameters,
        action="append",
        metavar="N,N,N",
        help="parameters of the model, its proposal and a reward model, such as 5e8,0,1e9: shows FLOPs; "
        "once for all files, or again for each",
    )
    parser.add_argument("--title", metavar="TEXT", default="exptilt report", help="the page's title")
    parser.add_argument(
        "--most-drafts", type=int, metavar="N", default=MOST_DRAFTS, help=f"texts kept of one prompt; default {MOST_DRAFTS}"
    )


def report(args: argparse.Namespace) -> Path:
    """Write the page that was asked for and return its path."""
    out = Path(args.out) if args.out else Path(args.stores[0]).with_suffix(".html")
    if out in map(Path, args.stores):
        raise UsageError(f"--out {out} is one of the results files: give the page another name")
    if args.most_drafts < 0:
        raise UsageError(f"--most-drafts {args.most_drafts} must be 0 or more")
    try:
        return write_report(
            args.stores, out, references=_references(args), answer=ANSWERS[args.answer] if args.answer else None,
            title=args.title, most_drafts=args.most_drafts, parameters=args.parameters or (),
        )  # fmt: skip
    except ValueError as error:
        raise UsageError(f"{error}; see exptilt report --help.") from error
    except OSError as error:
        raise UsageError(f"the page {out} cannot be written: {error.strerror}. Give another place with --out.") from error


def _references(args: argparse.Namespace) -> Mapping[str, str] | None:
    """The right answers by their prompts."""
    if args.references is None:
        return None
    if args.prompts is None:
        return _paired(Path(args.references))
    prompts = read_prompts(Path(args.prompts))
    found = [line.strip() for line in _read(Path(args.references)).splitlines() if line.strip()]
    if len(found) != len(prompts):
        raise UsageError(f"{args.references} holds {len(found)} references for {len(prompts)} prompts of {args.prompts}")
    return dict(zip(prompts, found, strict=True))


def _paired(path: Path) -> dict[str, str]:
    """A .jsonl file of prompts with their references."""
    references = {}
    for number, line in enumerate(_read(path).splitlines(), 1):
        if not line.strip():
            continue
        where = f"line {number} of {path}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UsageError(f"{where} is no JSON ({error}): for plain references give --prompts as well") from error
        name = next((name for name in _NAMES if isinstance(row, dict) and name in row), None)
        if name is None or not isinstance(row.get("prompt"), str):
            raise UsageError(f'{where} pairs nothing: give {{"prompt": "...", "reference": "..."}}, or --prompts as well')
        references[row["prompt"]] = str(row[name])
    return references


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the file of references {path} cannot be read ({error}): give a UTF-8 text file") from error
