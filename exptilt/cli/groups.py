"""Groups of flags that commands share, and the target, sampler, select and budget that the flags describe.

`--sampler` is read before everything else, so that only the flags of the chosen sampler are there. They are the fields
of its dataclass (`exptilt.samplers.command`).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING
from functools import partial
from typing import Any, NamedTuple

from rich.console import Console

from exptilt import names
from exptilt.answers import Answer
from exptilt.cli.sampling import add_sampling, model_of, sampling_of
from exptilt.cli.values import parameters, positive, real, whole
from exptilt.core import Sampler, Target
from exptilt.engines.loading import known
from exptilt.errors import UsageError
from exptilt.evaluation.tasks import NAMED, OFFLINE
from exptilt.names import Chosen
from exptilt.objects import OWN
from exptilt.populations.until import Until
from exptilt.running.run import Select
from exptilt.samplers.command import Setting
from exptilt.usage import Budget


class Asked(NamedTuple):
    """The sampler asked for, and the group of the flags that it will have."""

    sampler: Chosen
    group: argparse._ArgumentGroup


class Subcommand(NamedTuple):
    """A command of the program.

    name, summary: what it is called, and its line in the list.
    about, usage: what its own help begins with.
    add_flags: gives a parser its arguments except those of the sampler, which depends on the whole command line.
    execute: runs it and returns the exit status.
    """

    name: str
    summary: str
    about: str
    usage: str
    add_flags: Callable[[argparse.ArgumentParser, Sequence[str]], Asked | None]
    execute: Callable[[argparse.Namespace, Console], int]


@contextmanager
def checked(args: argparse.Namespace) -> Iterator[None]:
    """Turns the refusal of a value out of range, made at construction, into one that names the command's help."""
    try:
        yield
    except ValueError as error:
        raise UsageError(with_help(str(error), f"exptilt {args.command}")) from error


def with_help(message: str, program: str) -> str:
    """A message that ends with where to read more."""
    end = " See" if message.endswith("?") else "; see"
    return f"{message.rstrip('.')}{end} {program} --help."


def at_least_one(args: argparse.Namespace, *flags: str) -> None:
    """Refuse counts below one; those not given pass."""
    for flag in flags:
        if (value := getattr(args, flag)) is not None and value < 1:
            raise UsageError(f"--{flag.replace('_', '-')} {value} must be at least 1; see exptilt {args.command} --help.")


PROMPTS = (
    'a file: .jsonl or .json, each line or entry {"prompt": ...}, {"messages": [...]} or a string; .csv with a header; .parquet; '
    "or text with one prompt per line; - for standard input. Other columns reach rewards by the names of their parameters"
)


def add_keys(group: argparse._ActionsContainer) -> None:
    """How the columns of a file of prompts are called."""
    group.add_argument("--prompt-key", metavar="NAME", help="the column of the prompt; default prompt, or messages")
    group.add_argument("--id-key", metavar="NAME", help="the column of the id, which results keep; default id, if there is one")


# ------------------------------------------------------------------------------------------------------------ target


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=known())


def add_request(parser: argparse.ArgumentParser, argv: Sequence[str], *, select: bool = True) -> Asked:
    """What a command needs that draws: target, sampler, and, but for `eval`, select and limits."""
    chosen = _asked_sampler(argv)
    add_target(parser, chosen)
    group = _add_sampler(parser, chosen)
    if select:
        add_select(parser, chosen)
        add_limits(parser)
    return Asked(chosen, group)


def add_target(parser: argparse.ArgumentParser, chosen: Chosen) -> None:
    group = parser.add_argument_group("target")
    add_reward(group, chosen.alias.reward)
    group.add_argument(
        "--beta",
        type=positive,
        metavar="X",
        help="β > 0, in units of the reward: small trusts the reward, large stays near the model",
    )
    group.add_argument(
        "--proposal",
        metavar="MODEL",
        help="a cheaper model with the same tokens to draw from, or the same model with other options, such as "
        '"tiny-mdlm?cache=dual" (options of exptilt.load after "?", joined by "&"); weights correct for it',
    )
    add_sampling(parser)


def add_reward(group: argparse._ArgumentGroup, default: str | None = None) -> None:
    kinds = ", ".join(names.REWARDS.more)
    own = "(text) or (prompt, drafts), with further parameters for columns,"
    group.add_argument(
        "--reward",
        metavar="SPEC",
        required=default is None,
        default=default,
        help=f"{', '.join(names.REWARDS.names)}; a model as {kinds}, with ?OPTION=VALUE&... after it; or your own function "
        f"{own} as FILE.py:NAME or package.module:NAME",
    )
    group.add_argument(
        "--reward-timeout",
        type=real,
        metavar="X",
        help="seconds that one call of the reward may take; default no limit",
    )


def target_of(args: argparse.Namespace, answer: Answer | None = None, **more: Any) -> partial[Target]:
    """What makes the target. answer: what counts as an answer; by default what --answer says. more: other settings."""
    given = vars(args) | more
    if given["beta"] is None and args.reward != "none":
        raise UsageError(f"the following arguments are required: --beta; see exptilt {args.command} --help.")
    counts = answer or given["answer"] or "number"
    beta = given["beta"] or 1.0  # without a reward, β divides nothing
    return partial(
        names.target, model_of(args), given["reward"], beta, proposal=given["proposal"], answer=counts, **sampling_of(given)
    )


# ----------------------------------------------------------------------------------------------------------- sampler


def _asked_sampler(argv: Sequence[str]) -> Chosen:
    """The sampler that a command line asks for."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--sampler", default="ets")
    first.add_argument("--inner")
    try:
        known, _ = first.parse_known_args([*argv])
    except argparse.ArgumentError:  # the whole parser gives a better message
        return names.choose_sampler("ets")
    return names.choose_sampler(known.sampler, known.inner)


def _add_sampler(parser: argparse.ArgumentParser, chosen: Chosen) -> argparse._ArgumentGroup:
    known = names.known_samplers()
    lines = {name: each.help if isinstance(each, Chosen) else f"cannot be used: {each}" for name, each in known.items()}
    lines = lines if chosen.name in lines else {**lines, chosen.name: chosen.help}
    listed = "\n".join(f"  {'*' if name == chosen.name else ' '} {name:<13} {line}" for name, line in lines.items())
    below = f"{OWN[0].upper()}{OWN[1:]}. The flags below are those of *;\n--sampler NAME --help shows another's."
    group = parser.add_argument_group("sampler", f"{listed}\n\n{below}")
    group.add_argument("--sampler", metavar="NAME", default="ets", help="default ets")
    parser.set_defaults(chosen=chosen)
    if chosen.holds is not None and chosen.inner is not None:
        proper = [name for name in names.SAMPLERS.names if isinstance(each := known[name], Chosen) and each.kind.weighted]
        text = f"{chosen.holds.help}: {', '.join(proper)}, {OWN} (now {chosen.inner.name})"
        group.add_argument("--inner", metavar="NAME", help=text)
    return group


def add_settings(parser: argparse.ArgumentParser, asked: Asked) -> None:
    """The sampler's own flags, after all others: a field that is called as one of them has `--sampler-` before its name."""
    taken = flags_of(parser)
    for name, setting in asked.sampler.settings.items():
        flag = setting_flag(name)
        _add_setting(asked.group, f"--sampler{flag[1:]}" if flag in taken else flag, name, setting)


def _add_setting(group: argparse._ArgumentGroup, flag: str, name: str, setting: Setting) -> None:
    default = "required" if setting.default is MISSING else f"default {'none' if setting.default is None else setting.default}"
    form: dict[str, Any] = {"type": _reader(setting), "metavar": setting.metavar}
    if setting.kind is bool:
        form = {"action": argparse.BooleanOptionalAction}
    text = f"{setting.help} ({default})".replace("%", "%%")
    group.add_argument(
        flag, dest=f"sampler.{name}", default=argparse.SUPPRESS, required=setting.default is MISSING, help=text, **form
    )


def _reader(setting: Setting) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return setting.read(text)
        except UsageError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def setting_flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def flags_of(parser: argparse.ArgumentParser) -> set[str]:
    return {flag for action in parser._actions for flag in action.option_strings}


def sampler_of(args: argparse.Namespace) -> Sampler:
    """The chosen sampler with its flags."""
    given = {name.removeprefix("sampler."): value for name, value in vars(args).items() if name.startswith("sampler.")}
    return args.chosen.make(given)


# ----------------------------------------------------------------------------------------------------- answer, limits


def add_task(group: argparse._ArgumentGroup, *, required: bool) -> None:
    known = ", ".join((*OFFLINE, *NAMED))
    text = f"{known}; or lm-eval:NAME for a task of lm-evaluation-harness"
    group.add_argument("--task", metavar="NAME", required=required, help=text)
    group.add_argument("--task-seed", type=whole, metavar="N", default=0, help="seed of a generated task; default 0")


def add_parameters(group: argparse._ActionsContainer, **more: Any) -> None:
    text = "parameters of the model, its proposal and a reward model, such as 5e8,0,1e9: shows FLOPs"
    group.add_argument("--parameters", type=parameters, metavar="N,N,N", help=text, **more)


def add_answer(group: argparse._ActionsContainer, default: str) -> None:
    known = f"{', '.join(names.ANSWERS.names)}, {OWN}"
    group.add_argument("--answer", metavar="NAME", help=f"what counts as an answer: {known}; default {default}")


def add_select(parser: argparse.ArgumentParser, chosen: Chosen) -> None:
    group = parser.add_argument_group("answer")
    group.add_argument(
        "--select",
        metavar="NAME",
        default=chosen.alias.select,
        help="how the answer is picked: draw, at random by weight; best, the highest reward; vote, the answer of most weight, "
        "where repeated responses count once; vote-draws, the same with each draw counted; "
        f"majority, the most frequent answer; mbr, the text that agrees best with the rest; {OWN}; default {chosen.alias.select}",
    )
    add_answer(group, "number")
    group.add_argument(
        "--utility",
        metavar="NAME",
        default="rouge1",
        help=f"how texts are compared by mbr: {', '.join(names.UTILITIES.names)}, {OWN}; default rouge1",
    )


def add_limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("limits")
    group.add_argument("--seed", type=whole, metavar="N", default=0, help="the same seed gives the same answers; default 0")
    group.add_argument("--budget-tokens", type=whole, metavar="N", help="stop a prompt at this many tokens generated and scored")
    group.add_argument("--budget-seconds", type=real, metavar="X", help="stop a prompt after this time")
    add_until(group)
    group.add_argument("--budget-rewards", type=whole, metavar="N", help="stop a prompt at this many calls of the reward")


def add_dry_run(group: argparse._ActionsContainer) -> None:
    group.add_argument("--dry-run", action="store_true", help="load the model, say what this may cost, and draw nothing")


def add_until(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--until",
        metavar="SPEC",
        help="stop a prompt once enough has been seen, asked after each population (so give independent a --batch): "
        + "; ".join((*(rule.help for rule in names.RULES.values()), *names.STOP_RULES.names, OWN)),
    )


def until_of(args: argparse.Namespace) -> Until | None:
    """The stop rule that was asked for."""
    return None if args.until is None else names.stop_rule(args.until)


def request_of(args: argparse.Namespace) -> tuple[Sampler, Select, Until | None, Budget | None]:
    """What a prompt is answered with: sampler, select, stop rule and budget."""
    select = names.select(args.select, args.answer or "number", args.utility)
    limits = (args.budget_tokens, args.budget_seconds, args.budget_rewards)
    return sampler_of(args), select, until_of(args), None if limits == (None, None, None) else Budget(*limits)
