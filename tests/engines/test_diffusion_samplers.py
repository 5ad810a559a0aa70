"""Samplers on the masked-diffusion engine: stationarity of the suffix redraw, and Ẑ against an enumerated Z."""

from __future__ import annotations

import itertools
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import exptilt as xt
from exptilt.errors import CapabilityError

pytest.importorskip("torch")
pytest.importorskip("transformers")

from exptilt.engines.diffusion import DiffusionSampling
from exptilt.engines.language import LanguageEngine
from tests.engines.test_diffusion import END, MASK, Oracle, check_law, draws, filler, keys
from tests.engines.test_diffusion_cache import weights  # noqa: F401 - a fixture

BETA = 0.5


def share(prompt: str, drafts: list[xt.Draft]) -> list[float]:
    """The share of the token 1 in the response, less one: at most 0."""
    return [draft.tokens.count(1) / draft.decided - 1 for draft in drafts]


def tilted(law: dict[tuple[int, ...], float]) -> tuple[dict[tuple[int, ...], float], float]:
    """π and Z for the reward above."""
    gamma = {tokens: p * math.exp((tokens.count(1) / (len(tokens) - tokens.count(MASK)) - 1) / BETA) for tokens, p in law.items()}
    z = sum(gamma.values())
    return {tokens: mass / z for tokens, mass in gamma.items()}, z


def paths_of(engine: LanguageEngine[Any]) -> list[xt.Draft]:
    """Every finished response of an engine that decides from left to right, as a draft."""
    size, found = engine.sampling.block or engine.max_tokens, []
    for tokens in itertools.product((0, 1, 2), repeat=engine.max_tokens):
        ends = [place for place, token in enumerate(tokens) if token == END]
        count = min((ends[0] // size + 1) * size, engine.max_tokens) if ends else engine.max_tokens
        found.append((*tokens[:count], *[MASK] * (engine.max_tokens - count)))
    return [
        xt.Draft("a b", tokens, None, "", "stop", tuple(range(len(tokens) - tokens.count(MASK))))
        for tokens in dict.fromkeys(found)
    ]


@pytest.mark.parametrize("cache", ["none", "dual"])
def test_suffix_redraw_is_stationary_by_enumeration(cache: Any, weights: Any) -> None:  # noqa: F811
    """πP = π and detailed balance, P from the engine's own conditional laws; responses of two and of three decisions."""
    engine = LanguageEngine(weights[True], DiffusionSampling(max_tokens=3, block=2, order="left", cache=cache))
    drafts, sampler = paths_of(engine), xt.SuffixMCMC(1)
    assert {draft.decided for draft in drafts} == {2, 3}
    logs = engine.score(drafts)
    states = sampler._states(xt.Target(engine, share, BETA), "a b", drafts)
    law = np.exp([log.sum() for log in logs])
    assert law.sum() == pytest.approx(1.0, abs=1e-5)
    pi = law * np.exp([state.reward / BETA for state in states])
    table = np.zeros((len(drafts), len(drafts)))
    for (a, old), (b, new) in itertools.product(enumerate(states), repeat=2):
        moved = min(1.0, math.exp(new.log_density - old.log_density))
        for place in range(old.draft.decided):
            if old.draft.tokens[:place] == new.draft.tokens[:place]:
                table[a, b] += math.exp(logs[b][place:].sum()) * moved / old.draft.decided
    table += np.diag(1 - table.sum(axis=1))
    flow = pi[:, None] / pi.sum() * table
    np.testing.assert_allclose(flow, flow.T, atol=1e-6)
    np.testing.assert_allclose(flow.sum(axis=0), pi / pi.sum(), atol=1e-6)


MOVES = {
    "left, blocks": DiffusionSampling(max_tokens=4, block=2, order="left"),
    "surest first": DiffusionSampling(max_tokens=3, block=None),
    "random, two at a time": DiffusionSampling(max_tokens=3, block=None, order="random", per_step=2),
}


@pytest.mark.parametrize("name", MOVES)
def test_a_suffix_redraw_of_exact_draws_leaves_them_exact(name: str) -> None:
    """The engine's own moves, from paths of π by rejection: their responses still follow π."""
    engine = filler(MOVES[name], seed=3)
    pi, _ = tilted(Oracle(engine).enumerate())
    target, sampler = xt.Target(engine, share, BETA), xt.SuffixMCMC(1)
    some = draws(engine, 3000)
    kept = np.random.default_rng(5).random(len(some)) < np.exp(np.array(share("", some)) / BETA)
    exact = [draft for draft, keep in zip(some, kept, strict=True) if keep]
    assert len(exact) > 800
    states = sampler._states(target, "a b", exact)
    moved = sampler.transition(target, "a b", states, keys(len(exact), "move"))
    assert sum(new is not old for new, old in zip(moved, states, strict=True)) > len(exact) / 4
    check_law([state.draft for state in moved], pi)


def test_a_suffix_redraw_within_a_step_that_cannot_be_parted_is_refused() -> None:
    """LLaDA's rule keeps the likeliest of all drawn tokens: after some of them no law of the others is known."""
    engine = filler(DiffusionSampling(max_tokens=4, block=None, per_step=2, order="low-confidence"))
    with pytest.raises(CapabilityError, match="SuffixMCMC needs one of the last two"):
        xt.sample(xt.Target(engine, share, BETA), "a b", xt.SuffixMCMC(12))


@pytest.mark.parametrize(
    ("sampler", "proposal", "runs"),
    [
        (xt.Independent(4), {}, 150),
        (xt.Independent(4), {"cache": "dual"}, 150),
        (xt.ETS(2, 1, 2), {}, 150),
        (xt.ETS(2, 1, 2), {"cache": "dual"}, 150),
        (xt.ETS(2, 1, 2, propose_candidates=True), {"cache": "prefix", "threshold": 0.5}, 150),
        (xt.SMC(3, 2), {}, 150),
    ],
    ids=["independent", "importance", "ets", "ets-is, dual", "ets-is, prefix and threshold", "smc"],
)
def test_estimates_of_z_are_unbiased(sampler: Any, proposal: dict, runs: int, weights: Any) -> None:  # noqa: F811
    """E[Ẑ] = Z within five standard errors, Z summed over every response."""
    engine = LanguageEngine(weights[True], DiffusionSampling(max_tokens=4, block=2, order="left"))
    _, z = tilted(Oracle(engine).enumerate())
    target = xt.Target(engine, share, BETA, proposal=engine.with_sampling(**proposal) if proposal else None)
    with ThreadPoolExecutor(32) as threads:
        results = list(threads.map(lambda run: list(sampler(target, "a b", xt.Key(11, run)))[-1], range(runs)))
    values = np.exp([result.log_z for result in results])
    assert values.std() > 0
    assert abs(values.mean() - z) < 5 * values.std(ddof=1) / runs**0.5
