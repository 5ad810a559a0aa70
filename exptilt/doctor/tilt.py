"""What a pilot says about tilting p by exp(r/β): estimates in the mean over prompts, with their uncertainty.

With h = exp(r/β)/Z, so that E_p[h] = 1, for one prompt:

- ESS share 1/(1+χ²), χ² = Var_p(h), and KL(π‖p): as in `exptilt.populations.calibrate`, from the draws;
- what a prefix explains: Var_p(E[h | prefix])/χ², the correlation of h between a draft and its fork;
- the losses that a prefix shows: of the forks whose h is next to nothing beside the best draw's, the share that had ended one
  token after the cut, or that had a bound (`exptilt.rating.Bounded`) that tells as much;
- acceptance of `SuffixMCMC`, min(1, exp((r'-r)/β)·n/n') in the mean over π: the average over drafts and their moves with
  weights h.

Prompts whose draws all have one reward say nothing about β and are left out. Intervals are 95 % bootstrap intervals
over prompts, or over the draws where there is one prompt.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from exptilt.doctor.pilot import PLACES, Sounding
from exptilt.evaluation.pools import best_at_k
from exptilt.keys import Floats, Key
from exptilt.populations.calibrate import tilt_ess, tilt_kl
from exptilt.populations.diagnostics import is_heavy, pareto_k

_EDGE = 0.1  # of the range of KL or ESS, at whose ends β hardly matters
_LOST = math.log(0.01)  # a draw is lost whose log h is so far below that of the prompt's best draw
_HIGHEST = 300.0  # of log h above the best draw's: its square is still finite


class Estimate(NamedTuple):
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, others: Iterable[float]) -> Estimate:
        """A value with the quantiles of its bootstrap resamples; resamples that are NaN are left out."""
        kept = [other for other in others if not math.isnan(other)]
        if not kept:
            return cls(value, value, value)
        low, high = np.quantile(kept, [0.025, 0.975])
        return cls(value, float(low), float(high))


@dataclass(frozen=True)
class Tilt:
    """Means over prompts at one β.

    share: ESS as a share of draws from p.
    kl: KL(π‖p), nats.
    explained: the share of Var_p(exp(r/β)) that a prefix of each of `PLACES` mean lengths explains; empty without forks.
    lost: the share of the lost draws that are seen to be lost by then; empty without forks, or where none is lost.
    acceptance: that of suffix redraws under π; NaN without moves.
    """

    beta: float
    share: float
    kl: float
    explained: tuple[float, ...] = ()
    lost: tuple[float, ...] = ()
    acceptance: float = math.nan


def measure(soundings: Sequence[Sounding], beta: float) -> Tilt:
    """The estimates at β from the prompts whose reward varies, of which there must be one."""
    varied = [sounding for sounding in soundings if sounding.varies]
    if not varied:
        raise ValueError(f"no reward varies on any of {len(soundings)} prompts: no tilt can be measured")
    complete = [sounding for sounding in varied if len(sounding.forks) == len(PLACES)]
    return Tilt(
        beta,
        float(np.mean([tilt_ess(sounding.rewards, beta) for sounding in varied])),
        float(np.mean([tilt_kl(sounding.rewards, beta) for sounding in varied])),
        tuple(_explained(complete, place, beta) for place in range(len(PLACES))) if complete else (),
        _losses(complete, beta),
        _acceptance(varied, beta),
    )


def tilted(rewards: Floats, among: Floats, beta: float) -> Floats:
    """h of each reward: exp(r/β) over the mean of the same `among` draws from p."""
    top = float(among.max())
    powers = np.minimum((rewards - top) / beta, _HIGHEST)
    return np.exp(powers) / float(np.mean(np.exp((among - top) / beta)))


def _explained(soundings: Sequence[Sounding], place: int, beta: float) -> float:
    """Cov(h, h')/Var(h) over drafts and forks, both summed over prompts before they are divided; between 0 and 1.

    The common mean m of the G pairs is taken from them, which costs covariance and variance Var(m) = (variance +
    covariance)/(2G) each; it is given back.
    """
    covariance = variance = 0.0
    for sounding in soundings:
        fork = sounding.forks[place]
        count = len(fork.rewards)
        old = tilted(sounding.rewards[:count], sounding.rewards, beta)
        new = tilted(fork.rewards, sounding.rewards, beta)
        centre = float(np.mean(old + new)) / 2
        product = float(np.mean((old - centre) * (new - centre)))
        square = float(np.mean((old - centre) ** 2 + (new - centre) ** 2)) / 2
        lost = (product + square) / (2 * (count - 1))
        covariance, variance = covariance + product + lost, variance + square + lost
    return min(1.0, max(0.0, covariance / variance)) if variance > 0 else 0.0


def _losses(soundings: Sequence[Sounding], beta: float) -> tuple[float, ...]:
    """The share of lost draws whose prefixes show it, at each of `PLACES`; empty where no draw is lost."""
    seen, count = np.zeros(len(PLACES)), np.zeros(len(PLACES))
    for sounding in soundings:
        top = float(sounding.rewards.max())
        for place, fork in enumerate(sounding.forks):
            lost, told = ((values - top) / beta < _LOST for values in (fork.rewards, fork.bounds))
            seen[place] += float((lost & told).sum())
            count[place] += float(lost.sum())
    return tuple((seen / count).tolist()) if count.all() else ()


def _acceptance(soundings: Sequence[Sounding], beta: float) -> float:
    """How likely a suffix redraw is accepted under π, the mean over prompts; NaN without moves."""
    found = [share for sounding in soundings if (share := _accepted(sounding, beta)) is not None]
    return float(np.mean(found)) if found else math.nan


def _accepted(sounding: Sounding, beta: float) -> float | None:
    """The same for one prompt, over its drafts that are possible under π; None where there are none, or no moves."""
    if sounding.moves is None:
        return None
    rows = np.flatnonzero(sounding.rewards[: len(sounding.moves.rewards)] > -math.inf)
    if not rows.size:
        return None
    lengths, rewards, moved = sounding.lengths[rows], sounding.rewards[rows], sounding.moves.take(rows)
    accepted = np.exp(np.minimum(0.0, (moved.rewards - rewards) / beta + np.log(lengths / moved.lengths)))
    return float(accepted @ tilted(rewards, rewards, beta)) / rows.size


def heavy_tails(soundings: Sequence[Sounding], beta: float) -> int:
    """The number of prompts on which k̂ of exp(r/β) is above its limit, among those where a tail can be fitted."""
    return sum(is_heavy(pareto_k(each.rewards / beta), len(each.rewards)) for each in soundings if each.varies)


def resample(soundings: Sequence[Sounding], times: int, seed: int) -> list[list[Sounding]]:
    """Bootstrap resamples of the prompts whose reward varies; of the draws where that is one prompt."""
    varied = [sounding for sounding in soundings if sounding.varies]
    generator = Key(seed, "bootstrap").rng()
    if len(varied) == 1:
        drawn = [[varied[0].resampled(generator)] for _ in range(times)]
        return [sample for sample in drawn if sample[0].varies]
    return [[varied[row] for row in generator.integers(0, len(varied), len(varied))] for _ in range(times)]


# ------------------------------------------------------------------------------------------------------- choosing β


def best_of(soundings: Sequence[Sounding], beta: float) -> int | None:
    """The smallest k whose best-of-k has at least the mean reward of π, over the prompts whose reward varies; None where all
    the draws have less. Excluded draws count as the worst of the others."""
    varied = [
        np.maximum(sounding.rewards, sounding.rewards[sounding.rewards > -math.inf].min())
        for sounding in soundings
        if sounding.varies
    ]
    wanted = np.mean([tilted(rewards, rewards, beta) @ rewards / len(rewards) for rewards in varied])
    for k in range(1, min(map(len, varied)) + 1):
        if np.mean([best_at_k(rewards, rewards, k) for rewards in varied]) >= wanted:
            return k
    return None


def attainable_kl(soundings: Sequence[Sounding]) -> float:
    """The mean KL as β → 0, where π is p given the best reward seen: the mean of -log of the share that has it, nats."""
    tops = [np.mean(sounding.rewards == sounding.rewards.max()) for sounding in soundings if sounding.varies]
    return float(np.mean(-np.log(tops)))


def common_beta(soundings: Sequence[Sounding], *, kl: float | None = None, share: float | None = None) -> float:
    """The one β at which the mean over prompts of KL(π‖p) is `kl` nats, or that of the ESS share is `share`; give exactly one.

    As `exptilt.choose_beta`, whose mean over prompts it takes. A value beyond what any β reaches with these rewards, or within a
    tenth of the end of that range, where β hardly matters, is moved to that distance from the end; 1 where all β give the same.
    """
    varied = [sounding.rewards for sounding in soundings if sounding.varies]
    if (kl is None) == (share is None):
        raise ValueError(f"common_beta(kl={kl}, share={share}): give exactly one")
    function, wanted = (tilt_kl, kl) if kl is not None else (tilt_ess, share)
    assert wanted is not None
    scale = max(float(np.ptp(rewards[rewards > -math.inf])) for rewards in varied)
    if scale == 0:
        return 1.0

    def mean(log_beta: float) -> float:
        return float(np.mean([function(rewards, math.exp(log_beta)) for rewards in varied]))

    low, high = math.log(scale) - 9, math.log(scale) + 7
    least, most = sorted((mean(low), mean(high)))
    margin = _EDGE * (most - least)
    return math.exp(_crossing(mean, min(max(wanted, least + margin), most - margin), low, high))


def _crossing(function: Callable[[float], float], value: float, low: float, high: float) -> float:
    """Where a monotone function takes a value that it has between `low` and `high`, to 1e-6."""
    rising = function(high) > function(low)
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if (function(middle) < value) == rising else (low, middle)
    return (low + high) / 2
