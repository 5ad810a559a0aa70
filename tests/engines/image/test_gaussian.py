"""Gaussian steps: distributions against formulas, proposals by their weights, and states that are no longer kept."""

from __future__ import annotations

import itertools
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import exptilt as xt
from exptilt.core import Target
from exptilt.draft import known_logq
from exptilt.engines.image.paths import Paths
from exptilt.errors import ModelError
from exptilt.keys import Key
from tests.engines.image.pipelines import pixels
from tests.engines.image.test_evidence import MEANS, unit_gaussians
from tests.engines.image.toys import Formula, bent, engine_of

LEVELS = (0.1, 0.5, 0.9)


def moments(prompt: str) -> tuple[float, float]:
    """Mean and variance of the pictures of `unit_gaussians`: each of DDPM's steps is linear in the state."""
    mean, variance, kept = 0.0, 1.0, [*LEVELS, 1.0]
    for now, then in itertools.pairwise(kept):
        alpha = now / then
        clean = (
            math.sqrt(1 - now) * math.sqrt(now) * MEANS[prompt] * math.sqrt(1 - now) / math.sqrt(now),
            math.sqrt(now),
        )  # of 1, x
        a, b = math.sqrt(alpha) * (1 - then) / (1 - now), math.sqrt(then) * (1 - alpha) / (1 - now)
        noise = (1 - then) / (1 - now) * (1 - alpha)
        mean, variance = (a + b * clean[1]) * mean + b * clean[0], (a + b * clean[1]) ** 2 * variance + noise
    return mean, variance


def test_draws_follow_the_distribution() -> None:
    engine = engine_of(Formula(unit_gaussians, LEVELS))
    x = np.array([d.output[0] for d in engine.extend([engine.start("left")] * 4000, [Key(0, n) for n in range(4000)])])
    mean, variance = moments("left")
    assert abs(x.mean() - mean) < 5 * math.sqrt(variance / 4000)
    assert abs(x.var() - variance) < 5 * variance * math.sqrt(2 / 4000)


@pytest.mark.parametrize("change", [{"reuse": 2}, {"guidance": 1.3}, {"eta": 0.8}], ids=repr)
def test_weights_correct_for_a_proposal(change: dict[str, Any]) -> None:
    """E_q[p/q] = 1 and E_q[x·p/q] = E_p[x], with densities of steps that differ in mean, in variance or in both."""
    engine = engine_of(Formula(lambda x, t, c, g: bent(x, t, c, g) * (0.5 + 0.5 * g[:, None]), LEVELS, ddim=True))
    keys = [Key(1, number) for number in range(1500)]
    cheap = engine.with_sampling(**change)
    drafts = cheap.extend([cheap.start("x")] * 1500, keys)
    logs = [np.sum(score) - math.fsum(known_logq(d)) for d, score in zip(drafts, engine.score(drafts), strict=True)]
    weights, x = np.exp(logs), np.array([draft.output[0] for draft in drafts])
    exact = np.array([draft.output[0] for draft in engine.extend([engine.start("x")] * 1500, keys)])
    assert weights.std() > 0.05
    assert abs(weights.mean() - 1) < 5 * weights.std() / math.sqrt(1500)
    error = math.hypot((weights * x).std(), exact.std()) / math.sqrt(1500)
    assert abs((weights * x).mean() - exact.mean()) < 5 * error


def test_another_network_rates_drafts_by_its_own_estimates() -> None:
    """What is kept of a state was once found under the state's name alone, so that an engine took its proposal's estimates."""
    paths = Paths()
    ours, theirs = (
        engine_of(Formula(network, LEVELS, settings={"engine": name}), paths=paths)
        for name, network in (("bent", bent), ("straight", lambda x, t, c, g: 0.4 * x))
    )
    [draft] = theirs.extend([theirs.start("x")], [Key(6)])
    states = [paths.get(("state", "x", draft.tokens[:count])) for count in (1, 2, 3)]
    step = ours.schedule.steps[0]
    estimate = bent(states[0][None], np.array([step.time]), [], np.ones(1))[0]  # pyright: ignore[reportOptionalSubscript]
    mean = ours.schedule.mean(step, states[0], *ours.schedule.expected(step, states[0], estimate))  # pyright: ignore
    right = ours.noise.log_prob(draft.tokens[1], (states[1] - mean) / step.sigma, step.sigma)  # pyright: ignore
    assert ours.score([draft])[0][1] == pytest.approx(right)
    assert known_logq(draft)[1] != pytest.approx(right)


def test_guided_selection_with_a_proposal_that_reuses_evaluations() -> None:
    engine = engine_of(Formula(bent, LEVELS))
    target = Target(engine, lambda prompt, drafts: [float(d.output[0]) for d in drafts], 3.0, engine.with_sampling(reuse=2))
    logs = [
        xt.sample(target, "x", xt.ETS(2, block=1, propose_candidates=True), select=xt.draw, seed=seed).log_z
        for seed in range(150)
    ]
    plain = np.exp([d.output[0] / 3 for d in engine.extend([engine.start("x")] * 1500, [Key(2, n) for n in range(1500)])])
    z = np.exp(np.array(logs, dtype=float))
    assert abs(z.mean() - plain.mean()) < 5 * math.hypot(z.std() / math.sqrt(150), plain.std() / math.sqrt(1500))


def test_states_that_are_no_longer_kept_are_computed_again() -> None:
    """With room for one state only, every call begins from the draft's tokens, and comes to the same."""
    roomy, tight = (engine_of(Formula(bent, LEVELS), paths=paths) for paths in (Paths(), Paths(memory=1)))
    drafts = [[engine.start("x")] for engine in (roomy, tight)]
    for step in range(3):
        drafts = [engine.extend(some, [Key(4, step)], 1) for engine, some in zip((roomy, tight), drafts, strict=True)]
    assert drafts[0] == drafts[1]
    assert drafts[0][0].output == drafts[1][0].output
    assert np.allclose(tight.score(drafts[0])[0], known_logq(drafts[0][0]))
    assert np.allclose(tight.finals(drafts[0]), roomy.finals(drafts[0]))


def test_states_of_another_engine_that_are_no_longer_kept_are_refused() -> None:
    engine = engine_of(Formula(bent, LEVELS))
    [draft] = engine.with_sampling(reuse=2).extend([engine.start("x")], [Key(4)])
    forgetful = replace(engine, paths=Paths())
    with pytest.raises(ModelError, match="drawn by another engine"):
        forgetful.score([draft])
    with pytest.raises(ValueError, match="up to 3 decisions"):
        engine.score([replace(draft, tokens=(1, 2, 3, 4), logq=None)])


def test_many_threads_get_what_single_calls_give(tmp_path: Path) -> None:
    with xt.load(f"image:{pixels(tmp_path, classes=None)}", steps=3, max_rows=4) as engine:
        alone = [engine.extend([engine.start("any")], [Key(number)])[0] for number in range(12)]
        fresh = xt.load(f"image:{tmp_path}", steps=3, max_rows=4)
        with ThreadPoolExecutor(6) as pool:
            found = list(pool.map(lambda number: fresh.extend([fresh.start("any")], [Key(number)])[0], range(12)))
        fresh.close()
    assert found == alone
    assert np.allclose([draft.output for draft in found], [draft.output for draft in alone], atol=1e-5)
