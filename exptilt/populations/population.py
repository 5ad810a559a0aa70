"""Populations: weighted drafts, which every sampler returns.

A random weighted set {(y_i, w_i)} is *properly weighted* for γ(y) = p(y|x)·exp(r(x,y)/β) when
E[Σ_i w_i f(y_i)] = Σ_y γ(y) f(y) for every f. Then Ẑ = Σ w_i has E[Ẑ] = Z, weighted averages are consistent for
E_π f as independent runs are pooled, and `Population.merge` of such runs is properly weighted again.

Weights are float64 logarithms on the host. The population of a Markov chain is not of this kind: its states have
equal weights that sum to one, their distribution tends to π as the chain runs, and `log_z` is None.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np

from exptilt import frames
from exptilt.draft import Draft
from exptilt.errors import AllWeightsZero, TargetError, WeightsError
from exptilt.keys import Floats, Key
from exptilt.populations.certificate import certified
from exptilt.populations.diagnostics import log_parts, log_shares, log_sum, pareto_k
from exptilt.populations.distinct import distinct_rows, log_distinct
from exptilt.populations.growth import growth
from exptilt.populations.notebook import drawn, facts, framed, heaviest, number
from exptilt.populations.resampling import systematic
from exptilt.populations.rows import rows_of


@dataclass(frozen=True, eq=False)
class Population:
    """Drafts with log-weights. Immutable.

    drafts: n drafts.
    log_w: float64 [n], log-weights in nats, the 1/n inside.
    rewards: float64 [n].
    proper: whether the weights are proper for γ; if not, Σ w means nothing and `log_z` is None.
    trace: how the sampler reached it: a `Tree`, `Generations` or `Chain` of `exptilt.samplers.trace`, another sampler's own
        frozen dataclass, or None.
    beta: β of its target; a run sets it, and None where it is unknown.
    reward_max: the reward's own upper bound, None if it gives none.
    own_logq: whether the drafts' log-probabilities are those of p, in π ∝ p·exp(r/β); not so where a proposal drew them.
    independent: whether the rows are independent draws, all that were made, each with its log-probabilities under the
        distribution that it was drawn from. Then equal responses can be counted once (`distinct`).

    Raises WeightsError for NaN or +inf weights, AllWeightsZero where every weight is zero.
    """

    drafts: Sequence[Draft]
    log_w: Floats
    rewards: Floats
    proper: bool = True
    trace: object = None
    beta: float | None = None
    reward_max: float | None = None
    own_logq: bool = True
    independent: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "drafts", tuple(self.drafts))
        for name in ("log_w", "rewards"):
            values = np.array(getattr(self, name), dtype=np.float64)
            if values.shape != (len(self.drafts),):
                raise WeightsError(f"{name} has shape {values.shape} for {len(self.drafts)} drafts: give one value per draft")
            values.setflags(write=False)
            object.__setattr__(self, name, values)
        if isinstance(self.trace, type) or not (
            self.trace is None or isinstance(self.trace, Mapping) or is_dataclass(self.trace)
        ):
            raise TypeError(f"the trace {self.trace!r} is not a record: give a frozen dataclass, or None")
        top = self.log_w.max(initial=-math.inf)
        if not top < math.inf:  # NaN included
            raise WeightsError(f"log-weights {self.log_w} contain NaN or +inf: fix the reward or the score they come from")
        if top == -math.inf:
            raise AllWeightsZero(
                f"all {len(self.drafts)} drafts have weight zero: the reward excludes everything that was drawn. "
                "Draw more, or let the reward fall to a finite value instead of -inf."
            )

    @classmethod
    def unweighted(
        cls,
        drafts: Sequence[Draft],
        rewards: Sequence[float] | Floats,
        trace: object = None,
        held: Sequence[bool] | np.ndarray[Any, np.dtype[np.bool_]] | None = None,
    ) -> Population:
        """States of a Markov chain, or draws without a target: equal weights that sum to one, no log Ẑ.

        held: bool [n], which drafts have a weight; the others have weight zero. All have one where it is not given.
        """
        rows = np.ones(len(drafts), dtype=bool) if held is None else np.asarray(held, dtype=bool)
        log_w = np.where(rows, -math.log(max(1, int(rows.sum()))), -math.inf)
        return cls(drafts, log_w, np.asarray(rewards, dtype=np.float64), proper=False, trace=trace)

    def __len__(self) -> int:
        return len(self.drafts)

    def __repr__(self) -> str:
        drafts, different = f"{len(self)} draft{'s' * (len(self) > 1)}", len({draft.tokens for draft in self.drafts})
        log_z = "no log_z" if self.log_z is None else f"log_z={self.log_z:.4g}"
        beta = "" if self.beta is None else f", beta={self.beta:g}"
        return f"Population({drafts}, {different} different, ess={self.ess:.3g}, {log_z}{beta})"

    def _repr_html_(self) -> str:
        """The population in a notebook: its numbers, how it grew, and its heaviest drafts."""
        told = [("drafts", str(len(self))), ("ESS", f"{self.ess:.1f}"), ("mean reward", number(self.mean_reward))]
        told += [] if self.log_z is None else [("log Ẑ", number(self.log_z))]
        told += [] if self.beta is None else [("β", f"{self.beta:g}")]
        grown = drawn(growth(self.trace, len(self), self.drafts[int(self.weights.argmax())].glimpse), self.rewards)
        return framed(facts(*told), grown, heaviest(self.drafts, self.weights, self.rewards, opened=True))

    @property
    def stats(self) -> Mapping[str, Any]:
        """The fields of the trace by their names, such as "acceptance" of a chain; empty without a trace."""
        if is_dataclass(self.trace):
            return MappingProxyType({item.name: getattr(self.trace, item.name) for item in fields(self.trace)})
        return MappingProxyType(self.trace if isinstance(self.trace, Mapping) else {})

    @cached_property
    def log_z(self) -> float | None:
        """log Ẑ in nats, the estimate of log Σ_y p(y)·exp(r(y)/β); None where the weights are not proper."""
        return self._log_parts[1] if self.proper else None

    @cached_property
    def weights(self) -> Floats:
        """Weights normalised to sum to one, float64 [n], read-only."""
        weights = np.exp(self._log_parts[0])
        weights.setflags(write=False)
        return weights

    @cached_property
    def _log_parts(self) -> tuple[Floats, float]:
        return log_parts(self.log_w)

    @cached_property
    def ess(self) -> float:
        """Effective sample size (Σw)²/Σw², between 1 and n, as if the drafts were independent.

        Those of ETS and SMC share prefixes and depend on each other: on random targets their number was up to five times
        too large against the variance of Ẑ (`reproduce/doctor.py`). `exptilt.doctor` compares samplers by that variance.
        """
        return float(1.0 / (self.weights * self.weights).sum())

    @property
    def even(self) -> bool:
        """Whether all drafts that have any weight have the same, as the states of a chain do."""
        held = self.log_w[self.log_w > -math.inf]
        return bool(np.all(held == held[0]))

    @cached_property
    def max_share(self) -> float:
        """The largest normalised weight: near 1 means that one draft decides everything."""
        return float(self.weights.max())

    @cached_property
    def excluded(self) -> float:
        """The share of the drafts that have weight zero, usually because the reward excludes them."""
        return int(np.count_nonzero(self.log_w == -math.inf)) / len(self)

    @property
    def k_hat(self) -> float:
        """Pareto shape of the weight tail (PSIS); above min(1 - 1/log10 n, 0.7) averages are not to be trusted."""
        return pareto_k(self.log_w)

    @cached_property
    def mean_reward(self) -> float:
        """The estimate of E_π[r]; drafts of weight zero do not count, whatever their reward."""
        if self.rewards.min() > -math.inf:
            return float((self.weights * self.rewards).sum())
        held = self.weights > 0
        return float((self.weights[held] * self.rewards[held]).sum())

    def of_target(self, beta: float, reward_max: float | None, own_logq: bool) -> Population:
        """The same with what a run knows of its target. Its numbers stay, so they are neither checked nor computed again."""
        known = object.__new__(Population)
        known.__dict__.update(self.__dict__, beta=beta, reward_max=reward_max, own_logq=own_logq)
        return known

    def kl(self, beta: float) -> float | None:
        """The estimate of KL(π‖p) = E_π[r]/β - log Z in nats; None where there is no log Ẑ."""
        return None if self.log_z is None else self.mean_reward / beta - self.log_z

    def at(self, beta: float) -> Population:
        """The same drafts weighted for another β: log w + r·(1/β' - 1/β).

        Proper weights stay proper. If E[Σ w f] = Σ γ f for every f, it holds for f·exp(r·(1/β' - 1/β)) as well, and γ times that
        factor is the γ of β': for draws and accepted draws, and for ETS and SMC after any number of selections. Only the
        variance grows, and the ESS tells how far one can go.

        Raises TargetError where the population's own β is not known, and where the weights are not proper: the states of a
        chain follow π at their own β alone.
        """
        ratio = _inverse(beta) - _inverse(self._known_beta("weighted for another one"))
        if not self.proper:
            raise TargetError(
                f"these weights are not proper, so they cannot be turned into weights for beta={beta:g}: they belong to the "
                "states of a Markov chain, to a search, or to draws that a stop rule or a shared budget ended. Run the sampler "
                "at that β, or weight the whole populations of Independent, Rejection, SMC or ETS"
            )
        held = self.log_w > -math.inf  # where the weight is zero the reward may be -inf
        return replace(self, log_w=self.log_w + ratio * np.where(held, self.rewards, 0.0), beta=beta)

    def distinct(self) -> Population:
        """Each different response once, weighted by the probability that n draws find it (`exptilt.populations.distinct`).

        Itself where its rows are not independent draws with log-probabilities.
        """
        if not self.independent:
            return self
        kept = distinct_rows(self.drafts)
        drafts = [self.drafts[row] for row in kept]
        log_w = log_distinct(drafts, self.log_w[kept] + math.log(len(self)), len(self))
        return replace(self, drafts=drafts, log_w=log_w, rewards=self.rewards[kept], independent=False)

    def certified(self, answer: Callable[[str], str | None], reward_max: float | None = None) -> str | None:
        """The answer that the drafts seen prove to be the most probable under π, or None (`exptilt.populations.certificate`).

        reward_max: an upper bound of the reward; where not given, the one that the reward tells of itself.
        Raises TargetError where β or such a bound is not known, and for log-probabilities that are not those of p.
        """
        beta, bound = self._known_beta("a ground for proofs"), self.reward_max if reward_max is None else reward_max
        if bound is None:
            raise TargetError("a proof needs an upper bound of the reward, and this reward gives none: pass reward_max")
        if not self.own_logq:
            raise TargetError(
                "the log-probabilities of these drafts are those of a proposal, or the target is a power of p, so nothing can "
                "be proved from them: draw from the engine itself, at power 1"
            )
        return certified(self, answer, beta=beta, reward_max=bound)

    def proved(self, answer: Callable[[str], str | None]) -> str | None:
        """The answer that is `certified`; None where none is, and where nothing can be proved from this population."""
        known = self.own_logq and all(draft.logq is not None and draft.order is None for draft in self.drafts)
        if self.beta is None or self.reward_max is None or not known or self.rewards.max() > self.reward_max:
            return None
        return self.certified(answer)

    def _known_beta(self, purpose: str) -> float:
        if self.beta is None:
            raise TargetError(
                f"the β of this population is unknown, so it cannot be {purpose}: use the population of a result of sample or "
                "run whose reward is fixed, or of a results file that records β"
            )
        return self.beta

    def rows(self) -> list[dict[str, Any]]:
        """One row for each draft, with the fields `exptilt.populations.rows.ROW`.

        prompt: a text, or a list of messages.
        weight: they sum to one.
        logq: log-probability of the whole response in nats; None where it is not known.
        """
        return rows_of(self.drafts, self.rewards, self.weights, self.log_w)

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` of `rows`. Raises UsageError without pandas."""
        return frames.to_pandas(self.rows())

    def to_dataset(self) -> Any:
        """A `datasets.Dataset` of `rows`, for trainers that take weights. Raises UsageError without the package datasets."""
        return frames.to_dataset(self.rows())

    def log_mean(self, values: Sequence[float] | Floats) -> float:
        """log of the weighted mean of exp(values): values in nats, float64 [n]."""
        return log_sum(log_shares(self.log_w) + np.asarray(values, dtype=np.float64))

    def resample(self, key: Key, size: int | None = None) -> Population:
        """`size` drafts (default n) drawn by systematic resampling, with equal weights and the same Ẑ."""
        size = len(self) if size is None else size
        rows = systematic(self.weights, size, key)
        log_w = np.full(size, log_sum(self.log_w) - math.log(size))
        drafts = [self.drafts[row] for row in rows]
        return replace(self, drafts=drafts, log_w=log_w, rewards=self.rewards[rows], independent=False)

    @staticmethod
    def merge(populations: Sequence[Population], dead: int = 0) -> Population:
        """Pool independent runs of one sampler on one target: each run's weights divided by the number of runs.

        dead: how many other runs ended with AllWeightsZero. Their Ẑ is 0 and counts in the mean: without them log Ẑ would
        be too large by -log of the share of runs alive. Chains that never met an allowed state contribute nothing.
        Raises AllWeightsZero where no run is alive.
        """
        if dead < 0 or (not populations and not dead):
            raise ValueError(f"nothing to merge: give at least one population, and dead={dead} as a count of 0 or more")
        if not populations:
            raise AllWeightsZero(f"each of the {dead} runs has weight zero: draw more, or let the reward exclude less")
        if len({population.proper for population in populations}) > 1:
            raise WeightsError("cannot merge proper weights with a Markov chain's: pool runs of one kind of sampler")
        first = populations[0]
        alike = all((each.beta, each.reward_max) == (first.beta, first.reward_max) for each in populations)
        runs = len(populations) + (dead if first.proper else 0)
        equal = not dead and len({len(each) for each in populations}) == 1
        return Population(
            [draft for population in populations for draft in population.drafts],
            np.concatenate([population.log_w for population in populations]) - math.log(runs),
            np.concatenate([population.rewards for population in populations]),
            proper=first.proper,
            beta=first.beta if alike else None,
            reward_max=first.reward_max if alike else None,
            own_logq=all(each.own_logq for each in populations),
            independent=equal and all(each.independent for each in populations),
        )


def _inverse(beta: float) -> float:
    """1/β. Raises ValueError where that is not a positive finite number."""
    if not (0 < beta < math.inf and 1.0 / beta < math.inf):
        raise ValueError(f"beta={beta} must be a positive finite number, and 1/beta too")
    return 1.0 / beta
