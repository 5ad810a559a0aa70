"""`exptilt sample`: one answer on standard output, and on standard error how far it can be trusted."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from exptilt.cli import groups
from exptilt.cli.files import check_folder, writing
from exptilt.cli.forecast import show_dry_run
from exptilt.cli.responses import responses
from exptilt.cli.terminal import result_line, show_result, status, stdout
from exptilt.cli.values import whole
from exptilt.draft import Draft, Prompt
from exptilt.engines.image import ImageEngine
from exptilt.errors import UsageError
from exptilt.pictures import enlarged, pixels, png, sheet
from exptilt.running.examples import STDIN, read_chat, read_text
from exptilt.running.lines import encode
from exptilt.running.result import Result
from exptilt.running.run import sample

MOST_SHOWN = 64  # drafts on the sheet of a sample


def add_flags(parser: argparse.ArgumentParser, argv: Sequence[str]) -> groups.Asked:
    groups.add_model(parser)
    parser.add_argument("prompt", metavar="PROMPT", nargs="?", help='the text to answer; "-" reads it from standard input')
    parser.add_argument("--messages", metavar="FILE", help="a conversation instead of PROMPT, as a JSON list of messages")
    asked = groups.add_request(parser, argv)
    output = parser.add_argument_group("output")
    output.add_argument("--show", type=whole, metavar="N", default=1, help="how many different responses to print; default 1")
    output.add_argument("--json", action="store_true", help="print one JSON object instead of the answer")
    output.add_argument("--out", metavar="FOLDER", help="where pictures are written: the answer, and a sheet of all drafts")
    groups.add_dry_run(output)
    return asked


def execute(args: argparse.Namespace, console: Console) -> int:
    groups.at_least_one(args, "show")
    prompt = _prompt(args)
    with groups.checked(args):
        sampler, select, until, budget = groups.request_of(args)
        build = groups.target_of(args)
        with status(console, f"loading {args.model}"):
            target = build()
    if args.dry_run:
        show_dry_run(stdout(), target, [prompt], sampler, budget)
        return 0
    _check_output(args, isinstance(target.engine, ImageEngine))
    with status(console, "drawing"):
        result = sample(
            target, prompt, sampler, select=select, until=until, seed=args.seed, budget=budget, reward_timeout=args.reward_timeout
        )
    if args.json:  # before files are written, which may fail
        more = {} if args.show == 1 else {"responses": [each._asdict() for each in responses(result, args.show)]}
        print(encode(result_line(result) | more), flush=True)
    written = None if args.out is None else write_pictures(Path(args.out), result)
    if args.json:
        return 0
    if args.show == 1:
        print(written or result.text, flush=True)
    else:
        print("\n\n".join(each.told for each in responses(result, args.show)), flush=True)
    show_result(console, result, target.beta)
    return 0


def write_pictures(folder: Path, result: Result) -> Path:
    """Write the chosen picture, and a sheet of the different drafts from the heaviest down; return the file of the first."""
    answer = folder / "answer.png"
    weights: dict[Draft, float] = {}
    for draft, weight in zip(result.population.drafts, result.population.weights.tolist(), strict=True):
        weights[draft] = weights.get(draft, 0.0) + weight
    shown = [pixels(draft.output) for draft in sorted(weights, key=lambda draft: -weights[draft])[:MOST_SHOWN]]
    drawn = [image for image in shown if image is not None]
    with writing("--out", folder):
        folder.mkdir(parents=True, exist_ok=True)
        answer.write_bytes(result.draft._repr_png_() or b"")
        (folder / "drafts.png").write_bytes(png(sheet([enlarged(image) for image in drawn])))
    return answer


def _check_output(args: argparse.Namespace, pictures: bool) -> None:
    """Refuse what does not suit the kind of answers that the model gives."""
    if not pictures and args.out is not None:
        raise UsageError(f"--out {args.out} is for pictures, and {args.model} answers in text, on standard output: leave it out.")
    if args.out is not None and Path(args.out).exists() and not Path(args.out).is_dir():
        raise UsageError(f"--out {args.out} is a file, and pictures go into a folder: give another name.")
    if pictures and args.out is None and not args.json:
        raise UsageError(f"{args.model} draws pictures: say where they go with --out FOLDER, or --json.")
    if pictures and args.show > 1:
        raise UsageError(f"--show {args.show} prints texts, and {args.model} draws pictures: --out has a sheet of all of them.")
    if args.out is not None:
        check_folder("--out", Path(args.out), new=True)


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
