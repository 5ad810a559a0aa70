"""The program `exptilt`: it runs the command and shows its errors.

The exit status is 0 if all went well, 1 if an answer failed, 2 if the request was refused before any work, and
130 after Ctrl-C or SIGTERM. An error is one paragraph on standard error: what was wrong, and the cure. A traceback is
shown only with --debug.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from exptilt import __version__, names
from exptilt.errors import (
    AllWeightsZero,
    AnswerError,
    BudgetSpent,
    ExptiltError,
    RewardError,
    SelectError,
    UsageError,
    WeightsError,
    did_you_mean,
)
from exptilt.names import Chosen

try:
    from exptilt.cli import doctor, eval, export, report, run, sample, serve
    from exptilt.cli.groups import Subcommand, add_settings, flags_of, setting_flag, with_help
    from exptilt.cli.terminal import patient_streams, show_crash, show_error, show_note, stderr
except ModuleNotFoundError as error:
    raise SystemExit(f"the command line needs the package {error.name}: pip install 'exptilt[cli]'") from None

_ALL = (sample, run, eval, doctor, report, export, serve)
COMMANDS = {each.COMMAND.name: each.COMMAND for each in _ALL}
_FAILED = (AnswerError, RewardError, SelectError, AllWeightsZero, WeightsError, BudgetSpent)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; `argv` is the command line without the program's name, by default `sys.argv[1:]`."""
    words = [*(sys.argv[1:] if argv is None else argv)]
    with patient_streams(), _termination():
        console = stderr()
        try:
            if not words:
                _parsers()[0].print_help(sys.stderr)
                return 2
            args = parse(words)
            return COMMANDS[args.command].execute(args, console)
        except KeyboardInterrupt:
            show_note(console, "stopped")
            return 130
        except Exception as error:  # noqa: BLE001  (nothing comes after this)
            if "--debug" in words:
                console.print_exception()
            if not isinstance(error, ExptiltError):
                show_crash(console, error)
                return 1
            show_error(console, str(error))
            return 1 if isinstance(error, _FAILED) else 2


@contextmanager
def _termination() -> Iterator[None]:
    """SIGTERM ends a command as Ctrl-C does, so that a run under a scheduler says where it stopped."""

    def interrupt(number: int, frame: Any) -> None:
        handler = signal.getsignal(signal.SIGINT)
        if not callable(handler):  # Ctrl-C is ignored, as in a background job of a shell
            raise KeyboardInterrupt
        handler(number, frame)

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # this is not the main thread, and only that one receives signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# --------------------------------------------------------------------------------------------------------- arguments


class _Parser(argparse.ArgumentParser):
    """An argument parser that raises UsageError instead of leaving the program."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(with_help(message.removeprefix("argument "), self.prog))


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line. `--help` and `--version` print and exit, as argparse does."""
    parser, parsers = _parsers()
    asked = next((word for word in argv if not word.startswith("-")), None)
    if asked is not None and asked not in COMMANDS:
        raise UsageError(f"there is no command {asked!r}: give {', '.join(COMMANDS)}.{did_you_mean(asked, COMMANDS)}")
    here = parser if asked is None else parsers[asked]
    if asked is not None:
        draws = COMMANDS[asked].add_flags(here, argv)
        here.add_argument("--debug", action="store_true", help="show where in the program an error came from")
        if draws is not None:
            add_settings(here, draws)
    try:
        args, unknown = parser.parse_known_args(argv)
    except UsageError:  # the missing argument may be there, but misspelled
        if odd := [word for word in argv if word.startswith("--") and word.partition("=")[0] not in {*flags_of(here), "--"}]:
            raise _unknown(odd[:1], here) from None
        raise
    if unknown and not unknown[0].startswith("-") and vars(args).get("prompt", "") is None:
        args.prompt = unknown.pop(0)  # a PROMPT after options, which argparse overlooks because PROMPT is optional
    if unknown:
        raise _unknown(unknown, here)
    return args


def _parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The program's parser, and one for each command that has no arguments yet."""
    about = "Draw from π(y|x) ∝ p(y|x)·exp(r(x,y)/β): a model tilted by a reward, not retrained."
    parser = _Parser(prog="exptilt", description=about, formatter_class=_formatter, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"exptilt {__version__}")
    below = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, title="commands")
    return parser, {name: _subparser(below, command) for name, command in COMMANDS.items()}


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
        said = f"there is no option {' '.join(words)} here: it belongs to --sampler {' or '.join(owners)}."
    else:
        said = f"there is no option {' '.join(words)} here.{did_you_mean(flag, flags)}"
    return UsageError(f"{said} See {parser.prog} --help.")
