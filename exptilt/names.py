"""Everything that has a name on the command line, and how names become the parts of a run.

    target("tiny", "agreement", 0.1, max_tokens=64)      sampler("ets", candidates=4)      select("vote", "number")

A part has a short name where it is exptilt's own, or where an installed package offers it under an entry point of the
group `exptilt.samplers`, `exptilt.rewards`, `exptilt.selects`, `exptilt.stop_rules`, `exptilt.answers` or
`exptilt.utilities`. Any other object has a long one, FILE.py:NAME or package.module:NAME. Raises UsageError, with what
could have been asked for instead. The command line and the model of lm-evaluation-harness are made of these functions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any

from exptilt import answers, rewards, samplers
from exptilt.answers import Answer
from exptilt.core import Engine, PromptReward, Reward, Sampler, Target
from exptilt.engines.loading import load
from exptilt.errors import UsageError, did_you_mean
from exptilt.objects import Registry
from exptilt.populations import until, utilities
from exptilt.populations.select import Select, best, draw, mbr, vote
from exptilt.populations.until import Until
from exptilt.rewards.rules import as_reward
from exptilt.samplers.command import Setting, is_sampler, own_command, settings

SAMPLERS = Registry(
    "sampler", {kind.command.name: kind for name in samplers.__all__ if (kind := vars(samplers)[name]) is not samplers.Command}
)
ANSWERS = Registry(
    "answer",
    {name: vars(answers)[name] for name in ("number", "quantity", "latex", "choice", "code", "exact")},
    takes="(text) -> str or None",
)
RULES: Mapping[str, type[Any]] = {
    "reward": until.RewardReached,
    "sure": until.Sure,
    "certain": until.Certain,
    "ess": until.SampleSize,
    "log_z_error": until.LogZError,
}
STOP_RULES = Registry(
    "stop rule", {}, tuple(kind.help.partition(",")[0] for kind in RULES.values()), takes="(population) -> bool"
)
UTILITIES = Registry("utility", {"rouge1": utilities.rouge1, "chrf": utilities.chrf, "exact": utilities.exact})
SELECTS = Registry(
    "select", {"draw": draw, "best": best, "vote": vote, "majority": vote, "mbr": mbr}, takes="(population, key) -> draft"
)
MODEL_REWARDS: Mapping[str, type[Any]] = {
    "classifier": rewards.ClassifierReward,
    "process": rewards.ProcessReward,
    "endpoint": rewards.EndpointReward,
    "judge": rewards.Judge,
    "pairwise": rewards.PairwiseJudge,
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
        "none": rewards.Zero,
    },
    tuple(f"{kind}:NAME" for kind in MODEL_REWARDS),
)


# -------------------------------------------------------------------------------------------------------- samplers


@dataclass(frozen=True)
class Alias:
    """A method's usual name for a sampler with a select, or without a reward.

    sampler: the name of the sampler.
    help: one line on the method.
    start: values that replace the sampler's own defaults.
    select: how the answer is picked where nothing else is asked for.
    reward: the reward where none is given; None where one must be.
    """

    sampler: str
    help: str
    start: Mapping[str, Any] = field(default_factory=dict)
    select: str = "draw"
    reward: str | None = None


ALIASES: Mapping[str, Alias] = {
    "bon": Alias("independent", "best-of-n: of n responses the one with the highest reward", select="best"),
    "majority": Alias("independent", "self-consistency: the most frequent answer of n", select="majority", reward="none"),
    "qalign": Alias("mcmc", "QAlign: the chain of redrawn suffixes"),
    "power": Alias("mcmc", "a chain on p^4, without a reward", {"power": 4.0}, reward="none"),
}


@dataclass(frozen=True)
class Chosen:
    """A sampler asked for by name, before it has its settings.

    name: as it was asked for.
    kind: its class.
    alias: what its name stands for.
    settings: the settings it takes, by name, and those of the sampler inside it, with `inner_` before a name that is taken.
    holds: the field that is another sampler; None where there is none.
    inner: that sampler.
    """

    name: str
    kind: type[Any]
    alias: Alias
    settings: Mapping[str, Setting]
    holds: Setting | None = None
    inner: Chosen | None = None

    @property
    def help(self) -> str:
        """One line on what it does."""
        return self.alias.help or own_command(self.kind).help

    def make(self, given: Mapping[str, Any]) -> Sampler:
        """The sampler with these settings, values or texts. Raises UsageError for one that it does not have, or needs."""
        if unknown := sorted(given.keys() - self.settings.keys()):
            known = ", ".join(self.settings)
            near = did_you_mean(unknown[0], self.settings)
            raise UsageError(f"the sampler {self.name} has no setting {', '.join(unknown)}: it has {known}.{near}")
        values = {name: setting.default for name, setting in self.settings.items()}
        values |= {name: self.settings[name].read(value) for name, value in given.items()}
        if missing := [name for name, value in values.items() if value is MISSING]:
            raise UsageError(f"the sampler {self.name} needs {', '.join(missing)}: it has no value to start with")
        return self._made(values)

    def _made(self, values: Mapping[str, Any]) -> Sampler:
        names = [item.name for item in fields(self.kind) if item.init]
        if self.holds is None or self.inner is None:
            return self.kind(**{name: values[name] for name in names})
        inside = self.inner._made({name: values[f"inner_{name}" if name in names else name] for name in self.inner.settings})
        return self.kind(**{name: inside if name == self.holds.name else values[name] for name in names})


def choose_sampler(name: str, inner: str | None = None) -> Chosen:
    """The sampler of this name, or alias, and inside it the one called `inner`, if it holds another sampler."""
    alias = ALIASES.get(name, Alias(name, ""))
    kind = SAMPLERS.find(alias.sampler)
    if not (isinstance(kind, type) and {"needs", "weighted", "__call__"} <= {*dir(kind)}):
        raise UsageError(f"{name} is {kind!r:.80} and not the class of a sampler: give a dataclass as exptilt.core.Sampler says")
    own = own_command(kind)
    found = {setting.name: setting for setting in settings(kind, {**own.start, **alias.start})}
    samplers_inside = [setting for setting in found.values() if is_sampler(setting)]
    if not samplers_inside:
        if inner is not None:
            raise UsageError(f"the sampler {name} holds no other: leave out inner={inner!r}")
        return Chosen(name, kind, alias, found)
    holds, *others = samplers_inside
    if others:
        raise UsageError(f"the sampler {name} holds {len(samplers_inside)} others, where --inner names one: make it in Python")
    inside = choose_sampler(inner or own.start.get(holds.name, "independent"))
    renamed = {f"inner_{each}" if each in found else each: setting for each, setting in inside.settings.items()}
    del found[holds.name]
    return Chosen(name, kind, alias, found | renamed, holds, inside)


def sampler(name: str, inner: str | None = None, **given: Any) -> Sampler:
    """A sampler by its name, with settings as values or texts; `inner` names the sampler that it holds."""
    return choose_sampler(name, inner).make(given)


def known_samplers() -> dict[str, Chosen | UsageError]:
    """Every sampler with a short name and every alias; of a package that is broken, what is wrong with it."""
    found: dict[str, Chosen | UsageError] = {}
    for name in (*SAMPLERS.names, *ALIASES):
        try:
            found[name] = choose_sampler(name)
        except UsageError as error:  # a broken package is not a reason to refuse the others
            found[name] = error
    return found


# --------------------------------------------------------------------------------------------------------- selects


def select(name: str, answer: str | Answer = "number", utility: str = "rouge1") -> Select:
    """How an answer is picked. answer: what counts as one, for votes. utility: how texts are compared, for mbr."""
    read = ANSWERS.find(answer) if isinstance(answer, str) else answer
    made: dict[Any, Callable[[], Select]] = {
        "vote": lambda: vote(read),
        "majority": lambda: vote(read, weighted=False),
        "mbr": lambda: mbr(UTILITIES.find(utility)),
    }
    return made[name]() if name in made else SELECTS.find(name)


# ------------------------------------------------------------------------------------------------------ stop rules


def stop_rule(spec: str) -> Until:
    """A stop rule by what it is and its numbers, such as "reward:1.0" or "sure:number:0.95", or the user's own by where it is."""
    kind, _, rest = spec.partition(":")
    kind = kind.replace("-", "_")
    if kind not in RULES:
        return STOP_RULES.find(spec)
    form = RULES[kind].help
    try:
        if kind == "sure":
            answer, _, level = rest.rpartition(":")
            number = float(level)
            return until.sure(ANSWERS.find(answer), number)
        if kind == "certain":
            answer, _, bound = rest.rpartition(":")
            given = answer != "" and _is_number(bound)
            return until.certain(ANSWERS.find(answer if given else rest), reward_max=float(bound) if given else None)
        return RULES[kind](float(rest))
    except ValueError as error:
        raise UsageError(f"{spec!r} is not a stop rule ({error}): write {form}") from None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


# --------------------------------------------------------------------------------------------------------- targets


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
        given = ", ".join(f"{name}={value!r}" for name, value in options.items())
        raise UsageError(f"{spec!r} has a value of the wrong type ({given}): {error}") from error


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
    kind, _, rest = spec.partition(":")
    if kind in MODEL_REWARDS and rest:
        name, options = model_options(rest)
        with _typed(spec, options):
            return _model_reward(kind, name, options)
    found = REWARDS.find(spec)
    if spec in REWARDS.own and "answer" in {item.name for item in fields(found)}:
        return found(ANSWERS.find(answer) if isinstance(answer, str) else answer)
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
            raise UsageError(f"{error} As a {kind} it has {', '.join(sorted(own - {'engine'}))} besides.{near}") from error
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
