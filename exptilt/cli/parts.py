"""From the words of a command line to the parts of a run: model, reward, sampler, select, budget, prompts.

A word that means nothing raises UsageError, with what could have been said instead.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import inspect
import json
import sys
import traceback
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from exptilt import answers, rewards
from exptilt.core import Engine, PromptReward, Reward, Sampler, Target
from exptilt.engines.load import KNOWN, load
from exptilt.errors import ExptiltError
from exptilt.evaluation.cost import Parameters
from exptilt.populations import utilities
from exptilt.populations.select import best, draw, mbr, vote
from exptilt.running.run import Select
from exptilt.samplers import ETS, SMC, Independent, Metropolised, SuffixMCMC
from exptilt.usage import Budget

SAMPLERS: dict[str, type[Any]] = {
    "ets": ETS,
    "independent": Independent,
    "mcmc": SuffixMCMC,
    "smc": SMC,
    "metropolised": Metropolised,
}
MODELS = KNOWN.replace(" and ", " or ")  # what --help says of MODEL
LAW = ("temperature", "top_p", "top_k", "max_tokens", "dtype")  # flags that `exptilt.load` takes as they are
ANSWERS = {
    "number": answers.number,
    "quantity": answers.quantity,
    "latex": answers.latex,
    "choice": answers.choice,
    "code": answers.code,
    "exact": answers.exact,
}
UTILITIES = {"rouge1": utilities.rouge1, "chrf": utilities.chrf, "exact": utilities.exact}
REWARDS: dict[str, type[Any]] = {
    "arithmetic": rewards.Arithmetic,
    "agreement": rewards.Agreement,
    "running-majority": rewards.RunningMajority,
    "logprob": rewards.LogProb,
    "self-certainty": rewards.SelfCertainty,
    "negative-entropy": rewards.NegativeEntropy,
}
_ABOUT_ANSWERS = ("agreement", "running-majority")
MODEL_REWARDS: dict[str, type[Any]] = {
    "classifier": rewards.ClassifierReward,
    "process": rewards.ProcessReward,
    "endpoint": rewards.EndpointReward,
    "judge": rewards.Judge,
    "pairwise": rewards.PairwiseJudge,
}
_JUDGES = ("judge", "pairwise")


_WANTED = "give a function (text) -> float or (prompt, drafts) -> floats"


class UsageError(ExptiltError):
    """The command line cannot be understood."""


def make_target(args: argparse.Namespace, answer: answers.Answer | None = None) -> Target:
    """The target; the reward is looked up before any model is loaded, because that is quick.

    answer: what counts as an answer for rewards about answers; as --answer says where not given.
    """
    reward = find_reward(args.reward, answer or ANSWERS[args.answer])
    law = {name: getattr(args, name) for name in LAW}
    law |= {"stop": tuple(args.stop) if args.stop else None}
    given = {name: value for name, value in law.items() if value is not None}

    def named(model: str) -> Engine:
        name, options = model_options(model)
        return load(name, **{**given, **options})

    return Target(named(args.model), reward, args.beta, named(args.proposal) if args.proposal else None)


def model_options(model: str) -> tuple[str, dict[str, Any]]:
    """A model's name and the options of `exptilt.load` after it, as in "tiny-mdlm?cache=dual&threshold=0.9"."""
    name, _, rest = model.partition("?")
    options: dict[str, Any] = {}
    for part in rest.split("&") if rest else ():
        key, sign, value = part.partition("=")
        if not (key.isidentifier() and sign):
            raise UsageError(
                f"{part!r} in {model!r} is no option: write MODEL?NAME=VALUE&NAME=VALUE, such as tiny-mdlm?cache=dual"
            )
        try:
            options[key] = json.loads(value)
        except json.JSONDecodeError:
            options[key] = value  # a word
    return name, options


def make_sampler(args: argparse.Namespace) -> Sampler:
    """The chosen sampler with its flags; `metropolised` around the inner one."""
    if args.sampler == "metropolised":
        return Metropolised(_construct(SAMPLERS[args.inner], args), args.steps)
    return _construct(SAMPLERS[args.sampler], args)


def _construct(kind: type[Any], args: argparse.Namespace) -> Any:
    return kind(**{item.name: getattr(args, item.name) for item in fields(kind)})


def make_select(args: argparse.Namespace) -> Select:
    made: dict[str, Select] = {
        "draw": draw,
        "best": best,
        "vote": vote(ANSWERS[args.answer]),
        "mbr": mbr(UTILITIES[args.utility]),
    }
    return made[args.select]


def make_budget(args: argparse.Namespace) -> Budget | None:
    limits = (args.budget_tokens, args.budget_seconds, args.budget_rewards)
    return None if limits == (None, None, None) else Budget(*limits)


def parameters(text: str) -> Parameters:
    """How many parameters the model, its proposal and a reward model have, such as "5e8,0,1e9"."""
    return Parameters(*(float(part) for part in text.split(",")))


# --------------------------------------------------------------------------------------------------------- rewards


def find_reward(spec: str, answer: answers.Answer) -> Reward | PromptReward:
    """A reward by its built-in name, a model as KIND:NAME?OPTION=VALUE, or the user's own object: see `as_reward`."""
    if spec in REWARDS:
        return REWARDS[spec](answer) if spec in _ABOUT_ANSWERS else REWARDS[spec]()
    kind, sign, rest = spec.partition(":")
    if kind in MODEL_REWARDS and rest:
        return _model_reward(kind, *model_options(rest))
    if not sign:
        raise UsageError(
            f"there is no reward {spec!r}: give {', '.join(REWARDS)}, {', '.join(f'{each}:NAME' for each in MODEL_REWARDS)}, "
            "or your own as FILE.py:NAME or package.module:NAME"
        )
    return as_reward(find_object(spec), spec)


def _model_reward(kind: str, name: str, options: dict[str, Any]) -> Reward | PromptReward:
    """A model as a reward. Options are its fields; those that a judge does not have are of the judge's engine."""
    made = MODEL_REWARDS[kind]
    own = {item.name for item in fields(made) if item.init}
    if kind in _JUDGES:
        law = {key: value for key, value in options.items() if key not in own}
        return made(load(name, **law), **{key: value for key, value in options.items() if key in own})
    if kind == "process":
        form = {key: options.pop(key) for key in [*options] if key in rewards.StepFormat.__dataclass_fields__}
        preset = options.get("format", "trl")
        if form and preset in rewards.FORMATS:
            options["format"] = replace(rewards.FORMATS[preset], **form)
    if unknown := sorted(options.keys() - own):
        raise UsageError(f"{kind}:{name} has no option {', '.join(unknown)}: it has {', '.join(sorted(own - {'source', 'url'}))}")
    return made(name, **options)


def as_reward(found: Any, spec: str) -> Any:
    """What the user wrote, as a reward: decided by the parameters that it must be given.

    (text) or (prompt, text) -> float rates one text, (prompt, drafts) -> floats rates many at once; which of the last
    two is told by the name `text`. A class is made an object first, without arguments.
    """
    if isinstance(found, type):
        try:
            found = found()
        except TypeError as error:
            raise UsageError(f"{spec} is a class that needs arguments ({error}): give the name of an object of it") from None
    if isinstance(found, PromptReward):
        return found
    if not callable(found):
        raise UsageError(f"{spec} is {found!r} and cannot be called: {_WANTED}")
    function: Callable[..., Any] = found
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # some built-in functions tell nothing about themselves
        return rewards.Each(function)
    places = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [parameter for parameter in parameters if parameter.kind in places and parameter.default is parameter.empty]
    if len(needed) not in (1, 2):
        raise UsageError(f"{spec} needs {len(needed)} arguments: {_WANTED}")
    return rewards.Each(function) if len(needed) == 1 or needed[1].name == "text" else function


def find_object(spec: str) -> Any:
    """The object that FILE.py:NAME or package.module:NAME names."""
    place, _, name = spec.rpartition(":")
    if not (place and name):
        raise UsageError(f"{spec!r} names no object: give FILE.py:NAME or package.module:NAME")
    found: Any = _load_file(Path(place)) if place.endswith(".py") else _load_module(place)
    for part in name.split("."):
        if part not in dir(found):
            offered = [each for each, value in vars(found).items() if callable(value) and not each.startswith("_")]
            raise UsageError(f"{place} has no {name!r}: it has {', '.join(offered) or 'nothing that can be called'}")
        found = getattr(found, part)
    return found


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"there is no file {path}: give the path of a Python file before the colon")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} cannot be read as a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)  # dataclasses look their module up there
    sys.path.append(str(path.parent.resolve()))  # for the processes of rewards.Isolated, which import it by its name
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).name == path.name]
        where = f", line {lines[-1]}" if lines else ""
        raise UsageError(f"{path}{where} raised {type(error).__name__}: {error}. Mend the file.") from error
    return module


def _load_module(name: str) -> ModuleType:
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
    try:
        return importlib.import_module(name)
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        raise UsageError(f"{name} cannot be imported ({why}): give FILE.py:NAME or package.module:NAME") from error


# --------------------------------------------------------------------------------------------------------- prompts


def read_prompts(path: Path) -> list[str]:
    """The prompts of a .jsonl file, each line {"prompt": ...} or a JSON string, or the lines of a text file."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise UsageError(f"the prompts file {path} cannot be read: {error.strerror}. Give the path of a text file.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"the prompts file {path} is no UTF-8 text ({error.reason}): save it as UTF-8") from error
    is_json = path.suffix in (".jsonl", ".ndjson")
    filled = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    prompts = [_prompt(line, f"line {number} of {path}") if is_json else line for number, line in filled]
    if not prompts:
        raise UsageError(f"{path} holds no prompts: give one per line")
    return prompts


def _prompt(line: str, where: str) -> str:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise UsageError(f'{where} is no JSON ({error}): give {{"prompt": ...}} or a JSON string, or a .txt file') from error
    prompt = value.get("prompt") if isinstance(value, dict) else value
    if not isinstance(prompt, str):
        raise UsageError(f'{where} has no prompt: give {{"prompt": "..."}} or a JSON string')
    return prompt
