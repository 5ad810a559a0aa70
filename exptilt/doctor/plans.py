"""What samplers would cost: the size at which each reaches a wanted number of effective draws, from a pilot's estimates.

*Effective draws* are draws from π that would serve as well. For samplers with weights they are read off the variance of
Ẑ, which Independent(n) has at χ²/n with n·share effective draws, share = 1/(1+χ²): so whatever has the same relative
variance is worth the same,

    ESS = (1 - share)·Z²/Var(Ẑ),        and KL(π‖law of one draw handed out) ≤ log(1 + Var(Ẑ)/Z²).

ETS. Let S_i = E_p[V_i²]/Z², V_i = E_p[exp(r/β) | the first i blocks]: 1 at the start, 1+χ² at the end, and what the
beginnings explain in between. With 1+g_i = S_i/S_(i-1) for what block i decides and 1+ω_i = S_end/S_i for what it leaves
open, blocks taken for independent and rollouts for log-normal, the extended target of the weights gives

    E[Z_i²]/Z² = P_i·(1 + ((1+g_i)(1+ω_i/K) - 1)/M),   E[Z_i Z_k]/Z² = P_i·(1 + g_i/M) for k > i,
    P_i = Π_(s<i) [(1+g_s)/M + (1-1/M)(1+ω_s/K)]

for the estimates Z_i of the single steps, which the population joins with the step weights α_i. M alone does not mend
noisy energies: P_i has a part that only K reduces.

SuffixMCMC. What a chain remembers of a state of which each step replaces the share s decays as (1-s)^k, so that k steps are
worth k·s/(2-s) draws; see `exptilt.doctor.tilt`. A good response too rare for the pilot holds a real chain up for longer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from exptilt.core import Sampler
from exptilt.doctor.pilot import PLACES, Sounding
from exptilt.doctor.tilt import Estimate, Tilt, tilted
from exptilt.keys import Floats
from exptilt.samplers import ETS, Independent, SuffixMCMC

_MOST = 4096  # candidates, draws or steps; what needs more is called out of reach
_ROLLOUTS = (2, 4, 8)  # one rollout's energy misses too often for the formula to hold
_MARGIN = {ETS: 0.75, SuffixMCMC: 0.5}  # of Independent's tokens, below which another is cheaper in spite of its estimate's error


@dataclass(frozen=True)
class Plan:
    """A sampler and what it is expected to do for one prompt. ess: effective draws. tokens: generated. rated: drafts rated.
    rounds: engine calls, one after the other."""

    sampler: Sampler
    ess: Estimate
    tokens: float
    rated: float
    rounds: int


@dataclass(frozen=True, eq=False)
class Shape:
    """Response lengths (tokens) of the pilot's draws with their shares under p and under π, float64 [draws of all prompts],
    and the engine's cap: what cost hangs on. A guided chain is taken to be half-way between the two."""

    lengths: Floats
    under_p: Floats
    under_pi: Floats
    cap: int

    @classmethod
    def of(cls, soundings: Sequence[Sounding], beta: float, cap: int) -> Shape:
        counts = [len(sounding.rewards) for sounding in soundings]
        alive = [sounding.rewards.max() > -math.inf for sounding in soundings]
        tilts = [
            tilted(sounding.rewards, sounding.rewards, beta) if held else np.ones(count)
            for sounding, held, count in zip(soundings, alive, counts, strict=True)
        ]
        lengths = np.concatenate([sounding.lengths for sounding in soundings])
        under_p = np.concatenate([np.full(count, 1 / count) for count in counts]) / len(counts)
        return cls(lengths, under_p, under_p * np.concatenate(tilts), cap)

    @property
    def mean(self) -> float:
        """Tokens of a response under p."""
        return float(self.lengths @ self.under_p)

    def step(self, number: int, block: int) -> tuple[float, float, float]:
        """Of an ETS step, numbered from 0, for one candidate: tokens of its block, tokens left to a rollout, and the chance
        that it needs rollouts."""
        law = self._chain_law(number)
        left = np.maximum(self.lengths - number * block, 0.0)
        after = np.maximum(left - block, 0.0)
        return float(np.minimum(left, block) @ law), float(after @ law), float((after > 0) @ law)

    def alive(self, number: int, block: int) -> float:
        """The chance that the chain of an ETS run takes this step."""
        return float((self.lengths > number * block) @ self._chain_law(number))

    def _chain_law(self, number: int) -> Floats:
        return (self.under_p + self.under_pi) / 2 if number else self.under_p


def independent(ess: float, tilt: Tilt, tilts: Sequence[Tilt], shape: Shape) -> Plan:
    """Independent draws, as many as make `ess` effective ones."""
    return priced(Independent(max(1, math.ceil(ess / tilt.share - 1e-9))), tilt, tilts, shape)


def guided(ess: float, tilt: Tilt, tilts: Sequence[Tilt], shape: Shape) -> Plan | None:
    """The cheapest ETS that makes `ess` effective draws; None where none of up to 4096 candidates does."""
    if not tilt.explained or tilt.share >= 1:
        return None
    blocks = sorted({max(1, round(place * shape.mean)) for place in PLACES})
    sized = [_fewest(ETS(1, rollouts, block), ess, tilt, shape) for block in blocks for rollouts in _ROLLOUTS]
    found = [sampler for sampler in sized if sampler is not None]
    return min((priced(sampler, tilt, tilts, shape) for sampler in found), key=lambda plan: plan.tokens, default=None)


def chain(ess: float, tilt: Tilt, tilts: Sequence[Tilt], shape: Shape) -> Plan | None:
    """One suffix-redraw chain; None where it needs more than 4096 steps. Its start, which is no draw from π, is left out."""
    if not tilt.per_step * _MOST > 1:  # NaN without moves
        return None
    burn = math.ceil(1 / tilt.per_step)
    steps = burn + math.ceil(ess / tilt.per_step)
    return priced(SuffixMCMC(steps, burn_in=burn), tilt, tilts, shape) if steps <= _MOST else None


def resized(plan: Plan, n: int) -> Plan:
    """A plan of independent draws with another number of them."""
    assert isinstance(plan.sampler, Independent)
    times = n / plan.sampler.n
    ess = Estimate(*(times * value for value in plan.ess))
    return replace(plan, sampler=Independent(n), ess=ess, tokens=times * plan.tokens, rated=n)


def cheapest(plans: Sequence[Plan]) -> Plan:
    """The plan of the fewest tokens; independent draws, given first, unless another is cheaper by more than its estimate errs."""
    plain = plans[0]
    cheaper = [plan for plan in plans[1:] if plan.tokens < _MARGIN[type(plan.sampler)] * plain.tokens]
    return min(cheaper, key=lambda plan: plan.tokens, default=plain)


# ----------------------------------------------------------------------------------------------- what a sampler does


def priced(sampler: Independent | ETS | SuffixMCMC, tilt: Tilt, tilts: Sequence[Tilt], shape: Shape) -> Plan:
    """What a sampler is expected to reach and to cost. tilts: bootstrap resamples of the estimates."""
    ess = Estimate.of(effective(sampler, tilt, shape), (effective(sampler, other, shape) for other in tilts))
    if isinstance(sampler, Independent):
        return Plan(sampler, ess, sampler.n * shape.mean, sampler.n, 1)
    if isinstance(sampler, SuffixMCMC):
        return Plan(sampler, ess, shape.mean + sampler.steps * tilt.redrawn, sampler.steps + 1, sampler.steps + 1)
    block = _block(sampler)
    tokens = rated = 0.0
    taken = 0
    for number in range(sampler.steps(shape.cap)):
        decided, left, unfinished = shape.step(number, block)
        alive = shape.alive(number, block)
        tokens += sampler.candidates * (decided + sampler.rollouts * left)
        rated += sampler.candidates * (alive - unfinished + sampler.rollouts * unfinished)
        taken += alive > 0
    return Plan(sampler, ess, tokens, rated, 2 * taken)


def effective(sampler: Independent | ETS | SuffixMCMC, tilt: Tilt, shape: Shape) -> float:
    """Effective draws of one run, as the module's overview has it; NaN where the pilot lacks what it takes to tell."""
    if isinstance(sampler, Independent):
        return sampler.n * tilt.share
    if isinstance(sampler, SuffixMCMC):
        return (sampler.steps - sampler.burn_in) * tilt.per_step
    if not tilt.explained or tilt.share >= 1:
        return math.nan
    seconds = _second_moments(sampler, tilt, shape)
    return (1 - tilt.share) / max(_relative_variance(sampler, seconds), 1e-12)


def _block(sampler: ETS) -> int:
    assert sampler.block is not None  # guided() makes none without
    return sampler.block


def _fewest(sampler: ETS, ess: float, tilt: Tilt, shape: Shape) -> ETS | None:
    """The sampler with the fewest candidates that reach `ess`, by steps of about a fifth; at least `ess` of them, because
    rollouts that share beginnings make no more different texts."""
    for count in _sizes(max(2, math.ceil(ess))):
        grown = replace(sampler, candidates=count)
        if effective(grown, tilt, shape) >= ess:
            return grown
    return None


def _sizes(size: int) -> Iterator[int]:
    while size <= _MOST:
        yield size
        size = max(size + 1, round(size * 1.2))


def _second_moments(sampler: ETS, tilt: Tilt, shape: Shape) -> Floats:
    """S_0..S_I: what beginnings explain, linear between the places where it was measured."""
    steps, block = sampler.steps(shape.cap), _block(sampler)
    end = max(1.0, float(shape.lengths.max()) / shape.mean)
    explained = np.maximum.accumulate(tilt.explained)  # more of a response never explains less
    shares = np.interp(np.arange(steps + 1) * block / shape.mean, [0.0, *PLACES, end], [0.0, *explained, 1.0])
    shares[-1] = 1.0
    return 1 + shares * (1 / tilt.share - 1)


def _relative_variance(sampler: ETS, seconds: Floats) -> float:
    """Var(Ẑ)/Z² of the population of all rollouts."""
    many, deep = sampler.candidates, sampler.rollouts
    grown = seconds[1:] / seconds[:-1]  # 1 + g
    noise = 1 + (seconds[-1] / seconds[1:] - 1) / deep  # 1 + ω/K
    factors = grown / many + (1 - 1 / many) * noise
    before = np.concatenate([[1.0], np.cumprod(factors[:-1])])
    squares = before * (1 + (grown * noise - 1) / many)
    crosses = before * (1 + (grown - 1) / many)
    alphas = 1 / np.arange(1, len(grown) + 1) ** 2
    alphas = alphas / alphas.sum()
    later = np.concatenate([np.cumsum(alphas[::-1])[::-1][1:], [0.0]])
    return float(np.sum(alphas**2 * squares + 2 * alphas * later * crosses)) - 1
