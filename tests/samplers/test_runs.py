"""What expectations cannot see: streams used twice, rewards parted from their drafts, engine calls with keys in common.

Two rollouts that share a stream are each of the right law, so E[Σ w f] is right as well: only the variance is wrong, and
every claim of independence. So each key of a whole run is recorded, sessions, rewards and selects included.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import exptilt as xt
from exptilt import samplers
from exptilt.blocks import BlockSize
from exptilt.core import Sampler, Target
from exptilt.draft import Draft
from exptilt.engines import TableEngine
from exptilt.errors import AllWeightsZero
from exptilt.keys import Key, Stream
from exptilt.populations.population import Population
from exptilt.rewards import Agreement
from exptilt.samplers import ETS, SMC, Beam, Independent, Metropolised, ParticleGibbs, Rejection, SuffixMCMC
from exptilt.samplers.command import Command
from exptilt.samplers.trace import Generations


def rarely_ends(prefix: tuple[int, ...]) -> list[float]:
    return [0.49, 0.49, 0.02]


def otherwise(prefix: tuple[int, ...]) -> list[float]:
    return [0.6, 0.36, 0.04]


def ones(prompt: str, drafts: Sequence[Draft]) -> list[float]:
    return [0.2 * sum(draft.tokens) for draft in drafts]


def odd_ones(prompt: str, drafts: Sequence[Draft]) -> list[float]:
    """Excludes half of the responses, by all of their tokens."""
    return [0.2 * sum(draft.tokens) if sum(draft.tokens) % 2 else -math.inf for draft in drafts]


ENGINE, PROPOSAL = TableEngine(rarely_ends, 8, 2), TableEngine(otherwise, 8, 2)
SAMPLERS: dict[str, Sampler] = {
    "independent in batches": Independent(9, batch=2),
    "ets": ETS(3, 3, 2),
    "ets, chain only": ETS(3, 2, 3, returns="chain"),
    "ets, value": ETS(3, 2, 2, value=ones),
    "smc": SMC(5, 2, 2, threshold=1.0),
    "smc, value": SMC(5, 2, value=ones, threshold=1.0),
    "smc, rejuvenated": SMC(4, 2, 2, threshold=1.0, rejuvenate=2),
    "particle gibbs": ParticleGibbs(SMC(3, 2, 2), 4),
    "beam search": Beam(3, 4, 2),
    "beam search by value": Beam(3, 4, 2, value=ones),
    "chains": SuffixMCMC(8, chains=3),
    "recycled chains": SuffixMCMC(8, chains=3, recycle=True),
    "power chain": SuffixMCMC(8, power=2.0),
    "rejection": Rejection(3, 90, 3.5, batch=4),
    "metropolised independent": Metropolised(Independent(4, batch=2), 5),
    "metropolised ets": Metropolised(ETS(2, 2, 2), 5),
    "metropolised smc": Metropolised(SMC(3, 2), 4),
}
PROPOSED: dict[str, Sampler] = {
    "independent": Independent(5, batch=2),
    "ets": ETS(3, 2, 2),
    "ets, candidates": ETS(3, 2, 2, propose_candidates=True),
    "smc": SMC(4, 2, 2, threshold=1.0),
    "smc, rejuvenated": SMC(4, 2, 2, threshold=1.0, rejuvenate=2),
    "particle gibbs": ParticleGibbs(SMC(3, 2, 2), 4),
    "metropolised ets": Metropolised(ETS(2, 1, 2, propose_candidates=True), 4),
}
CASES = [(name, None) for name in SAMPLERS] + [(name, PROPOSAL) for name in PROPOSED]


def test_no_sampler_is_left_out() -> None:
    kinds = {type(sampler) for sampler in (*SAMPLERS.values(), *PROPOSED.values())}
    assert kinds == {getattr(samplers, name) for name in samplers.__all__} - {Command}


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> Counter[Key]:
    """How often each key's stream was opened."""
    opened: Counter[Key] = Counter()
    right = Key.rng

    def rng(self: Key) -> np.random.Generator:
        opened[self] += 1
        return right(self)

    monkeypatch.setattr(Key, "rng", rng)
    return opened


@pytest.mark.parametrize(("name", "proposal"), CASES)
def test_no_key_draws_twice_in_a_run(name: str, proposal: TableEngine | None, streams: Counter[Key]) -> None:
    sampler = SAMPLERS[name] if proposal is None else PROPOSED[name]
    for reward, seeds in ((ones, range(4)), (odd_ones, range(4, 8))):
        for seed in seeds:
            with suppress(AllWeightsZero):
                xt.sample(Target(ENGINE, reward, 1.0, proposal), "x", sampler, select=xt.vote(str.strip), seed=seed)
    assert len(streams) > 8 * 4
    assert max(streams.values()) == 1, [key for key, count in streams.items() if count > 1][:3]


def test_no_key_draws_twice_beside_a_pilot_and_another_prompt(streams: Counter[Key]) -> None:
    target = Target(ENGINE, Agreement(str.strip, pilot=5), 1.0)
    xt.run(target, ["x", "x", "y"], ETS(3, 2, 2), seed=1, concurrency=1)
    assert max(streams.values()) == 1


@dataclass(frozen=True)
class Noting(TableEngine):
    """Notes the keys of each call for the drafts that still grow."""

    calls: list[list[Key]] = field(default_factory=list, compare=False)

    def extend(self, drafts: Sequence[Draft], keys: Sequence[Key], tokens: BlockSize | None = None) -> list[Draft]:
        self.calls.append([key for draft, key in zip(drafts, keys, strict=True) if draft.finish is None])
        return TableEngine.extend(self, drafts, keys, tokens)


@pytest.mark.parametrize("name", SAMPLERS)
def test_engine_calls_share_no_key(name: str) -> None:
    """The engine opens the streams itself; one that reads a key's path (a server's seed) must get others each time."""
    engine = Noting(rarely_ends, 8, 2)
    list(SAMPLERS[name](Target(engine, ones, 1.0), "x", Key(3)))
    keys = [key for call in engine.calls for key in call]
    assert len(keys) == len(set(keys)) > 3


@pytest.mark.parametrize(("name", "proposal"), CASES)
def test_rewards_stay_with_their_drafts(name: str, proposal: TableEngine | None) -> None:
    """Through resampling, pooling and repeats; rewards that were not permuted with the particles went unnoticed."""
    target = Target(ENGINE, lambda prompt, drafts: [float(hash(draft.tokens) % 1000) / 300 for draft in drafts], 1.0, proposal)
    sampler, resampled = SAMPLERS[name] if proposal is None else PROPOSED[name], 0
    for seed in range(5):
        for population in sampler(target, "x", Key(seed)):
            drafts = [draft for draft, log_w in zip(population.drafts, population.log_w, strict=True) if log_w > -math.inf]
            held = population.rewards[population.log_w > -math.inf]
            np.testing.assert_array_equal(target.rate("x", drafts), held)
            resampled += population.trace.resampled if isinstance(population.trace, Generations) else 0
    assert resampled > 5 or not isinstance(sampler, SMC)


def test_finished_particles_carry_their_reward_through_resampling() -> None:
    """A particle that ends at the first step is copied at later ones, and its reward, potential and weight with it."""
    engine = TableEngine(lambda prefix: [0.3, 0.3, 0.4], 6, 2)
    early: list[Population] = []
    for seed in range(20):
        early += SMC(6, 1, threshold=1.0)(Target(engine, ones, 0.2), "x", Key(seed))
    for population in early:
        assert population.rewards.tolist() == ones("x", population.drafts)
        assert isinstance(population.trace, Generations)
    lengths = {len(draft.tokens) for population in early for draft in population.drafts}
    assert lengths >= {2, 3, 4}


def test_streams_of_siblings_differ() -> None:
    """All children that samplers make of one key, at any depth: a path is its parts, not their text joined."""
    key = Key(0, "a")
    children: list[Any] = [key.child(1, 2), key.child(12), key.child("1", 2), key.child("1,2"), key.child(1).child(2, 3)]
    draws = [child.rng().random() for child in children]
    assert len(set(draws)) == len(draws)
    assert key.child(1).rng().random() == Key(0, "a", 1).rng().random() != Key(0, "b", 1).rng().random()


@dataclass(frozen=True)
class Fixed:
    """Stands for a generator whose next uniform is known."""

    value: float

    def random(self) -> float:
        return self.value


@pytest.mark.parametrize("uniform", [0.0, 0.25, 0.5, 1 - 2**-53])
def test_siblings_without_mass_are_never_chosen(uniform: float) -> None:
    """Not even where the uniform falls on an edge of the cumulative weights, or the product rounds up to their sum."""
    for weights in ([0.0, 0.5, 0.0, 0.5, 0.0], [0.0, 0.1, 0.1, 0.0, 0.1, 0.1, 0.0], [0.0, 3e-320, 0.0]):
        assert weights[Stream(Fixed(uniform)).choose(weights)] > 0  # type: ignore[arg-type]
