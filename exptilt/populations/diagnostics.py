"""Numbers that say how far a population can be trusted. Arrays in, floats out; log-weights in nats.

- `pareto_k`: is the weight tail so heavy that averages do not settle? (Vehtari, Simpson, Gelman, Yao and Gabry,
  "Pareto smoothed importance sampling", 1507.02646)
- `r_hat`: have several Markov chains reached the same distribution? (Vehtari, Gelman, Simpson, Carpenter and Bürkner,
  "Rank-normalization, folding, and localization", 1903.08008)
- `log_z_error`: how sure is log Ẑ, from independent runs?
- `chi_square`: the χ² divergence that an effective sample size amounts to.

`exptilt.populations.warnings` says all of it in plain words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from exptilt.keys import Floats

_SMALL_TAIL = 5  # fewer values say nothing about the shape of a tail
_TIE = 1e-9  # weights with a smaller relative difference are equal up to rounding


def log_sum(values: Floats) -> float:
    """log Σ exp(values), safe against overflow; -inf for none, or for values that are all -inf."""
    top = float(values.max(initial=-math.inf))
    return top if top == -math.inf else top + math.log(float(np.exp(values - top).sum()))


def log_shares(log_w: Floats) -> Floats:
    """Log-weights less the log of their sum, float64 [n]: their exponentials sum to one. log_w has a finite maximum.

    The maximum goes first. In log_w - log_sum(log_w) the log n of the sum is rounded away beyond about 1e8 nats.
    """
    return log_parts(log_w)[0]


def log_parts(log_w: Floats) -> tuple[Floats, float]:
    """`log_shares` and `log_sum` of the same log-weights."""
    top = log_w.max()
    below_top = log_w - top
    rest = math.log(float(np.exp(below_top).sum()))
    return below_top - rest, float(top) + rest


# ------------------------------------------------------------------------------------------------------ weight tails


def pareto_k(log_w: Sequence[float] | Floats) -> float:
    """Shape k̂ of a generalised Pareto distribution fitted to the largest weights; never NaN.

    log_w: float64 [n], nats, any constant added; -inf is a weight of zero. The tail is what exceeds the (M+1)-th
    largest weight, M = min(0.2·n, 3·sqrt(n)) rounded down. Moments of order 1/k and above do not exist: averages have
    a finite variance for k < 1/2, and settle at a practical rate up to about min(1 - 1/log10 n, 0.7).

    Returns -inf where nothing exceeds the threshold, so that the tail is bounded (equal weights, say), and inf where
    1 to 4 weights do: too few to fit, as for every n below 25.
    Raises ValueError for no weights, NaN or +inf.
    """
    weights = np.sort(np.asarray(log_w, dtype=np.float64))
    if weights.ndim != 1 or weights.size == 0 or not weights[-1] < math.inf:
        raise ValueError(f"log-weights of shape {np.shape(log_w)} have no tail: give at least one, without NaN and +inf")
    if weights[-1] == -math.inf or weights[-1] - weights[0] <= _TIE:
        return -math.inf
    tail = max(1, _tail_length(weights.size))
    # Weights below e^-600 of the largest are zero to it; the bound keeps every later product finite.
    threshold = max(float(weights[-tail - 1]), float(weights[-1]) - 600.0)
    exceedances = np.expm1(weights[-tail:] - threshold)
    exceedances = exceedances[exceedances > _TIE]
    if exceedances.size < _SMALL_TAIL:
        return math.inf if exceedances.size else -math.inf
    return _pareto_shape(exceedances)


def _tail_length(count: int) -> int:
    """M, how many of `count` weights make up the tail."""
    return math.floor(min(0.2 * count, 3.0 * math.sqrt(count)))


def _pareto_shape(values: Floats) -> float:
    """Shape k of the distribution with density (1/σ)(1 + k·x/σ)^(-1/k - 1), from n positive values in ascending order.

    Zhang and Stephens (Technometrics 51, 2009): average θ = -k/σ over a grid by the profile likelihood
    ℓ(θ) = n·(log(-θ/k(θ)) - k(θ) - 1) with k(θ) = mean log(1 - θ·x), under their prior; k(θ̂) is the estimate. Then
    the weakly informative prior of PSIS draws it towards 1/2 with the strength of 10 values.
    """
    count = values.size
    grid = 30 + math.isqrt(count)
    steps = 1.0 - np.sqrt(grid / (np.arange(1, grid + 1) - 0.5))
    quartile = values[max(0, math.floor(count / 4 + 0.5) - 1)]
    theta = 1.0 / values[-1] + steps / (3.0 * quartile)
    theta[theta == 0.0] = 1e-12 / values[-1]  # the exponential distribution, where the formula is 0/0
    shapes = np.mean(np.log1p(-theta[:, None] * values), axis=1)
    log_like = count * (np.log(-theta / shapes) - shapes - 1.0)
    best = float(np.sum(theta * np.exp(log_like - log_sum(log_like))))
    shape = float(np.mean(np.log1p(-best * values)))
    return (count * shape + 10 * 0.5) / (count + 10)


def chi_square(ess: float, n: int) -> float:
    """χ² of π from the distribution drawn from, as far as n weights with this ESS tell: n/ESS - 1, at most n - 1."""
    if not 0 < ess <= n * (1 + _TIE):
        raise ValueError(f"ess={ess} of n={n} weights is impossible: the effective sample size lies between 1 and n")
    return max(0.0, n / ess - 1.0)


def log_z_error(log_zs: Sequence[float] | Floats) -> float:
    """Standard error (nats) of the log of the mean of Ẑ over independent runs, by the delta method.

    log_zs: log Ẑ of R ≥ 2 runs; -inf for a run whose weights were all zero. se(mean Ẑ)/mean Ẑ. Where a few runs hold
    most of Ẑ it is too small, as every such error is: look at k̂ as well. Raises ValueError for one run, or Ẑ = 0.
    """
    values = np.asarray(log_zs, dtype=np.float64)
    if values.ndim != 1 or values.size < 2 or not -math.inf < values.max(initial=-math.inf) < math.inf:
        raise ValueError(f"log Ẑ of {values.size} runs, {values}: a standard error needs two runs or more, with a positive mean")
    estimates = np.exp(values - values.max())
    return float(np.std(estimates, ddof=1) / math.sqrt(values.size) / np.mean(estimates))


# ------------------------------------------------------------------------------------------------------ Markov chains


def r_hat(chains: Sequence[Sequence[float]] | Floats) -> float | None:
    """Rank-normalised split R̂ of chains [chains, steps], the larger of bulk and folded; near 1 where they agree.

    Every chain is cut into halves, so that one chain can disagree with itself. -inf counts as one below the lowest
    finite value. Returns inf where each half stays at a value of its own, and None where R̂ is not defined: fewer
    than 4 steps, or one and the same value everywhere. Raises ValueError for NaN and +inf.
    """
    values = np.asarray(chains, dtype=np.float64)
    low, high = values.min(initial=math.inf), values.max(initial=-math.inf)
    if values.ndim != 2 or not high < math.inf:  # NaN included
        raise ValueError(f"chains of shape {values.shape}: give an array [chains, steps] without NaN and +inf")
    half = values.shape[1] // 2
    if half < 2 or low == high:
        return None
    if low == -math.inf:
        values = np.where(np.isfinite(values), values, np.min(values[np.isfinite(values)]) - 1.0)
    halves = np.concatenate([values[:, :half], values[:, -half:]])
    if halves.min() == halves.max():
        return None
    ordered = np.sort(halves, axis=None)
    median = (ordered[(halves.size - 1) // 2] + ordered[halves.size // 2]) / 2
    return max(_split_r_hat(_normal_scores(x)) for x in (halves, np.abs(halves - median)))


def _normal_scores(values: Floats) -> Floats:
    """Each value replaced by the standard normal quantile of its rank among all; ties share their mean rank."""
    ordered = np.sort(values, axis=None)
    twice = ordered.searchsorted(values) + ordered.searchsorted(values, side="right") + 1
    return _quantiles(values.size)[twice - 2]


@lru_cache(maxsize=64)
def _quantiles(count: int) -> Floats:
    """Normal quantiles of the ranks 1, 1.5, 2, ..., `count` among so many values."""
    inverse = NormalDist().inv_cdf
    return np.array([inverse((twice / 2 - 0.375) / (count + 0.25)) for twice in range(2, 2 * count + 1)])


def _split_r_hat(chains: Floats) -> float:
    """sqrt(((n-1)/n·W + V)/W): W the mean variance within chains [m, n], V the variance of their means."""
    count, steps = chains.shape
    means = chains.sum(axis=1) / steps
    within = float(((chains - means[:, None]) ** 2).sum()) / (count * (steps - 1))
    between = float(((means - means.sum() / count) ** 2).sum()) / (count - 1)
    if within == 0.0:
        return math.inf if between > _TIE else 1.0
    return math.sqrt((steps - 1) / steps + between / within)


# ------------------------------------------------------------------------------------------------------ limits


def k_limit(count: int) -> float:
    """The k̂ above which averages over `count` weights, two at least, do not settle at a practical rate."""
    return min(1.0 - 1.0 / math.log10(count), 0.7)


def is_heavy(k_hat: float, count: int) -> bool:
    """Whether averages over `count` weights do not settle: k̂ above its limit, where there are enough to fit a tail."""
    return count > 1 and k_limit(count) < k_hat < math.inf
