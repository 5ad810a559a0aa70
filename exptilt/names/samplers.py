"""Samplers by name, with their settings as values or texts; and the usual names of methods that are a sampler with a select."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from exptilt import samplers
from exptilt.core import Sampler
from exptilt.errors import UsageError, did_you_mean
from exptilt.objects import Registry
from exptilt.samplers.command import Setting, is_sampler, own_command, settings

SAMPLERS = Registry(
    "sampler", {kind.command.name: kind for name in samplers.__all__ if (kind := vars(samplers)[name]) is not samplers.Command}
)


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
    "plain": Alias("independent", "one response, as the model draws it", {"n": 1}, reward="none"),
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
        raise UsageError(
            f"{name} is {kind!r:.80} and not the class of a sampler: give a dataclass that follows exptilt.core.Sampler"
        )
    own = own_command(kind)
    found = {setting.name: setting for setting in settings(kind, {**own.start, **alias.start})}
    samplers_inside = [setting for setting in found.values() if is_sampler(setting)]
    if not samplers_inside:
        if inner is not None:
            raise UsageError(f"the sampler {name} contains no other sampler: leave out inner={inner!r}")
        return Chosen(name, kind, alias, found)
    holds, *others = samplers_inside
    if others:
        raise UsageError(
            f"the sampler {name} holds {len(samplers_inside)} others, but --inner can name only one: create it in Python"
        )
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
