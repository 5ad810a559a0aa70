"""The program `exptilt`: it runs the command and shows its errors.

The exit status is 0 if all went well, 1 if an answer failed, 2 if the request was refused before any work, and
130 after Ctrl-C or SIGTERM. An error is one paragraph on standard error: what was wrong, and the cure. A traceback is
shown only with --debug.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from exptilt.errors import (
    AllWeightsZero,
    AnswerError,
    BudgetSpent,
    ExptiltError,
    RewardError,
    SelectError,
    WeightsError,
    install,
)

try:
    from rich.console import Console

    from exptilt.cli import arguments, ask, completion, doctor, eval, export, report, run, sample, serve, train
    from exptilt.cli.files import NotWritten
    from exptilt.cli.terminal import patient_streams, show_crash, show_error, show_note, stderr
except ModuleNotFoundError as error:
    raise SystemExit(f"the command line needs the package {error.name}: {install('cli')}") from None

_ALL = (ask, sample, run, eval, doctor, report, export, train, serve)
COMMANDS = {each.COMMAND.name: each.COMMAND for each in _ALL}
COMMANDS |= {completion.COMMAND.name: completion.COMMAND}
_FAILED = (AnswerError, RewardError, SelectError, AllWeightsZero, WeightsError, BudgetSpent, NotWritten)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; `argv` is the command line without the program's name, by default `sys.argv[1:]`."""
    words = [*(sys.argv[1:] if argv is None else argv)]
    with patient_streams() as output, _termination():
        console = stderr()
        try:
            code = _main(words, console)
        except SystemExit:  # of --help and --version
            if output.lost() is None:
                raise
            code = 0
        if (lost := output.lost()) is not None:
            show_error(console, f"standard output cannot be written: {lost}. Free space, or send it elsewhere.")
            return code or 1
        return code


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments of a command line."""
    return arguments.parse(argv, COMMANDS)


def _main(words: Sequence[str], console: Console) -> int:
    try:
        if not words:
            arguments.show_short_help(console, COMMANDS)
            return 2
        if tuple(words[:2]) == completion.ASKED:
            print("\n".join(completion.candidates(words[3:], COMMANDS)))
            return 0
        args = parse(words)
        console.quiet = args.quiet
        with _told(args.verbose, console):
            return COMMANDS[args.command].execute(args, console)
    except KeyboardInterrupt:
        show_note(console, "stopped")
        return 130
    except Exception as error:  # noqa: BLE001  (nothing comes after this)
        console.quiet = False
        if "--debug" in words:
            console.print_exception()
        if not isinstance(error, ExptiltError):
            show_crash(console, error)
            return 1
        show_error(console, str(error))
        return 1 if isinstance(error, _FAILED) else 2


@contextmanager
def _told(verbose: bool, console: Console) -> Iterator[None]:
    """Show what the library notes meanwhile, on standard error: warnings, and with -v everything else."""
    logger, handler = logging.getLogger("exptilt"), _Notes(console)
    handler.setLevel(logging.INFO if verbose else logging.WARNING)
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(min(handler.level, before or handler.level))
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


class _Notes(logging.Handler):
    """Log records as dim lines."""

    def __init__(self, console: Console) -> None:
        logging.Handler.__init__(self)
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        if record.name == "exptilt":  # the server has a log of its own
            show_note(self.console, record.getMessage())


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
