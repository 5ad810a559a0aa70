"""`exptilt export`: a results file as a table, one row for each prompt."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from exptilt.cli.groups import Subcommand
from exptilt.cli.terminal import counted, show_note
from exptilt.errors import UsageError
from exptilt.running.flat import as_csv, check_rows, flat_rows, write_parquet

ABOUT = """Write the results of a file as a table, one row for each prompt: its answer, reward, log Ẑ and cost, or its error,
and the columns of its problem. Drafts and weights stay in the results file."""


def add_flags(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    parser.add_argument("store", metavar="STORE", help="a results file of exptilt run")
    group = parser.add_argument_group("output")
    group.add_argument("--csv", metavar="FILE", help="write CSV; - for standard output, which is the default")
    group.add_argument("--parquet", metavar="FILE", help="write Parquet, which takes pyarrow")


def execute(args: argparse.Namespace, console: Console) -> int:
    rows = flat_rows(args.store)
    check_rows(rows, args.store)
    paths = [Path(path) for path in (args.csv, args.parquet) if path not in (None, "-")]
    if Path(args.store).resolve() in [path.resolve() for path in paths]:
        raise UsageError(f"{args.store} is the results file: give the table another name")
    try:
        if args.csv not in (None, "-"):
            Path(args.csv).write_text(as_csv(rows), encoding="utf-8", newline="")
        if args.parquet is not None:
            write_parquet(rows, Path(args.parquet))
    except OSError as error:
        raise UsageError(f"the table cannot be written: {error}. Give another path.") from error
    if args.csv == "-" or not paths:
        sys.stdout.write(as_csv(rows))
    for path in paths:
        show_note(console, f"{counted(len(rows), 'row')} in {path}")
    return 0


COMMAND = Subcommand(
    "export",
    "a results file as a table: CSV or Parquet",
    ABOUT,
    "exptilt export STORE [--csv FILE] [--parquet FILE]",
    add_flags,
    execute,
)
