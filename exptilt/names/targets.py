"""Targets by name: models with their options, rewards, and models that are rewards."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

from exptilt import rewards
from exptilt.answers import Answer
from exptilt.core import Engine, PromptReward, Reward, Target
from exptilt.engines.loading import load
from exptilt.errors import UsageError, did_you_mean
from exptilt.names.answers import find_answer
from exptilt.objects import Registry
from exptilt.rewards.rules import as_reward

MODEL_REWARDS: Mapping[str, type[Any]] = {
    "classifier": rewards.ClassifierReward,
    "process": rewards.ProcessReward,
    "endpoint": rewards.EndpointReward,
    "judge": rewards.Judge,
    "pairwise": rewards.PairwiseJudge,
    "image-classifier": rewards.ImageClassifier,
    "text-similarity": rewards.TextSimilarity,
}
REWARDS = Registry(
    "reward",
    {
        "arithmetic": rewards.Arithmetic,
        "agreement": rewards.Agreement,
        "running-majority": rewards.RunningMajority,
        "logprob": rewards.LogProb,
        "self-certainty": rewards.SelfCertainty,
        "negative-entropy": rewards.NegativeEntropy,
        "classifier-free": rewards.ClassifierFree,
        "ink": rewards.Ink,
        "symmetry": rewards.Symmetry,
        "jpeg-size": rewards.JpegSize,
        "none": rewards.Zero,
    },
    ("matches:COLUMN", *(f"{kind}:NAME" for kind in MODEL_REWARDS)),
)


def target(
    model: str, reward: str, beta: float, *, proposal: str | None = None, answer: str | Answer = "number", **sampling: Any
) -> Target:
    """The target of a model, its reward and β; the reward is looked up before any model is loaded, because that is quick.

    model, proposal: what `exptilt.load` takes, with options after it: see `engine`.
    answer: what counts as an answer, for rewards about answers.
    sampling: options of `exptilt.load` for both models; those that are None count as not given.
    """
    found = find_reward(reward, answer)
    given = {name: value for name, value in sampling.items() if value is not None}
    return Target(engine(model, **given), found, beta, engine(proposal, **given) if proposal else None)


def engine(model: str, **given: Any) -> Engine:
    """A model by its name, with options of `exptilt.load` after it, as in "tiny-mdlm?cache=dual&threshold=0.9"."""
    name, options = model_options(model)
    with _typed(model, options):
        return load(name, **{**given, **options})


@contextmanager
def _typed(spec: str, options: Mapping[str, Any]) -> Iterator[None]:
    """Options come as text: one of another type than is wanted, such as a word for a number, is refused."""
    try:
        yield
    except TypeError as error:
        if not options:
            raise
        words = {name: value for name, value in options.items() if isinstance(value, str)} or options
        given = " or ".join(f"{name}={value!r}" for name, value in words.items())
        raise UsageError(
            f"{spec!r} has a value of the wrong type, {given}: give a number where the option counts or measures something, and "
            "true or false where it is a choice"
        ) from error


def model_options(model: str) -> tuple[str, dict[str, Any]]:
    """A model's name, and the options after it as JSON values or words."""
    name, _, rest = model.partition("?")
    options: dict[str, Any] = {}
    for part in rest.split("&") if rest else ():
        key, sign, value = part.partition("=")
        if not (key.isidentifier() and sign):
            raise UsageError(
                f"{part!r} in {model!r} is not an option: write MODEL?NAME=VALUE&NAME=VALUE, such as tiny-mdlm?cache=dual"
            )
        try:
            options[key] = json.loads(value)
        except json.JSONDecodeError:
            options[key] = value  # a word
    return name, options


# --------------------------------------------------------------------------------------------------------- rewards


def find_reward(spec: str, answer: str | Answer = "number") -> Reward | PromptReward:
    """A reward by its short name, a model as KIND:NAME?OPTION=VALUE, or the user's own object: see `as_reward`."""
    kind, colon, rest = spec.partition(":")
    if colon and not rest and kind in (*MODEL_REWARDS, "matches"):
        raise UsageError(f"the reward {spec!r} ends at its colon: write {kind}:{'COLUMN' if kind == 'matches' else 'MODEL'}")
    if kind in MODEL_REWARDS and rest:
        name, options = model_options(rest)
        with _typed(spec, options):
            return _model_reward(kind, name, options)
    if kind == "matches" and rest:
        return rewards.Matches(find_answer(answer), column=rest)
    found = REWARDS.find(spec)
    if spec in REWARDS.own and "answer" in {item.name for item in fields(found)}:
        return found(find_answer(answer))
    return as_reward(found, spec)


def _model_reward(kind: str, name: str, options: dict[str, Any]) -> Reward | PromptReward:
    """A model as a reward. Options are its fields; those that a judge does not have are of the judge's engine."""
    made = MODEL_REWARDS[kind]
    own = {item.name for item in fields(made) if item.init}
    if made in (rewards.Judge, rewards.PairwiseJudge):
        more = {key: value for key, value in options.items() if key not in own}
        try:
            judging = load(name, **more)
        except ValueError as error:
            near = "".join(did_you_mean(option, own) for option in more)
            raise UsageError(f"{error} As a {kind} it also has {', '.join(sorted(own - {'engine'}))}.{near}") from error
        return made(judging, **{key: value for key, value in options.items() if key in own})
    if kind == "process":
        form = {key: options.pop(key) for key in [*options] if key in rewards.StepFormat.__dataclass_fields__}
        preset = options.get("format", "trl")
        if form and preset in rewards.FORMATS:
            options["format"] = replace(rewards.FORMATS[preset], **form)
    if unknown := sorted(options.keys() - own):
        known = sorted(own - {"source", "url"})
        near = did_you_mean(unknown[0], known)
        raise UsageError(f"{kind}:{name} has no option {', '.join(unknown)}: it has {', '.join(known)}.{near}")
    return made(name, **options)
