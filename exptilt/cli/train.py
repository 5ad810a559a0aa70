"""`exptilt train`: fits a model, a reward model or a value model to what runs have drawn."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from exptilt import names
from exptilt.cli import groups
from exptilt.cli.terminal import show_note, status
from exptilt.cli.values import one_of, positive, real, whole
from exptilt.engines.requirements import prepare_torch, require
from exptilt.errors import UsageError
from exptilt.running.examples import read_examples
from exptilt.train import Fit, Form, Power, Tilt

ABOUT = """Fit a model to what runs have drawn, without reinforcement learning.

  align    the model itself, to π ∝ p·exp(r/β), by weighted maximum likelihood: from results files, or with --reward from a
           file of prompts, drawing as it goes in --rounds
  value    a head that knows what each next token is worth, for proposals that look ahead and for value=
  image    a diffusion model to a reward of its pictures, without reinforcement learning or by an RL-like loss
  reward   a Bradley-Terry reward model, from pairs of drafts; the result is a reward: classifier:DIR

The same command goes on with a run that was stopped, from its last checkpoint. docs/train.md tells more."""

PACKAGES = ("accelerate", "datasets", "peft", "trl")
NUMBERS = ("epochs", "batch", "rows", "checkpoint", "seed")


class Kind(NamedTuple):
    """Something that can be fitted. fit: where its defaults differ from those of `Fit`."""

    flags: Callable[[argparse.ArgumentParser, Sequence[str]], None]
    execute: Callable[[argparse.Namespace, Console], None]
    fit: Mapping[str, Any]


def add_flags(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    kind = KINDS[next((word for word in argv if word in KINDS), "align")]
    parser.add_argument("kind", metavar=f"{{{','.join(KINDS)}}}", choices=tuple(KINDS), help="what is fitted")
    groups.add_model(parser)
    kind.flags(parser, argv)
    if kind is not KINDS["image"]:
        _add_fit(parser, kind)


def _add_align(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    if any(word.partition("=")[0] == "--reward" for word in argv):
        parser.add_argument("prompts", metavar="PROMPTS", help=groups.PROMPTS)
        groups.add_keys(parser.add_argument_group("prompts"))
        groups.add_target(parser, names.choose_sampler("independent"))
        group = parser.add_argument_group("drawing")
        groups.add_answer(group, "number")
        group.add_argument("--rounds", type=whole, metavar="N", default=1, help="of drawing and fitting in turn; default 1")
        group.add_argument("--draws", type=whole, metavar="N", default=16, help="responses for each prompt and round; default 16")
        return
    parser.add_argument("stores", metavar="STORE", nargs="+", help="results files of exptilt run, of one engine and one reward")
    group = parser.add_argument_group("target")
    group.add_argument(
        "--form",
        default="rlhf",
        **one_of("rlhf", "rlif"),
        help="rlhf for p·exp(r/β), which is π; rlif for p to the power Lβ/(Lβ - 1); default rlhf",
    )
    group.add_argument("--beta", type=positive, metavar="X", help="β; default that of the results files")
    group.add_argument("--length", type=whole, metavar="N", help="L of rlif: tokens of a response that self-certainty averages")
    parser.set_defaults(reward=None)  # a command line that has --reward gets the flags for drawing


def _add_fit(parser: argparse.ArgumentParser, kind: Kind) -> None:
    group = parser.add_argument_group("fitting")
    group.add_argument("--out", metavar="DIR", required=True, help="the folder of the result; if it exists, its run goes on")
    lines = {"epochs": "how often each draft is seen", "batch": "drafts of a step", "checkpoint": "steps between checkpoints"}
    lines |= {"rows": "drafts evaluated at once, a divisor of the batch", "seed": "of the order of the drafts"}
    standard = {item.name: kind.fit.get(item.name, item.default) for item in fields(Fit)}
    for name in NUMBERS:
        text = f"{lines[name]}; default {'the batch' if standard[name] is None else standard[name]}"
        group.add_argument(f"--{name}", type=whole, metavar="N", default=standard[name], help=text)
    rate = standard["learning_rate"]
    group.add_argument("--learning-rate", type=real, metavar="X", default=rate, help=f"at its peak; default {rate:g}")
    group.add_argument("--lora", type=whole, metavar="N", help="train LoRA matrices of this rank; default all weights")
    if "--device" not in groups.flags_of(parser):  # which a model that draws has already
        group.add_argument("--device", metavar="NAME", help="cpu or cuda; default CUDA where there is one")


def _fit(args: argparse.Namespace) -> Fit:
    given = {name: getattr(args, name) for name in (*NUMBERS, "learning_rate", "device")}
    return Fit(rank=args.lora, **given)


def _form(args: argparse.Namespace) -> Form:
    if args.form == "rlhf":
        if args.length is not None:
            raise UsageError("--length belongs to --form rlif; see exptilt train --help.")
        return Tilt(args.beta)
    if args.length is None or args.beta is None:
        raise UsageError("--form rlif needs --length and --beta, whose product must be above 1; see exptilt train --help.")
    return Power(args.length, args.beta)


def _progress(console: Console) -> Callable[[int, int, float], None]:
    return lambda step, steps, loss: show_note(console, f"step {step} of {steps}: loss {loss:.4f}")


def _align(args: argparse.Namespace, console: Console) -> None:
    from exptilt.train.align import Aligned, align
    from exptilt.train.rounds import align_in_rounds

    def tell(aligned: Aligned) -> None:
        left = f", {aligned.flat} prompts left out, which had nothing to teach" if aligned.flat else ""
        failed = f", {aligned.failed} without a result" if aligned.failed else ""
        show_note(
            console,
            f"{aligned.drafts} drafts of {aligned.prompts} prompts{left}{failed}; median effective sample size {aligned.ess:.1f}"
            f"; {aligned.tokens:,} tokens of training in {aligned.steps} steps; loss {aligned.loss:.4f}",
        )

    if args.reward is None:
        aligned = align(args.model, args.stores, args.out, form=_form(args), fit=_fit(args), progress=_progress(console))
        tell(aligned)
    else:
        prompts = read_examples(args.prompts, args.prompt_key, args.id_key)
        with status(console, f"loading {args.model}"):
            target = groups.target_of(args)()
        if target.proposal is not None:
            raise UsageError("--proposal is not for train align: the model of each round is the proposal of the next")
        aligned = align_in_rounds(
            target,
            prompts,
            args.out,
            rounds=args.rounds,
            draws=args.draws,
            seed=args.seed,
            fit=_fit(args),
            progress=_progress(console),
            hear=lambda _, each: tell(each),
        )
    print(aligned.model)


def _add_value(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    parser.add_argument("stores", metavar="STORE", nargs="+", help="results files of exptilt run, of one engine and one reward")
    group = parser.add_argument_group("value")
    group.add_argument("--beta", type=positive, metavar="X", help="β of the target it is for; default that of the results files")
    group.add_argument("--width", type=whole, metavar="N", default=256, help="of the head's inner layer; default 256")


def _value(args: argparse.Namespace, console: Console) -> None:
    from exptilt.train.value import fit_value

    groups.at_least_one(args, "width")
    if args.lora is not None:
        raise UsageError("--lora is not for train value, which leaves the model as it is")
    fit, progress = _fit(args), _progress(console)
    valued = fit_value(args.model, args.stores, args.out, beta=args.beta, width=args.width, fit=fit, progress=progress)
    show_note(
        console,
        f"{valued.drafts} drafts of {valued.prompts} prompts; {valued.tokens:,} tokens of training in {valued.steps} steps; "
        f"loss {valued.loss:.4f}",
    )
    print(valued.folder)


def _add_reward(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    parser.add_argument("stores", metavar="STORE", nargs="+", help="results files of exptilt run, of one engine and one reward")
    group = parser.add_argument_group("pairs")
    group.add_argument("--pairs", type=whole, metavar="N", default=1, help="of each prompt; default 1")
    text = "prefer the first of two drafts with probability σ of the difference of their rewards over X; default the better"
    group.add_argument("--noise", type=positive, metavar="X", help=text)
    group.add_argument(
        "--held-out", type=real, metavar="X", default=0.05, help="share of the pairs kept for a test; default 0.05"
    )


def _reward(args: argparse.Namespace, console: Console) -> None:
    from exptilt.train.reward import fit_reward

    more = {"pairs": args.pairs, "noise": args.noise, "held_out": args.held_out}
    found = fit_reward(args.model, args.stores, args.out, **more, fit=_fit(args), progress=_progress(console))
    flat = f", {found.flat} prompts left out, whose drafts have equal rewards" if found.flat else ""
    right = "" if found.accuracy is None else f"; right on {found.accuracy:.1%} of {found.held_out} more"
    show_note(console, f"{found.pairs} pairs{flat}{right}; {found.tokens:,} tokens of training in {found.steps} steps")
    print(found.spec)


def _add_image(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    parser.add_argument("prompts", metavar="PROMPTS", help=groups.PROMPTS)
    groups.add_keys(parser.add_argument_group("prompts"))
    groups.add_target(parser, names.choose_sampler("independent"))
    group = parser.add_argument_group("fitting")
    group.add_argument("--out", metavar="DIR", required=True, help="the folder of the result, new or empty")
    forms = "weighted or resampled pictures of the model; rl: the reward by REINFORCE; default weighted"
    group.add_argument("--form", default="weighted", **one_of("weighted", "resampled", "rl"), help=forms)
    lines = {"draws": (64, "pictures of each prompt"), "steps": (200, "of training"), "batch": (64, "pictures of a step")}
    for name, (standard, text) in {**lines, "seed": (0, "of pictures and noise")}.items():
        group.add_argument(f"--{name}", type=whole, metavar="N", default=standard, help=f"{text}; default {standard}")
    group.add_argument("--learning-rate", type=real, metavar="X", default=1e-4, help="at the beginning; default 0.0001")
    parser.set_defaults(answer=None)


def _image(args: argparse.Namespace, console: Console) -> None:
    from exptilt.train.image import PictureFit, fit_pictures

    fit = PictureFit(args.form, args.draws, args.steps, args.batch, args.learning_rate, args.seed)
    asked = [example.prompt for example in read_examples(args.prompts, args.prompt_key, args.id_key)]
    with status(console, f"loading {args.model}"):
        target = groups.target_of(args)()
    if target.proposal is not None:
        raise UsageError("--proposal is not for train image, which draws from the model itself: leave it out")
    fitted = fit_pictures(target, asked, args.out, fit, _progress(console))
    show_note(console, f"median effective sample size {fitted.ess:.1f}; {fitted.forwards:,} evaluations; loss {fitted.loss:.4f}")
    print(fitted.model)


KINDS: Mapping[str, Kind] = {
    "align": Kind(_add_align, _align, {}),
    "value": Kind(_add_value, _value, {"epochs": 4, "batch": 64, "learning_rate": 3e-3, "checkpoint": 1000}),
    "image": Kind(_add_image, _image, {}),
    "reward": Kind(_add_reward, _reward, {"batch": 128, "learning_rate": 1e-5}),
}


def execute(args: argparse.Namespace, console: Console) -> int:
    if args.kind != "image":  # which needs the packages of its model alone
        require("exptilt train", "train", PACKAGES)
    prepare_torch("exptilt train")
    with groups.checked(args):
        try:
            KINDS[args.kind].execute(args, console)
        except KeyboardInterrupt:
            show_note(console, f"stopped. Run the same command again: it goes on from the last checkpoint in {Path(args.out)}.")
            return 130
    return 0


COMMAND = groups.Subcommand(
    "train",
    "fit a model to what runs have drawn",
    ABOUT,
    "exptilt train KIND MODEL STORE... --out DIR [options]",
    add_flags,
    execute,
)
