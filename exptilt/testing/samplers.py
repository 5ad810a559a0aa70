"""The contract of samplers, held on small random targets where every random path can be taken.

For a sampler with weights it is the definition of proper weighting: E[Σ_i w_i f(y_i)] = Σ_y γ(y) f(y) for every f, an
equality to 1e-9, with rewards that exclude some responses (-inf) among the targets. A Markov chain has no such equality.
For it, what every sampler promises is checked: its populations hold finished drafts with their own rewards, the same key
gives the same populations, and no random stream is used twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from exptilt.blocks import BlockSize
from exptilt.core import Engine, Sampler, Target, check_capabilities
from exptilt.draft import Draft
from exptilt.errors import AllWeightsZero, TargetError
from exptilt.keys import Floats, Key
from exptilt.populations.population import Population
from exptilt.testing.contract import require
from exptilt.testing.enumeration import distance, expected_weights
from exptilt.testing.toys import Toy, autoregressive, constrained, masked
from exptilt.usage import Work


def default_toys() -> list[Toy]:
    """Autoregressive and masked, with and without a proposal, and with hard constraints on the last token and the length."""
    return [
        autoregressive(1),
        autoregressive(2, proposal=True),
        masked(3, length=2),
        masked(4, length=2, order="left", proposal=True),
        constrained(autoregressive(5), lambda tokens: tokens[-1] == 0),
        constrained(autoregressive(6), lambda tokens: len(tokens) == 2),
        constrained(masked(7, length=2, order="left"), lambda tokens: tokens[-1] == 0),
    ]


def check_sampler(sampler: Sampler, toys: Sequence[Toy] | None = None, tolerance: float = 1e-9) -> int:
    """Check the contract of a sampler on each target that it takes. Returns how many. Keep the sampler small: 2 or 3 drafts.

    toys: where not given, seven of all kinds. A target that the sampler refuses (TargetError, such as one with a proposal) is
        skipped; at least one must be left.
    tolerance: of the equality, relative to Z.
    Raises ContractError, and AssertionError where there are too many paths to take.
    """
    taken = [toy for toy in (default_toys() if toys is None else toys) if _takes(sampler, toy.target)]
    require(bool(taken), f"{sampler!r} takes none of the targets: give toys that it can serve")
    for toy in taken:
        for seed in range(3):
            _check_run(sampler, toy.target, Key(seed, "contract"))
        if sampler.weighted:
            found = expected_weights(sampler, toy.target)
            error = distance(found, toy.gamma)
            require(
                error < tolerance * max(1.0, toy.z),
                f"{sampler!r} is not properly weighted: E[Σ w f] differs from Σ γ f by {error:.3g} on {toy.name}, where Z is "
                f"{toy.z:.4g} and E[Ẑ] {sum(found.values()):.4g}",
            )
    return len(taken)


def _takes(sampler: Sampler, target: Target) -> bool:
    try:
        check_capabilities(sampler, target)
    except TargetError:
        return False
    return True


def _check_run(sampler: Sampler, target: Target, key: Key) -> None:
    """One real run: what it yields, that it can be repeated, and that no stream of random numbers serves twice."""
    recorder = Recorder(target.engine)
    recorded = replace(target, engine=recorder, proposal=target.proposal and replace(recorder, engine=target.proposal))
    first = _populations(sampler, recorded, key)
    for population in first:
        _check_population(sampler, target, population)
    again = _populations(sampler, target, key)
    same = len(first) == len(again) and all(map(_equal, first, again))
    require(same, f"{sampler!r} gave different populations for the same key: it must depend on its key alone")
    twice = [name for name, count in recorder.used.items() if count > 1]
    require(not twice, f"{sampler!r} drew twice with one key, {twice[:1]}: give every draft a key of its own (key.child)")


def _populations(sampler: Sampler, target: Target, key: Key) -> list[Population]:
    found: list[Population] = []
    try:
        found.extend(sampler(target, "x", key))
    except AllWeightsZero:  # a run of weight zero counts as zero in every expectation
        return found
    require(bool(found), f"{sampler!r} yielded nothing: yield a population, or raise AllWeightsZero")
    return found


def _check_population(sampler: Sampler, target: Target, population: Population) -> None:
    require(population.proper == sampler.weighted, f"{sampler!r} says weighted={sampler.weighted}; its population says otherwise")
    held = population.log_w > -math.inf
    drafts = [draft for draft, counts in zip(population.drafts, held, strict=True) if counts]
    unfinished = [draft for draft in drafts if draft.finish is None]
    require(not unfinished, f"{sampler!r} yielded the unfinished draft {unfinished[:1]} with a positive weight")
    rewards = target.rate("x", drafts)
    kept = np.allclose(rewards, population.rewards[held], rtol=0, atol=1e-12)
    require(kept, f"{sampler!r} yielded rewards that are not those of its drafts: {population.rewards[held]} for {rewards}")
    excluded = bool(np.any(rewards == -math.inf))
    require(not excluded, f"{sampler!r} gave a draft that the reward excludes (-inf) a positive weight")


def _equal(one: Population, other: Population) -> bool:
    return one.drafts == other.drafts and np.array_equal(one.log_w, other.log_w)


@dataclass(frozen=True)
class Recorder:
    """An engine that notes each key it draws with. used: how often each one did."""

    engine: Engine
    used: dict[tuple[Any, ...], int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.engine.name

    @property
    def can(self) -> frozenset[str]:
        return self.engine.can

    @property
    def max_tokens(self) -> int:
        return self.engine.max_tokens

    @property
    def alphabet(self) -> str:
        return self.engine.alphabet

    @property
    def settings(self) -> Any:
        return self.engine.settings

    def with_sampling(self, **changes: Any) -> Recorder:
        return replace(self, engine=self.engine.with_sampling(**changes))

    def metered(self, work: Work) -> Recorder:
        return replace(self, engine=self.engine.metered(work))

    def start(self, prompt: Any) -> Draft:
        return self.engine.start(prompt)

    def prompt_tokens(self, prompt: Any) -> tuple[int, ...]:
        return self.engine.prompt_tokens(prompt)

    def extend(self, drafts: Sequence[Draft], keys: Sequence[Key], tokens: BlockSize | None = None) -> list[Draft]:
        for draft, key in zip(drafts, keys, strict=True):
            if draft.finish is None and tokens != 0:
                name = (key.seed, *key.path)
                self.used[name] = self.used.get(name, 0) + 1
        return self.engine.extend(drafts, keys, tokens)

    def score(self, drafts: Sequence[Draft], starts: Sequence[int] | None = None) -> list[Floats]:
        return self.engine.score(drafts, starts)
