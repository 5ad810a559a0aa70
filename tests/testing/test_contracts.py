"""The contracts themselves: what is right passes, and each bug planted here is noticed and named."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, ClassVar

import numpy as np
import pytest

import exptilt as xt
from exptilt.blocks import BlockSize
from exptilt.core import Target
from exptilt.draft import Draft
from exptilt.errors import CapabilityError, RewardError
from exptilt.keys import Floats, Key
from exptilt.populations.population import Population
from exptilt.testing import ContractError, autoregressive, check_engine, check_reward, check_sampler
from exptilt.testing.toys import random_table
from exptilt.usage import Work

TABLE = xt.engines.TableEngine(random_table(1, 3), 6, 2, symbols="ab#")
KNOWN: dict[str, Any] = {"tolerance": 1e-9, "stops": False, "singles": 40, "draws": 3000}

# ----------------------------------------------------------------------------------------------------------- samplers


@pytest.mark.parametrize(
    "sampler", [xt.Independent(2), xt.Independent(3, batch=2), xt.SuffixMCMC(3), xt.Metropolised(xt.Independent(2), 2)]
)
def test_samplers_that_keep_their_contract(sampler: Any) -> None:
    assert check_sampler(sampler) >= 5


@dataclass(frozen=True)
class Broken:
    """Independent draws with one bug. `bug` names it."""

    bug: str
    calls: Iterator[int] = field(default_factory=count, compare=False)  # numbers its calls
    weighted: ClassVar[bool] = True

    def needs(self, target: Target) -> frozenset[str]:
        return frozenset()

    def __call__(self, target: Target, prompt: str, key: Key) -> Iterator[Population]:
        keys = [key.child(number) for number in range(2)]
        if self.bug == "one stream":
            keys = [key.child(0), key.child(0)]
        if self.bug == "other randomness":
            keys = [Key(next(self.calls), number) for number in range(2)]
        drafts = target.engine.extend([target.engine.start(prompt)] * 2, keys, 1 if self.bug == "unfinished" else None)
        rewards = target.rate(prompt, drafts)
        log_w = rewards / target.beta - (0.0 if self.bug == "sum" else math.log(2))
        if self.bug == "rewards":
            rewards = rewards[::-1]
        if self.bug == "excluded":
            log_w = np.maximum(log_w, -50.0)
        yield Population(drafts, log_w, rewards, proper=self.bug != "improper")


@pytest.mark.parametrize(
    ("bug", "said"),
    [
        ("sum", "not properly weighted: .* Z is .* and E\\[Ẑ\\]"),
        ("one stream", "drew twice with one key"),
        ("other randomness", "different populations for the same key"),
        ("unfinished", "unfinished draft"),
        ("rewards", "rewards that are not those of its drafts"),
        ("excluded", "excludes \\(-inf\\) a positive weight"),
        ("improper", "says weighted=True"),
    ],
)
def test_broken_samplers_are_noticed(bug: str, said: str) -> None:
    with pytest.raises(ContractError, match=said):
        check_sampler(Broken(bug))


def test_the_broken_sampler_without_a_bug_passes() -> None:
    """Or the tests above would prove nothing."""
    assert check_sampler(Broken("none")) == 7


def test_a_sampler_that_takes_no_target_is_told_so() -> None:
    with pytest.raises(ContractError, match="takes none of the targets"):
        check_sampler(xt.SuffixMCMC(2), [autoregressive(1, proposal=True)])


# ------------------------------------------------------------------------------------------------------------ engines


@dataclass(frozen=True)
class Lying:
    """A table that keeps all promises but one. `bug` names it."""

    bug: str
    engine: Any = TABLE
    name = "lying"
    alphabet = TABLE.alphabet
    max_tokens = 6

    @property
    def can(self) -> frozenset[str]:
        return TABLE.can if self.bug == "certainty" else TABLE.can - {"certainty"}

    @property
    def settings(self) -> Any:
        return self.engine.settings

    def with_sampling(self, **changes: Any) -> Lying:
        return self if self.bug == "temperature" else replace(self, engine=self.engine.with_sampling(**changes))

    def metered(self, work: Work) -> Lying:
        return self if self.bug == "work" else replace(self, engine=self.engine.metered(work))

    def start(self, prompt: str) -> Draft:
        return self.engine.start(prompt)

    def prompt_tokens(self, prompt: str) -> tuple[int, ...]:
        return ()

    def extend(self, drafts: Sequence[Draft], keys: Sequence[Key], tokens: BlockSize | None = None) -> list[Draft]:
        if self.bug == "position":
            keys = [key.child(number) for number, key in enumerate(keys)]
        if self.bug == "keys":
            keys = [Key(0)] * len(keys)
        found = self.engine.extend(drafts, keys, tokens)
        if self.bug == "logq":
            found = [replace(draft, logq=tuple(0.9 * value for value in draft.logq or ())) for draft in found]
        if self.bug == "finish":
            found = [replace(draft, finish="length") if draft.finish else draft for draft in found]
        if self.bug == "order" and len(found) == 4:
            found = found[::-1]
        return found

    def score(self, drafts: Sequence[Draft], starts: Sequence[int] | None = None) -> list[Floats]:
        if self.bug == "refuses":
            raise CapabilityError("cannot score")
        return self.engine.score(drafts, None if self.bug == "starts" else starts)


@pytest.mark.parametrize(
    ("bug", "said"),
    [
        ("logq", "recorded log probabilities are the scores.*they differ by up to"),
        ("starts", "from some decision on"),
        ("position", "differ from those of single calls"),
        ("keys", "fewer than two continuations are common"),
        ("finish", 'say finish="length"'),
        ("order", "a finished draft was changed"),
        ("work", "counted as"),
        ("temperature", "settings do not tell the new temperature"),
        ("certainty", '"certainty" is claimed'),
    ],
)
def test_lying_engines_are_noticed(bug: str, said: str) -> None:
    with pytest.raises(ContractError, match=said):
        check_engine(Lying(bug), ["a prompt", "another"], **KNOWN)


def test_an_engine_that_refuses_what_it_claims_is_noticed() -> None:
    with pytest.raises((ContractError, CapabilityError)):
        check_engine(Lying("refuses"), ["a prompt", "another"], **KNOWN)


def test_the_lying_engine_without_a_lie_passes() -> None:
    checked = check_engine(Lying("none"), ["a prompt", "another"], **KNOWN)
    assert "recorded_log_probabilities_are_the_scores" in checked
    assert "a_stop_string_ends_the_text_before_it" not in checked  # tables take none


# ------------------------------------------------------------------------------------------------------------ rewards


def by_length(prompt: str, drafts: list[Draft]) -> list[float]:
    return [float(len(draft.text)) if draft.text else -math.inf for draft in drafts]


def ranked() -> Callable[[str, list[Draft]], list[float]]:
    """Depends on what is rated beside: the rank of a draft among those of the call."""
    return lambda prompt, drafts: [float(sorted(draft.text for draft in drafts).index(draft.text)) for draft in drafts]


def restless() -> Callable[[str, list[Draft]], list[float]]:
    calls = [0]

    def reward(prompt: str, drafts: list[Draft]) -> list[float]:
        calls[0] += 1
        return [float(calls[0])] * len(drafts)

    return reward


TEXTS = ["a", "bb", "", "cc"]


def test_a_sound_reward_passes() -> None:
    check_reward(by_length, "x", TEXTS)


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        (ranked(), "rated one by one"),
        (restless(), "asked again"),
        (lambda prompt, drafts: [float(number) for number, _ in enumerate(drafts)], "reverse order"),
    ],
)
def test_rewards_without_a_fixed_target_are_noticed(reward: Any, said: str) -> None:
    with pytest.raises(ContractError, match=said):
        check_reward(reward, "x", TEXTS)


def test_values_that_are_no_rewards_are_errors() -> None:
    with pytest.raises(RewardError, match="nan"):
        check_reward(lambda prompt, drafts: [math.nan] * len(drafts), "x", TEXTS)
