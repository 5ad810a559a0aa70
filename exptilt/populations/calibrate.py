"""Choosing β from a pilot: rewards of responses drawn from p itself, before anything is tilted.

With rewards r_1..r_n of such draws and w_i ∝ exp(r_i/β), normalised, the tilt is estimated to cost

    KL(π‖p) = log n + Σ w_i log w_i,        ESS/n = 1/(n Σ w_i²);

KL falls and ESS rises with β, so a target for either gives one β (`choose_beta`). For Gaussian rewards of standard
deviation σ, KL = σ²/(2β²) and ESS/n = exp(-σ²/β²).

So does the rate at which a chain on π accepts a whole new response from p, E[min(1, exp((r' - r)/β))] with r of π and r' of p:

    acceptance = Σ_{i≠j} min(w_i, w_j)/(n - 1).

Chains that keep the start of a response, such as QAlign's, accept more often than that.

Best-of-n has no β, but for Gaussian rewards its typical reward is the tilt's at β ≈ σ_d/sqrt(2·log(n·ω_d)), with σ_d
and ω_d of the dominant part of a two-Gaussian fit (QAlign: Faria and Smith, 2504.03790, eq. 10 and appendix A).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from exptilt.keys import Floats
from exptilt.populations.diagnostics import log_sum
from exptilt.populations.population import Population

Pilot = Sequence[float] | Floats | Population
"""Rewards of draws from p; or the population of `Independent` without a proposal, of any β, whose rewards are taken."""


def choose_beta(rewards: Pilot, *, kl: float | None = None, ess: float | None = None, acceptance: float | None = None) -> float:
    """The β at which the pilot's estimate of KL(π‖p) is `kl` nats, its ESS the share `ess`, or the rate of a chain `acceptance`.

    Give exactly one, `kl` > 0, 0 < `ess` < 1 or 0 < `acceptance` < 1. Drafts of reward -inf count as drawn and excluded. n draws
    cannot show a KL above log n, and are a poor judge of one near it: keep `kl` below log n by 2 nats or more.
    Raises ValueError with the attainable range where no β reaches the target.
    """
    values = _rewards(rewards)
    measures = {"kl": (kl, tilt_kl), "ess": (ess, tilt_ess), "acceptance": (acceptance, tilt_acceptance)}
    given = [(name, target, measure) for name, (target, measure) in measures.items() if target is not None]
    if len(given) != 1:
        raise ValueError(
            f"choose_beta(kl={kl}, ess={ess}, acceptance={acceptance}): give exactly one of kl (nats), ess (share of the "
            "draws) and acceptance (share of the moves)"
        )
    [(name, target, measure)] = given
    finite = values[values > -math.inf]
    at_zero = measure(np.where(values == values.max(), 0.0, -math.inf), 1.0)
    at_infinity = measure(np.where(values > -math.inf, 0.0, -math.inf), 1.0)
    low, high = sorted((at_zero, at_infinity))
    if not low < target < high:
        raise ValueError(
            f"no beta gives {name}={target:g} with these {len(values)} rewards: {name} lies between {low:.4g} and {high:.4g}. "
            "Ask for a value inside, or draw a larger pilot."
        )
    rising = at_infinity > at_zero
    return _bisect(lambda beta: (measure(values, beta) < target) == rising, float(finite.max() - finite.min()))


def tilt_kl(rewards: Sequence[float] | Floats, beta: float) -> float:
    """KL(π‖p) in nats, estimated from rewards of draws from p: log n + Σ w log w, between 0 and log n."""
    log_w = _log_weights(rewards, beta)
    held = log_w > -math.inf
    return max(0.0, math.log(len(log_w)) + float(np.sum(np.exp(log_w[held]) * log_w[held])))


def tilt_ess(rewards: Sequence[float] | Floats, beta: float) -> float:
    """ESS at β as a share of the draws from p, between 1/n and 1."""
    return math.exp(-log_sum(2.0 * _log_weights(rewards, beta))) / len(rewards)


def tilt_acceptance(rewards: Sequence[float] | Floats, beta: float) -> float:
    """The rate at which a chain on π accepts a whole new draw from p, estimated from rewards of draws from p, between 0 and 1."""
    weights = np.sort(np.exp(_log_weights(rewards, beta)))
    above = np.arange(len(weights))[::-1]  # how many are no smaller than each
    return 2.0 * float(weights @ above) / (len(weights) - 1)


def _log_weights(rewards: Sequence[float] | Floats, beta: float) -> Floats:
    """log of exp(r/β) normalised to sum to one."""
    if not 0 < beta < math.inf:
        raise ValueError(f"beta={beta} must be a positive finite number")
    values = np.asarray(rewards, dtype=np.float64)
    with np.errstate(over="ignore"):  # a value that underflows to -inf here would have weight zero anyway
        log_w = (values - values.max()) / beta
    return log_w - log_sum(log_w)


def _bisect(too_small: Callable[[float], bool], scale: float) -> float:
    """The β at which `too_small` turns from true to false, by bisection on log β around `scale`."""
    low = high = scale
    while not too_small(low):
        low /= 4.0
    while too_small(high):
        high *= 4.0
    while high / low > 1 + 1e-12:
        middle = math.sqrt(low) * math.sqrt(high)
        if not low < middle < high:
            break
        low, high = (middle, high) if too_small(middle) else (low, middle)
    return math.sqrt(low) * math.sqrt(high)


# --------------------------------------------------------------------------------------------------------- best-of-n


@dataclass(frozen=True)
class Gaussian:
    """One normal part of a mixture: its share of the mass, its mean and its standard deviation, in units of the reward."""

    share: float
    mean: float
    sd: float


def beta_of_best_of_n(rewards: Pilot, n: float) -> float:
    """The β whose tilt resembles best-of-n: σ_d/sqrt(2·log(n·ω_d)).

    It matches the modes of two limits for large n, and overstates the tilt: for one Gaussian and n = 100 the tilt has
    mean reward μ + 3.03σ and KL log n, best-of-n has μ + 2.51σ and KL of about log n - 1 (for equal mean rewards, pass
    the rewards and KL = log n - 1 to `choose_beta`). Raises ValueError where n·ω_d ≤ 1.
    """
    part = dominant(rewards)
    if not 1 < n * part.share < math.inf:
        raise ValueError(
            f"n={n} draws hold {n * part.share:.3g} of the dominant part of the rewards: take n above {1 / part.share:.3g}"
        )
    return part.sd / math.sqrt(2.0 * math.log(n * part.share))


def best_of_n_of_beta(rewards: Pilot, beta: float) -> float:
    """The n (not rounded) whose best-of-n resembles the tilt at β: exp(σ_d²/(2β²))/ω_d, the inverse of the above.

    Raises ValueError where it exceeds what a float holds: no number of draws corresponds to so small a β.
    """
    if not 0 < beta < math.inf:
        raise ValueError(f"beta={beta} must be a positive finite number")
    part = dominant(rewards)
    log_n = 0.5 * (part.sd / beta) ** 2 - math.log(part.share)
    if log_n > 700:
        least = part.sd / math.sqrt(2 * 690)
        raise ValueError(f"beta={beta:g} amounts to best-of-n with log n = {log_n:.4g}: take a beta above {least:.3g}")
    return math.exp(log_n)


def dominant(rewards: Pilot) -> Gaussian:
    """The part of `mixture` that governs the far upper tail: the wider one, or of equally wide ones the higher."""
    parts = mixture(rewards)
    alike = math.isclose(parts[0].sd, parts[-1].sd, rel_tol=1e-2)
    return max(parts, key=lambda one: one.mean if alike else one.sd)


def mixture(rewards: Pilot) -> tuple[Gaussian, ...]:
    """Two Gaussians fitted to rewards by maximum likelihood; one where a second gains less than its three parameters cost (BIC).

    Rewards of -inf count only by lowering the shares. Raises ValueError for fewer than 10 finite rewards or fewer
    than 5 distinct ones, which no Gaussian describes.
    """
    values = _rewards(rewards)
    finite = values[values > -math.inf]
    if finite.size < 10 or np.unique(finite).size < 5:
        raise ValueError(
            f"{finite.size} finite rewards with {np.unique(finite).size} distinct values: the fit needs 10 or more, 5 of them "
            "distinct. Draw a larger pilot; for rewards of a few levels use choose_beta."
        )
    kept = finite.size / values.size
    mean, sd = float(finite.mean()), float(finite.std())
    scaled = (finite - mean) / sd
    fits = [_mixture(scaled, start) for start in _starts(scaled)]
    log_like, parts = max(fits, key=lambda fit: fit[0])
    single = -0.5 * finite.size * (1.0 + math.log(2.0 * math.pi))
    if log_like - single <= 1.5 * math.log(finite.size):
        return (Gaussian(kept, mean, sd),)
    return tuple(Gaussian(kept * part.share, mean + sd * part.mean, sd * part.sd) for part in parts)


@dataclass(frozen=True)
class Tilted:
    """What π is where p's rewards are a mixture. parts: of its rewards. mean: E_π[r]. log_z, kl: log Z and KL(π‖p) in nats."""

    parts: tuple[Gaussian, ...]
    mean: float
    log_z: float
    kl: float


def tilted(rewards: Pilot, beta: float) -> Tilted:
    """π at β from the `mixture` of a pilot's rewards, in closed form (QAlign, appendix E).

    The factor exp(r/β) moves a part's mean by σ²/β, leaves its σ, and multiplies its share by exp(μ/β + σ²/(2β²)); so the part
    that leads under p need not lead under π. A fit sees beyond the highest draw, as the weighted pilot of `tilt_kl` cannot, and
    is as good as the rewards are Gaussian there. Raises ValueError as `mixture` does.
    """
    if not 0 < beta < math.inf:
        raise ValueError(f"beta={beta} must be a positive finite number")
    parts = mixture(rewards)
    log_shares = np.array([math.log(part.share) + part.mean / beta + 0.5 * (part.sd / beta) ** 2 for part in parts])
    log_z = log_sum(log_shares)
    shares = np.exp(log_shares - log_z).tolist()
    moved = tuple(Gaussian(share, part.mean + part.sd**2 / beta, part.sd) for share, part in zip(shares, parts, strict=True))
    mean = sum(part.share * part.mean for part in moved)
    return Tilted(moved, mean, log_z, mean / beta - log_z)


def _starts(values: Floats) -> list[Floats]:
    """Where EM begins: each value's share [n] in the second part, for splits by rank, and for centre against rim."""
    ranks = np.argsort(np.argsort(values, kind="stable"), kind="stable") / values.size
    far = np.abs(values - np.median(values))
    hard = [ranks >= cut for cut in (0.1, 0.25, 0.5, 0.75, 0.9)] + [far >= np.quantile(far, cut) for cut in (0.5, 0.8)]
    return [np.where(side, 0.95, 0.05) for side in hard]


def _mixture(values: Floats, second: Floats) -> tuple[float, tuple[Gaussian, Gaussian]]:
    """EM for two Gaussians on values of variance 1, from the second part's shares: log-likelihood (nats) and the parts."""
    log_like, shares, rounds = -math.inf, np.stack([1.0 - second, second]), 0
    while True:
        parts = _weighted_gaussian(values, shares[0]), _weighted_gaussian(values, shares[1])
        log_parts = np.array([_log_density(values, part) for part in parts])
        totals = np.logaddexp(log_parts[0], log_parts[1])
        before, log_like, rounds = log_like, float(np.sum(totals)), rounds + 1
        if log_like - before < 1e-7 * values.size or rounds == 500:
            return log_like, parts
        shares = np.exp(log_parts - totals)


def _weighted_gaussian(values: Floats, share: Floats) -> Gaussian:
    """The Gaussian of values counted by share; its sd is kept above 0.05, or EM would settle on a few equal values."""
    mass = max(float(np.sum(share)), 1e-12)
    mean = float(np.sum(share * values)) / mass
    variance = float(np.sum(share * (values - mean) ** 2)) / mass
    return Gaussian(mass / values.size, mean, max(math.sqrt(variance), 0.05))


def _log_density(values: Floats, part: Gaussian) -> Floats:
    """log of the part's share times its density at the values."""
    return math.log(part.share) - 0.5 * ((values - part.mean) / part.sd) ** 2 - math.log(part.sd * math.sqrt(2.0 * math.pi))


def _rewards(rewards: Pilot) -> Floats:
    """The pilot's rewards, float64 [n], checked."""
    if isinstance(rewards, Population):
        _check_independent(rewards)
        values = rewards.rewards
    else:
        values = np.asarray(rewards, dtype=np.float64)
    if values.ndim != 1 or values.size < 2 or np.any(np.isnan(values) | (values == math.inf)):
        raise ValueError(f"a pilot of shape {values.shape}: give two rewards or more, without NaN and +inf")
    if values.max() == -math.inf:
        raise ValueError(f"all {values.size} rewards are -inf: draw a larger pilot, or fix the reward")
    return values


def _check_independent(population: Population) -> None:
    """Refuse populations not drawn from p alone: those of `Independent` have log-weights linear in the reward."""
    held = population.log_w > -math.inf
    rewards, log_w = population.rewards[held], population.log_w[held]
    spread = rewards - rewards.mean()
    slope = float(spread @ log_w) / max(float(spread @ spread), 1e-300)
    off = np.max(np.abs(log_w - log_w.mean() - slope * spread))
    if not population.proper or off > 1e-6 * max(1.0, float(np.max(np.abs(log_w)))):
        raise ValueError("the pilot was not drawn from p alone: give a population of Independent(n) without a proposal")
