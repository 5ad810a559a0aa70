"""`exptilt sample`: one answer on standard output, and on standard error how far it can be trusted."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rich.console import Console

from exptilt.cli import groups
from exptilt.cli.terminal import result_line, show_result, status
from exptilt.draft import Prompt
from exptilt.errors import UsageError
from exptilt.running.examples import STDIN, read_chat, read_text
from exptilt.running.lines import encode
from exptilt.running.run import sample


def add_flags(parser: argparse.ArgumentParser, argv: Sequence[str]) -> groups.Asked:
    groups.add_model(parser)
    parser.add_argument("prompt", metavar="PROMPT", nargs="?", help='the text to answer; "-" reads it from standard input')
    parser.add_argument("--messages", metavar="FILE", help="a conversation instead of PROMPT, as a JSON list of messages")
    asked = groups.add_request(parser, argv)
    parser.add_argument_group("output").add_argument(
        "--json", action="store_true", help="print one JSON object instead of the answer"
    )
    return asked


def execute(args: argparse.Namespace, console: Console) -> int:
    prompt = _prompt(args)
    with groups.checked(args):
        sampler, select, until, budget = groups.request_of(args)
        build = groups.target_of(args)
        with status(console, f"loading {args.model}"):
            target = build()
    with status(console, "drawing"):
        result = sample(
            target, prompt, sampler, select=select, until=until, seed=args.seed, budget=budget, reward_timeout=args.reward_timeout
        )
    print(encode(result_line(result)) if args.json else result.text, flush=True)
    if not args.json:
        show_result(console, result, target.beta)
    return 0


def _prompt(args: argparse.Namespace) -> Prompt:
    if (args.prompt is None) == (args.messages is None):
        raise UsageError("give either PROMPT or --messages FILE; see exptilt sample --help.")
    if args.messages is not None:
        return read_chat(args.messages)
    return read_text(STDIN).strip() if args.prompt == STDIN else args.prompt


COMMAND = groups.Subcommand(
    "sample",
    "answer one prompt",
    "Draw one answer, and show how far it can be trusted.",
    "exptilt sample MODEL PROMPT --reward SPEC --beta X [options]",
    add_flags,
    execute,
)
