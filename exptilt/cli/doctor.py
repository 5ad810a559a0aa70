"""`exptilt doctor`: a pilot, and what it says about β, the sampler and the cost of a long run."""

from __future__ import annotations

import argparse
import math
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.text import Text

from exptilt.cli import groups
from exptilt.cli.examination import show_examination
from exptilt.cli.files import check_file, writing
from exptilt.cli.sampling import add_sampling, words_of
from exptilt.cli.terminal import counted, describe_sampler, progress_bar, show_note, stdout
from exptilt.cli.values import real, whole
from exptilt.core import Target
from exptilt.doctor import Examination, Goal, Plan, examine
from exptilt.doctor.examine import check_pilot
from exptilt.doctor.tilt import Estimate
from exptilt.draft import Prompt
from exptilt.errors import UsageError
from exptilt.evaluation.tasks import Task, load_task
from exptilt.keys import Key
from exptilt.names import ANSWERS
from exptilt.running.example import Example
from exptilt.running.examples import read_examples
from exptilt.running.lines import encode
from exptilt.samplers.command import own_command

T = TypeVar("T")
_PILOT = 8  # prompts
ABOUT = """Draw a small pilot and rate it; then say whether the reward is fit for tilting, which β to use, how
many draws give the wanted number of effective draws, and what the run will cost. The last line is
the command for that run."""


def add_flags(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    groups.add_model(parser)
    parser.add_argument("prompt", metavar="PROMPT", nargs="?", help="one prompt; for many, give --prompts or --task")
    group = parser.add_argument_group("prompts")
    group.add_argument("--prompts", metavar="FILE", help="the prompts of the planned run, as for exptilt run")
    groups.add_keys(group)
    groups.add_task(group, required=False)
    group.add_argument("--problems", type=whole, metavar="N", help="how many prompts the run will have; default all")
    groups.add_answer(group, "as suits the task, or number")
    groups.add_reward(parser.add_argument_group("reward"))
    _add_goal(parser)
    add_sampling(parser)
    group = parser.add_argument_group("pilot")
    group.add_argument(
        "--pilot-prompts",
        type=whole,
        metavar="N",
        default=_PILOT,
        help=f"prompts in the pilot, chosen at random; default {_PILOT}",
    )
    group.add_argument("--draws", type=whole, metavar="N", default=32, help="responses for each of these prompts; default 32")
    group.add_argument("--pilot-tokens", type=whole, metavar="N", help="the most tokens to spend")
    group.add_argument("--concurrency", type=whole, metavar="N", default=8, help="prompts in progress at once; default 8")
    group.add_argument("--seed", type=whole, metavar="N", default=0, help="the same seed gives the same pilot; default 0")
    group = parser.add_argument_group("output")
    group.add_argument("--out", metavar="FILE", help="also write the examination to this file, as JSON")
    group.add_argument("--json", action="store_true", help="print one JSON object instead of the tables")


def _add_goal(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("goal")
    group.add_argument("--ess", type=real, metavar="X", default=8.0, help="effective draws wanted for each prompt; default 8")
    group.add_argument("--accuracy", type=real, metavar="X", help="share of problems to solve, such as 0.8; needs --task")
    group.add_argument(
        "--kl", type=real, metavar="X", help="how far to tilt: KL(π‖p) in nats; default 1, or less if the pilot cannot show it"
    )
    group.add_argument("--ess-share", type=real, metavar="X", help="how far to tilt: the share of draws that stay effective")
    group.add_argument("--beta", type=real, metavar="X", help="how far to tilt: a β that you have chosen")


@dataclass(frozen=True)
class _Request:
    """What the command was asked about: the prompts of the pilot, how many the run will have, and their task."""

    prompts: tuple[Prompt | Example, ...]
    problems: int
    task: Task | None


def execute(args: argparse.Namespace, console: Console) -> int:
    """Run the command; what was found goes to standard output."""
    groups.at_least_one(args, "concurrency", "pilot_prompts", "pilot_tokens", "problems")
    if args.out:
        check_file("--out", Path(args.out))
    with groups.checked(args):
        goal = Goal(args.ess, args.accuracy, args.beta, args.kl, args.ess_share)
        if args.accuracy is not None and args.task is None:
            raise UsageError("--accuracy needs problems with known answers: give --task")
        request = _request(args)
        target = _target(args, request.task)
        check_pilot(target, request.prompts, draws=args.draws, seed=args.seed, tokens=args.pilot_tokens)
        _announce(console, args, request, target.engine.max_tokens)
        with progress_bar(console, len(request.prompts)) as show:
            found = examine(
                target.engine, target.reward, request.prompts, goal, draws=args.draws, task=request.task, seed=args.seed,
                concurrency=args.concurrency, tokens=args.pilot_tokens, reward_timeout=args.reward_timeout, progress=show,
            )  # fmt: skip
    command = None if found.plan is None else _command(args, found, found.plan)
    row = _as_json(found, request, command)
    if args.json:
        print(encode(row), flush=True)
    else:
        show_examination(found, goal, request.problems, args.model, args.reward)
        if command is not None:
            stdout().print(Text.assemble("\n", (command, "bold")), soft_wrap=True)
    if args.out:
        with writing("--out", Path(args.out)):
            Path(args.out).write_text(encode(row) + "\n", encoding="utf-8")
    return 0


def _request(args: argparse.Namespace) -> _Request:
    if sum(given is not None for given in (args.prompt, args.prompts, args.task)) != 1:
        raise UsageError("give one of PROMPT, --prompts FILE and --task NAME; see exptilt doctor --help.")
    if args.prompt is not None:
        return _Request((args.prompt,), args.problems or 1, None)
    task = load_task(args.task, problems=args.problems, seed=args.task_seed) if args.task else None
    if task is not None and args.answer:
        task = replace(task, answer=ANSWERS.find(args.answer))
    prompts: Sequence[Prompt | Example] = (
        read_examples(args.prompts, args.prompt_key, args.id_key) if task is None else task.prompts
    )
    chosen = sorted(Key(args.seed, "pilot").rng().permutation(len(prompts))[: args.pilot_prompts].tolist())
    if task is not None:
        task = replace(task, prompts=_at(task.prompts, chosen), references=_at(task.references, chosen))
    return _Request(_at(prompts, chosen), args.problems or len(prompts), task)


def _at(items: Sequence[T], rows: Sequence[int]) -> tuple[T, ...]:
    return tuple(items[row] for row in rows)


def _target(args: argparse.Namespace, task: Task | None) -> Target:
    """The engine and the reward; no β is known yet, so the target's own β means nothing."""
    law = {} if task is None else {"max_tokens": args.max_tokens or task.max_tokens, "stop": args.stop or list(task.stop)}
    return groups.target_of(args, None if task is None else task.answer, beta=1.0, proposal=None, **law)()


def _announce(console: Console, args: argparse.Namespace, request: _Request, cap: int) -> None:
    """What the pilot may cost, said before it starts."""
    count = len(request.prompts)
    most = args.pilot_tokens or count * cap * (args.draws + 4 * max(2, args.draws // 2))
    show_note(
        console,
        f"pilot: {counted(count, 'prompt')} of {request.problems:,}, {args.draws} draws each and new endings for their prefixes, "
        f"at most {most:,} tokens",
    )


# ----------------------------------------------------------------------------------------------- the planned command


def _command(args: argparse.Namespace, found: Examination, plan: Plan) -> str:
    """The command line of the long run."""
    assert found.beta is not None
    if args.task:
        words = ["eval", args.model, "--task", args.task]
        words += ["--task-seed", str(args.task_seed)] if args.task_seed else []
        words += ["--problems", str(args.problems)] if args.problems else []
    else:
        words = ["run", args.model, args.prompts] if args.prompts else ["sample", args.model, args.prompt]
    words += [
        word for name in ("prompt_key", "id_key") if (value := getattr(args, name)) for word in (groups.setting_flag(name), value)
    ]
    words += ["--reward", args.reward, "--beta", f"{found.beta.value:.3g}"]
    words += words_of(args)
    words += ["--answer", args.answer] if args.answer else []
    words += _sampler_flags(plan.sampler)
    words += ["--reward-timeout", f"{args.reward_timeout:g}"] if args.reward_timeout else []
    words += ["--out", f"runs/{Path(args.prompts).stem}.jsonl"] if args.prompts else []
    return shlex.join(["exptilt", *words])


def _sampler_flags(sampler: Any) -> list[str]:
    given = [(item.name, getattr(sampler, item.name)) for item in fields(sampler) if getattr(sampler, item.name) != item.default]
    words = [word for field, value in given for word in (groups.setting_flag(field), str(value))]
    return ["--sampler", own_command(type(sampler)).name, *words]


def _as_json(found: Examination, request: _Request, command: str | None) -> dict[str, Any]:
    plan = None if found.plan is None else _plan(found, found.plan, request)
    return _plain({**asdict(found), "plan": plan, "problems": request.problems, "command": command})


def _plan(found: Examination, plan: Plan, request: _Request) -> dict[str, Any]:
    named = {"sampler": describe_sampler(plan.sampler), "flags": _sampler_flags(plan.sampler)}
    return {**asdict(plan), **named, "run": asdict(found.bill(plan, request.problems))}


def _plain(value: Any) -> Any:
    """The same without NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, Estimate):
        return {name: _plain(item) for name, item in value._asdict().items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


COMMAND = groups.Subcommand(
    "doctor",
    "before a long run: the reward's health, β, how many draws, the cost",
    ABOUT,
    "exptilt doctor MODEL [PROMPT | --prompts FILE | --task NAME] --reward SPEC [options]",
    add_flags,
    execute,
)
