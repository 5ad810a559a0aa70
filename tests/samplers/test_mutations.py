"""Known bugs of published samplers, put in on purpose: the exactness checks must notice every one of them.

Each test first holds the sampler to the check, then breaks one thing and demands that the same check fails.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from exptilt.blocks import BlockSize
from exptilt.core import Sampler, Target
from exptilt.draft import Draft
from exptilt.engines.table import TableEngine
from exptilt.keys import Floats
from exptilt.samplers import ETS, SMC, Independent, SuffixMCMC, common, ets, independent, mcmc, particles, smc
from exptilt.samplers.mcmc import State
from exptilt.testing.enumeration import distance, expected_weights
from exptilt.testing.toys import Toy, autoregressive
from tests.samplers.test_mcmc import matrix, suffix_states

NOTICED = 1e-3  # a thousand times a million the 1e-9 that the right sampler keeps


def error_of(sampler: Sampler, toy: Toy) -> float:
    return distance(expected_weights(sampler, toy.target), toy.gamma)


def imbalance(sampler: SuffixMCMC, toy: Toy) -> float:
    """How far one transition carries the chain's stationary law away from p^α·exp(r/β)/Z."""
    log_p = np.array(list(toy.target.engine.enumerate().values()))  # type: ignore[attr-defined]
    law = np.array(list(toy.gamma.values())) * np.exp((sampler.power - 1) * log_p)
    law /= law.sum()
    table = matrix(sampler, toy.target, suffix_states(sampler, toy), lambda state: state.draft.tokens)
    return float(np.abs(law @ table - law).max())


def patch_ratio(monkeypatch: pytest.MonkeyPatch, broken: Any) -> None:
    for module in (common, independent, ets, smc):
        monkeypatch.setattr(module, "log_ratio", broken)


def test_ratio_over_the_whole_response(monkeypatch: pytest.MonkeyPatch) -> None:
    """Published ETS-IS: p/q over the whole response, although q drew only the rollout."""
    toy, sampler = autoregressive(1, proposal=True), ETS(2, 1, 2)
    assert error_of(sampler, toy) < 1e-9

    def whole(target: Target, drafts: Sequence[Draft], starts: Sequence[int]) -> Floats:
        assert target.proposal is not None
        pairs = zip(target.engine.score(drafts), target.proposal.score(drafts), strict=True)
        return np.array([np.sum(p) - np.sum(q) for p, q in pairs])

    patch_ratio(monkeypatch, whole)
    assert error_of(sampler, toy) > NOTICED


def test_clipped_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clip on the log ratio, inside the weight and not only in the score."""
    toy, sampler, right = autoregressive(1, proposal=True), ETS(2, 1, 2), common.log_ratio
    assert error_of(sampler, toy) < 1e-9
    patch_ratio(monkeypatch, lambda *args: np.clip(right(*args), -0.01, 0.01))
    assert error_of(sampler, toy) > NOTICED


def test_pad_tokens_scored() -> None:
    """Scores of a padded batch summed over the pads as well."""

    class Padded(TableEngine):
        def score(self, drafts: Sequence[Draft], starts: Sequence[int] | None = None) -> list[Floats]:
            scores = super().score(drafts, starts)
            longest = max(map(len, scores))
            return [np.concatenate([score, np.full(longest - len(score), -0.7)]) for score in scores]

    toy, sampler = autoregressive(1, proposal=True), Independent(2)
    assert error_of(sampler, toy) < 1e-9
    engine = toy.target.engine
    assert isinstance(engine, TableEngine)
    padded = Padded(engine.next_probs, engine.max_tokens, engine.end)
    assert error_of(sampler, Toy(replace(toy.target, engine=padded), toy.gamma)) > NOTICED


def test_last_token_unscored() -> None:
    """The end-of-text token left out of the sum."""

    class Short(TableEngine):
        def score(self, drafts: Sequence[Draft], starts: Sequence[int] | None = None) -> list[Floats]:
            return [np.append(score[:-1], 0.0) for score in super().score(drafts, starts)]

    toy = autoregressive(1, proposal=True)
    engine = toy.target.engine
    assert isinstance(engine, TableEngine)
    short = Short(engine.next_probs, engine.max_tokens, engine.end)
    assert error_of(ETS(2, 1, 2), Toy(replace(toy.target, engine=short), toy.gamma)) > NOTICED


def test_other_temperature_scored() -> None:
    """Likelihoods at temperature 1 while sampling at another."""

    class Untempered(TableEngine):
        def score(self, drafts: Sequence[Draft], starts: Sequence[int] | None = None) -> list[Floats]:
            return (
                replace(self, temperature=1.0, _known={}).score(drafts, starts)
                if self.temperature != 1
                else super().score(drafts, starts)
            )

    toy = autoregressive(1, proposal=True)
    engine = toy.target.engine
    assert isinstance(engine, TableEngine)
    cool = engine.with_sampling(temperature=0.5)
    wanted = {
        tokens: math.exp(log_p) * toy.gamma[tokens] / math.exp(engine.enumerate()[tokens])
        for tokens, log_p in cool.enumerate().items()
    }
    assert error_of(ETS(2, 1, 2), Toy(replace(toy.target, engine=cool), wanted)) < 1e-9
    wrong = Untempered(engine.next_probs, engine.max_tokens, engine.end, temperature=0.5)
    assert error_of(ETS(2, 1, 2), Toy(replace(toy.target, engine=wrong), wanted)) > NOTICED


def test_level_for_increment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A particle filter that keeps in the weights what the potential did in the resampling."""
    toy, sampler = autoregressive(1), SMC(2, 2, 1, threshold=1.0)
    assert error_of(sampler, toy) < 1e-9
    monkeypatch.setattr(particles, "log_copies", lambda log_g, log_p, parents: np.full(len(parents), -math.log(len(parents))))
    assert error_of(sampler, toy) > NOTICED


def test_mean_for_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quest: the mean of log-probabilities in the acceptance ratio where the sum belongs."""
    toy, sampler = autoregressive(1, cap=4), SuffixMCMC(1, power=2.5)
    assert imbalance(sampler, toy) < 1e-12
    right = mcmc.known_logq
    monkeypatch.setattr(mcmc, "known_logq", lambda draft: (float(np.mean(right(draft))),))
    assert imbalance(sampler, toy) > NOTICED


def test_missing_length_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    """The acceptance without n/n': the place of the cut is uniform over a number of places that changes."""
    toy, sampler = autoregressive(1, cap=4), SuffixMCMC(1)
    assert imbalance(sampler, toy) < 1e-12
    right = SuffixMCMC._states

    def without_length(self: SuffixMCMC, target: Target, prompt: str, drafts: list[Draft]) -> list[State]:
        return [
            state._replace(log_density=state.log_density + math.log(state.draft.decided))
            for state in right(self, target, prompt, drafts)
        ]

    monkeypatch.setattr(SuffixMCMC, "_states", without_length)
    assert imbalance(sampler, toy) > NOTICED


def test_budget_granted_anew_after_each_cut() -> None:
    """A redraw that may run to a full cap of its own reaches responses that p cannot produce."""

    class Regranting(TableEngine):
        def extend(self, drafts: Sequence[Draft], keys: Sequence[Any], tokens: BlockSize | None = None) -> list[Draft]:
            longer = [replace(self, max_tokens=self.max_tokens + draft.decided, _known={}) for draft in drafts]
            return [
                TableEngine.extend(engine, [draft], [key], tokens)[0]
                for engine, draft, key in zip(longer, drafts, keys, strict=True)
            ]

    toy = autoregressive(1, cap=3)
    engine = toy.target.engine
    assert isinstance(engine, TableEngine)
    target = replace(toy.target, engine=Regranting(engine.next_probs, engine.max_tokens, engine.end))
    with pytest.raises(KeyError):
        matrix(SuffixMCMC(1), target, suffix_states(SuffixMCMC(1), toy), lambda state: state.draft.tokens)
