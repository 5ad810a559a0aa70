"""The command line's words: which flags there are, and what they become.

`--sampler` is read first, so that only the flags of the chosen one are there (`exptilt.cli.sampler_flags`). Everything that
cannot be understood raises UsageError.
"""

from __future__ import annotations

import argparse
import math
import shutil
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, NoReturn

from exptilt.cli.doctor import add_doctor
from exptilt.cli.eval import add_eval
from exptilt.cli.parts import ANSWERS, MODEL_REWARDS, MODELS, REWARDS, UTILITIES, UsageError
from exptilt.cli.report import add_report
from exptilt.cli.sampler_flags import add_sampler


class Parser(argparse.ArgumentParser):
    """An argument parser that raises UsageError instead of leaving the program."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message.removeprefix('argument ')}; see {self.prog} --help.")


def parse(argv: Sequence[str], version: str) -> argparse.Namespace:
    """Read the command line. `--help` and `--version` print and exit, as argparse does."""
    about = "Draw from π(y|x) ∝ p(y|x)·exp(r(x,y)/β): a model tilted by a reward, not retrained."
    parser = Parser(prog="exptilt", description=about, formatter_class=_formatter, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"exptilt {version}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, title="commands")
    chosen = _chosen(argv)
    for command in _COMMANDS:
        _add_command(commands, command, chosen)
    add_eval(commands, _formatter, (_add_target, partial(add_sampler, name=chosen[0], inner=chosen[1])))
    add_doctor(commands, _formatter, _add_reward, _add_law)
    add_report(commands, _formatter)
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        cure = f"Where it is another sampler's, choose that with --sampler (now {args.sampler}); s" if "sampler" in args else "S"
        raise UsageError(f"there is no option {' '.join(unknown)} here. {cure}ee exptilt {args.command} --help.")
    return args


class _Command(NamedTuple):
    """A command: its name, its line in the list, its description, and its second argument."""

    name: str
    summary: str
    about: str
    takes: str
    takes_help: str


_COMMANDS = (
    _Command(
        "sample",
        "answer one prompt",
        "Draw one answer, and show how far it can be trusted.",
        "PROMPT",
        "the text to answer",
    ),
    _Command(
        "run",
        "answer a file of prompts, with resume",
        "Answer every prompt of a file: one JSON line each, as it finishes.\n"
        "The same command again goes on where a stopped run left off.",
        "PROMPTS",
        'a .jsonl file, each line {"prompt": ...} or a JSON string; or a text file with one prompt per line',
    ),
)


def _add_command(commands: argparse._SubParsersAction[Parser], command: _Command, chosen: tuple[str, str]) -> None:
    usage = f"exptilt {command.name} MODEL {command.takes} --reward SPEC --beta X [options]"
    parser = commands.add_parser(
        command.name,
        help=command.summary,
        description=command.about,
        usage=usage,
        formatter_class=_formatter,
        allow_abbrev=False,
    )
    parser.add_argument("model", metavar="MODEL", help=MODELS)
    parser.add_argument(command.takes.lower(), metavar=command.takes, help=command.takes_help)
    _add_target(parser)
    add_sampler(parser, *chosen)
    _add_select(parser)
    _add_limits(parser)
    if command.name == "run":
        _add_store(parser)
        _add_cluster(parser)
    else:
        parser.add_argument_group("output").add_argument("--json", action="store_true", help="print one JSON object instead")


def _formatter(prog: str) -> argparse.HelpFormatter:
    """Wide enough for the flags, narrow enough to read."""
    width = min(100, max(60, shutil.get_terminal_size((100, 24)).columns))
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=30, width=width)


def _chosen(argv: Sequence[str]) -> tuple[str, str]:
    """The sampler asked for, and the inner one of `metropolised`."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--sampler", default="ets")
    first.add_argument("--inner", default="ets")
    try:
        known, _ = first.parse_known_args(list(argv))
    except argparse.ArgumentError:  # the whole parser will say it better
        return "ets", "ets"
    return known.sampler, known.inner


# ------------------------------------------------------------------------------------------------- groups of flags


def _add_target(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("target")
    _add_reward(group)
    group.add_argument(
        "--beta",
        type=number,
        metavar="X",
        required=True,
        help="β > 0, in units of the reward: small trusts the reward, large stays near the model",
    )
    group.add_argument(
        "--proposal",
        metavar="MODEL",
        help="a cheaper model with the same tokens to draw from, or the same under another law, such as "
        '"tiny-mdlm?cache=dual" (options of exptilt.load after "?", joined by "&"); weights correct for it',
    )
    _add_law(parser)


def _add_reward(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--reward",
        metavar="SPEC",
        required=True,
        help=f"{', '.join(REWARDS)}; a model as {', '.join(f'{kind}:NAME' for kind in MODEL_REWARDS)}, with ?OPTION=VALUE&... "
        "after it; or your own function (text) or (prompt, drafts) as FILE.py:NAME or package.module:NAME",
    )
    group.add_argument(
        "--reward-timeout", type=float, metavar="X", help="seconds after which one call of the reward has failed; default none"
    )


def _add_law(parser: argparse.ArgumentParser) -> None:
    law = parser.add_argument_group("law of the model")
    law.add_argument("--temperature", type=float, metavar="X", help="default 1")
    law.add_argument("--top-p", type=float, metavar="X", help="keep the likeliest tokens of this total probability; default all")
    law.add_argument("--top-k", type=int, metavar="N", help="keep this many of the likeliest tokens; default all")
    law.add_argument("--max-tokens", type=int, metavar="N", help="the cap on a response; default 256")
    law.add_argument("--stop", action="append", metavar="TEXT", help="end a response before this text; may be given again")
    law.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="default float32")


def number(text: str) -> float:
    if not 0 < float(text) < math.inf:
        raise argparse.ArgumentTypeError(f"{text} must be a positive number, because it divides the reward: π ∝ p·exp(r/β)")
    return float(text)


def _add_select(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("answer")
    group.add_argument(
        "--select",
        choices=("draw", "best", "vote", "mbr"),
        default="draw",
        help="how the answer is picked: by weight (default), by reward, by the weight of equal answers, by agreement of texts",
    )
    group.add_argument(
        "--answer",
        choices=tuple(ANSWERS),
        default="number",
        help="what counts as an answer, for vote and agreement; default number",
    )
    group.add_argument(
        "--utility", choices=tuple(UTILITIES), default="rouge1", help="how texts are compared by mbr; default rouge1"
    )


def _add_limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("limits")
    group.add_argument("--seed", type=int, metavar="N", default=0, help="the same seed gives the same answers; default 0")
    group.add_argument("--budget-tokens", type=int, metavar="N", help="stop a prompt at this many tokens generated and scored")
    group.add_argument("--budget-seconds", type=float, metavar="X", help="stop a prompt after this time")
    group.add_argument("--budget-rewards", type=int, metavar="N", help="stop a prompt at this many calls of the reward")


def _add_store(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument("--out", metavar="FILE", required=True, help="the results file; where it exists, its run is resumed")
    group.add_argument(
        "--concurrency", type=int, default=32, metavar="N", help="prompts under way at once, per worker; default 32"
    )
    group.add_argument("--retry", action="store_true", help="run the prompts again that the file records as failed")
    group.add_argument("--stop-on-error", action="store_true", help="end the run at the first prompt that fails")
    group.add_argument("--no-population", action="store_true", help="keep only each chosen response, for a small file")
    group.add_argument("--json", action="store_true", help="print one JSON line per prompt, and one with the totals")


def _add_cluster(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("many machines")
    group.add_argument(
        "--ray", metavar="ADDRESS", help='spread the prompts over a Ray cluster: HOST:PORT, "auto", or "local" for this machine'
    )
    group.add_argument("--ray-workers", type=int, metavar="N", help="how many, each with the model; default as many as fit")
    group.add_argument(
        "--ray-gpus", type=float, default=0.0, metavar="X", help="GPUs for each worker, such as 1 or 0.5; default 0"
    )
    group.add_argument("--ray-cpus", type=float, default=1.0, metavar="X", help="cores for each worker; default 1")
