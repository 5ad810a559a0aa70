"""From the words of a command line to its arguments: the parsers of all commands, and what is said of words they do not know.

A command's flags depend on its sampler, and its values may stand in a file (`exptilt.cli.flags_file`), so both are looked for
first.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any, NoReturn

from rich.console import Console
from rich.table import Table
from rich.text import Text

from exptilt import __version__, names
from exptilt.cli.flags_file import Flags, add_file_flags, file_of, given_words, parse_with, write_flags
from exptilt.cli.groups import Subcommand, add_settings, flags_of, setting_flag, with_help
from exptilt.errors import UsageError, did_you_mean
from exptilt.names import Chosen

ABOUT = "Draw from π(y|x) ∝ p(y|x)·exp(r(x,y)/β): a model tilted by a reward."
EXAMPLE = """Try this, with a small model that comes with the program:

  exptilt sample tiny "Tom has 3 boxes with 4 pens in each. How many pens?" \\
    --reward arithmetic --beta 0.1"""
Commands = Mapping[str, Subcommand]


class Parser(argparse.ArgumentParser):
    """An argument parser that raises UsageError instead of leaving the program."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(with_help(message.removeprefix("argument "), self.prog))


def parse(argv: Sequence[str], commands: Commands) -> argparse.Namespace:
    """Read the command line. `--help` and `--version` print and exit, as argparse does."""
    lead = list(takewhile(lambda word: word.startswith("-"), argv))
    if lead and len(lead) < len(argv) and not set(lead) - {"-v", "--verbose", "-q", "--quiet", "--debug"}:
        argv = [argv[len(lead)], *lead, *argv[len(lead) + 1 :]]  # these may stand before the command
    parser, parsers = program(commands)
    asked = next((word for word in argv if not word.startswith("-")), None)
    if asked is not None and asked not in commands:
        raise UsageError(f"there is no command {asked!r}: give {', '.join(commands)}.{did_you_mean(asked, commands)}")
    if asked is None:
        if odd := [word for word in argv if word not in ("-h", "--help", "--version")]:
            raise _unknown(odd[:1], parser)
        return parser.parse_args(argv)  # which prints and exits
    here, flags = parsers[asked], Flags.of(file_of(argv))
    fill(here, commands[asked], [*flags.early, *argv])
    try:
        args, unknown = parse_with(flags, parser, here, argv) if flags.path else parser.parse_known_args(argv)
    except UsageError:  # the missing argument may be there, but misspelled
        if odd := [word for word in argv if word.startswith("--") and word.partition("=")[0] not in {*flags_of(here), "--"}]:
            raise _unknown(odd[:1], here) from None
        raise
    if unknown and not unknown[0].startswith("-") and vars(args).get("prompt", "") is None:
        args.prompt = unknown.pop(0)  # a PROMPT after options, which argparse overlooks because PROMPT is optional
    if unknown:
        raise _unknown(unknown, here)
    if getattr(args, "save_config", None):
        _save(args, flags, argv, commands)
    return args


def _save(args: argparse.Namespace, flags: Flags, argv: Sequence[str], commands: Commands) -> None:
    """Write the arguments as they were given, which values that have been read no longer tell."""
    parser, parsers = program(commands)
    fill(parsers[args.command], commands[args.command], [*flags.early, *argv])
    words = given_words(parsers[args.command], parser, argv)
    write_flags(args.save_config, args.command, {**flags.values, **words})


def program(commands: Commands) -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The program's parser, and one for each command that has no arguments yet."""
    parser = Parser(prog="exptilt", description=ABOUT, formatter_class=_formatter, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"exptilt {__version__}")
    below = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, title="commands")
    return parser, {name: _subparser(below, command) for name, command in commands.items()}


def fill(parser: argparse.ArgumentParser, command: Subcommand, argv: Sequence[str]) -> None:
    """Give a command's parser its arguments, those of the sampler that `argv` asks for among them."""
    draws = command.add_flags(parser, argv)
    group = parser.add_argument_group("program")
    if "--config" not in flags_of(parser):  # that of `serve` holds more than flags
        add_file_flags(group)
    group.add_argument("-v", "--verbose", action="store_true", help="also say what the engines and the run do meanwhile")
    group.add_argument("-q", "--quiet", action="store_true", help="say nothing but results and errors")
    group.add_argument("--debug", action="store_true", help="show where in the program an error came from")
    if draws is not None:
        add_settings(parser, draws)


def show_short_help(console: Console, commands: Commands) -> None:
    """What the program says when it is called without a word."""
    console.print(ABOUT, EXAMPLE, sep="\n\n", markup=False, end="\n\n")
    table = Table.grid(padding=(0, 2))
    for name, command in commands.items():
        table.add_row(Text(name, style="cyan"), command.summary)
    console.print(table)
    console.print("\nexptilt COMMAND --help shows the options of one of them.")


def _subparser(below: Any, command: Subcommand) -> argparse.ArgumentParser:
    return below.add_parser(
        command.name,
        help=command.summary,
        description=command.about,
        usage=command.usage,
        formatter_class=_formatter,
        allow_abbrev=False,
    )


def _formatter(prog: str) -> argparse.HelpFormatter:
    width = min(100, max(60, shutil.get_terminal_size((100, 24)).columns))  # wide enough for the flags, narrow enough to read
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=30, width=width)


def _unknown(words: Sequence[str], parser: argparse.ArgumentParser) -> UsageError:
    """What is wrong with words that the parser does not know: a flag of another sampler, a near miss, or one too many."""
    flag, flags = words[0].partition("=")[0], flags_of(parser)
    known = names.known_samplers() if "--sampler" in flags else {}
    owners = [name for name, each in known.items() if isinstance(each, Chosen) and flag in map(setting_flag, each.settings)]
    if not flag.startswith("-"):
        said = f"{words[0]!r} is one argument too many: put text with spaces in quotes."
    elif owners:
        several = " --show N prints several answers." if flag == "--n" and "--show" in flags else ""
        said = f"there is no option {' '.join(words)} here: it belongs to --sampler {' or '.join(owners)}.{several}"
    else:
        said = f"there is no option {' '.join(words)} here.{did_you_mean(flag, flags)}"
    return UsageError(f"{said} See {parser.prog} --help.")
