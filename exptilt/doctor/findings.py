"""What the pilot's draws look like."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from exptilt.doctor.pilot import Sounding
from exptilt.running.result import Result


@dataclass(frozen=True)
class Findings:
    """The draws of all prompts. Lengths are in tokens, rewards in their own units.

    mean, within, between: of finite rewards: their mean, the root mean variance within a prompt, which is what tilting works on,
        and the deviation of the prompts' means.
    excluded: share with reward -inf.
    flat: prompts whose draws all have one reward.
    poor: prompts without a draw as good as the mean of all.
    distinct: share of different texts among a prompt's draws.
    short, long: the 10 % and 90 % quantiles of the lengths.
    capped: share cut at the cap.
    drift: correlation of reward and length within prompts; NaN where one of them never varies.
    """

    prompts: int
    draws: int
    mean: float
    within: float
    between: float
    excluded: float
    flat: int
    poor: int
    distinct: float
    length: float
    short: float
    long: float
    capped: float
    drift: float

    @classmethod
    def of(cls, results: Sequence[Result], soundings: Sequence[Sounding]) -> Findings:
        drafts = [draft for result in results for draft in result.population.drafts]
        finite = [sounding.rewards[sounding.rewards > -math.inf] for sounding in soundings]
        kept = [rewards for rewards in finite if rewards.size]
        mean = float(np.mean(np.concatenate(kept))) if kept else math.nan
        means = [float(rewards.mean()) for rewards in kept]
        lengths = np.concatenate([sounding.lengths for sounding in soundings])
        short, long = np.quantile(lengths, [0.1, 0.9])
        return cls(
            prompts=len(results),
            draws=len(drafts),
            mean=mean,
            within=math.sqrt(float(np.mean([np.var(rewards) for rewards in kept]))) if kept else math.nan,
            between=float(np.std(means)) if kept else math.nan,
            excluded=float(np.mean(np.concatenate([sounding.rewards for sounding in soundings]) == -math.inf)),
            flat=sum(not sounding.varies for sounding in soundings),
            poor=sum(float(sounding.rewards.max()) < mean for sounding in soundings),
            distinct=float(np.mean([len({draft.text for draft in r.population.drafts}) / len(r.population) for r in results])),
            length=float(lengths.mean()),
            short=float(short),
            long=float(long),
            capped=float(np.mean([draft.finish == "length" for draft in drafts])),
            drift=_drift(soundings),
        )


def _drift(soundings: Sequence[Sounding]) -> float:
    """Correlation of reward and length, both about their means in the prompt."""
    rewards, lengths = [], []
    for sounding in soundings:
        held = sounding.rewards > -math.inf
        if held.sum() > 1:
            rewards.append(sounding.rewards[held] - sounding.rewards[held].mean())
            lengths.append(sounding.lengths[held] - sounding.lengths[held].mean())
    one, other = (np.concatenate(parts) if parts else np.zeros(1) for parts in (rewards, lengths))
    scale = math.sqrt(float(one @ one) * float(other @ other))
    return float(one @ other) / scale if scale > 0 else math.nan
