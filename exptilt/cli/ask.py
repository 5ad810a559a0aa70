"""`exptilt ask`: a first answer without a reward, by a vote of several responses, with what would help."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rich.console import Console

from exptilt.cli import groups
from exptilt.cli.sampling import add_sampling, model_of, sampling_of
from exptilt.cli.terminal import counted, labelled, result_line, show_posterior, status
from exptilt.cli.values import whole
from exptilt.errors import UsageError
from exptilt.names import engine as named_engine
from exptilt.names.answers import find_answer
from exptilt.running.ask import ask
from exptilt.running.examples import STDIN, read_text
from exptilt.running.lines import encode

ABOUT = """Ask a model the same question several times and let the responses vote: the answer, how sure it is, its cost,
and what would help. No reward is needed; exptilt sample takes one."""


def add_flags(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    groups.add_model(parser)
    parser.add_argument("question", metavar="QUESTION", help='the text to answer; "-" reads it from standard input')
    parser.add_argument("-n", "--n", type=whole, default=16, metavar="N", help="responses that vote; default 16")
    parser.add_argument("--seed", type=whole, metavar="N", default=0, help="the same seed gives the same answers; default 0")
    groups.add_answer(parser, "number")
    add_sampling(parser)
    parser.add_argument_group("output").add_argument(
        "--json", action="store_true", help="print one JSON object instead of the answer"
    )


def execute(args: argparse.Namespace, console: Console) -> int:
    question = read_text(STDIN).strip() if args.question == STDIN else args.question
    if args.n < 1:
        raise UsageError(f"-n {args.n} must be at least 1; see exptilt ask --help.")
    find_answer(args.answer or "number")  # a wrong name is refused before the model is loaded
    given = {name: value for name, value in sampling_of(vars(args)).items() if value is not None}
    with groups.checked(args), status(console, f"loading {args.model}"):
        engine = named_engine(model_of(args), **given)
    with status(console, "drawing"):
        asked = ask(engine, question, args.n, answer=args.answer or "number", seed=args.seed)
    if args.json:
        line = result_line(asked.result)
        print(encode(line | {"answer": asked.answer, "advice": asked.advice}), flush=True)
        return 0
    print(asked.text if asked.answer is None else asked.answer, flush=True)
    console.print()
    show_posterior(console, asked.posterior)
    usage = asked.usage
    drafts = counted(len(asked.result.population), "response")
    console.print(labelled("cost", f"{drafts} · {usage.tokens:,} tokens · {usage.seconds:.1f} s", "dim"))
    console.print(labelled("advice", asked.advice))
    return 0


COMMAND = groups.Subcommand(
    "ask",
    "a first answer by a vote, without a reward",
    ABOUT,
    'exptilt ask MODEL "QUESTION" [-n N] [options]',
    add_flags,
    execute,
)
