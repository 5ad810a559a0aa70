"""Proofs of the most probable answer: none is contradicted, and what they rest on is needed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

import exptilt as xt
from exptilt.draft import Draft
from exptilt.keys import Key
from exptilt.populations.certificate import certified
from exptilt.populations.population import Population
from exptilt.testing.toys import random_table

TOYS = 10_000


def answer(text: str) -> str | None:
    """The first symbol; a text that begins with c has none."""
    return None if text.startswith("c") or not text else text[0]


def toy(seed: int) -> tuple[list[Draft], np.ndarray, float, float]:
    """All responses of a random table with their probabilities, in the order in which draws find them; rewards, β, r_max."""
    generator = np.random.default_rng(seed)
    count = int(generator.integers(3, 9))
    p = generator.dirichlet(np.full(count, 0.4))
    texts = ["abc"[int(generator.integers(3))] + str(number) for number in range(count)]
    rewards = np.where(generator.random(count) < 0.1, -np.inf, generator.normal(size=count))
    drafts = [Draft("x", (number,), (math.log(max(p[number], 1e-300)),), texts[number], "stop") for number in range(count)]
    top = float(np.max(rewards, initial=0.0)) + float(generator.random() < 0.5)
    return drafts, rewards, float(generator.uniform(0.3, 3.0)), top


def mode(drafts: list[Draft], rewards: np.ndarray, beta: float) -> set[str | None]:
    """The most probable answers under π."""
    shares: dict[str | None, float] = {}
    for draft, reward in zip(drafts, rewards, strict=True):
        found = answer(draft.text)
        shares[found] = shares.get(found, 0.0) + math.exp(sum(draft.logq or ()) + reward / beta)
    return {name for name, share in shares.items() if share == max(shares.values())}


def proved(seed: int, draws: int, **changes: float) -> tuple[str | None, set[str | None]]:
    """What `draws` draws prove on a toy, and the truth."""
    drafts, rewards, beta, top = toy(seed)
    p = np.exp([draft.logq[0] for draft in drafts if draft.logq])
    rows = np.random.default_rng(seed + 1).choice(len(drafts), size=draws, p=p / p.sum())
    if np.all(rewards[rows] == -np.inf):
        return None, mode(drafts, rewards, beta)
    population = Population([drafts[row] for row in rows], np.where(rewards[rows] > -np.inf, 0.0, -np.inf), rewards[rows])
    found = certified(population, answer, beta=beta, reward_max=top, **changes)
    return found, mode(drafts, rewards, beta)


def test_ten_thousand_toys_without_a_contradiction() -> None:
    outcomes = [proved(seed, draws=1 + seed % 40) for seed in range(TOYS)]
    claims = [(found, truth) for found, truth in outcomes if found is not None]
    assert all(found in truth for found, truth in claims)
    assert len(claims) > TOYS / 4


@pytest.mark.parametrize("forgotten", ["what is unseen", "what has no answer", "the bound of the reward"])
def test_each_part_of_the_inequality_is_needed(forgotten: str) -> None:
    """Without it some toys are contradicted, so the test above would notice a certificate that forgot it."""
    wrong = 0
    for seed in range(TOYS):
        drafts, rewards, beta, top = toy(seed)
        p = np.exp([draft.logq[0] for draft in drafts if draft.logq])
        rows = np.unique(np.random.default_rng(seed + 1).choice(len(drafts), size=1 + seed % 40, p=p / p.sum()))
        tilted: dict[str | None, float] = {}
        for row in rows:
            found = answer(drafts[row].text)
            if found is not None or forgotten != "what has no answer":
                tilted[found] = tilted.get(found, 0.0) + float(p[row]) * math.exp(float(rewards[row] - top) / beta)
        bound = math.exp((np.max(rewards[rows]) - top) / beta) if forgotten == "the bound of the reward" else 1.0
        unseen = 0.0 if forgotten == "what is unseen" else (1 - p[rows].sum()) * bound
        standing = sorted(((value, name) for name, value in tilted.items() if name is not None), reverse=True)
        if not standing:
            continue
        first, name = standing[0]
        second = max((value for other, value in tilted.items() if other != name), default=0.0)
        wrong += first > second + unseen and name not in mode(drafts, rewards, beta)
    assert wrong > 0


def nearly(share: float) -> Population:
    """Two answers whose masses are 1/2 ± share, told to one part in 10⁶: 1e-6 nats of rounding."""
    logs = (math.log(0.5 + share), math.log(0.5 - share))
    drafts = [Draft("x", (n,), (value,), "ab"[n], "stop") for n, value in enumerate(logs)]
    return Population(drafts, np.zeros(2), np.zeros(2))


def test_the_margin_is_needed() -> None:
    """Rounding of log-probabilities could turn a lead of less than it around, so such a lead proves nothing."""
    assert certified(nearly(2e-3), answer, beta=1.0, reward_max=0.0) == "a"
    assert certified(nearly(1e-7), answer, beta=1.0, reward_max=0.0) is None
    assert certified(nearly(1e-7), answer, beta=1.0, reward_max=0.0, margin=0.0) == "a"
    turned = replace(nearly(1e-7), drafts=[replace(draft, logq=(value,)) for draft, value in _moved(nearly(1e-7))])
    assert certified(turned, answer, beta=1.0, reward_max=0.0, margin=0.0) == "b"


def _moved(population: Population) -> list[tuple[Draft, float]]:
    return [(draft, (draft.logq or (0.0,))[0] + step) for draft, step in zip(population.drafts, (-1e-6, 1e-6), strict=True)]


def test_repeats_do_not_count_twice() -> None:
    """Sixteen copies of a response of probability 0.4 prove nothing, however unanimous their vote."""
    draft = Draft("x", (1,), (math.log(0.4),), "a", "stop")
    population = Population([draft] * 16, np.full(16, -math.log(16)), np.zeros(16))
    assert certified(population, answer, beta=1.0, reward_max=0.0) is None


def test_on_a_sampler_s_population() -> None:
    engine = xt.engines.TableEngine(random_table(3, 2, 0.3), 3, 1, symbols="a#")
    target = xt.Target(engine, lambda prompt, drafts: [0.0] * len(drafts), 1.0)
    *_, population = xt.Independent(64)(target, "x", Key(0))
    length: Callable[[str], str | None] = lambda text: str(len(text))  # noqa: E731
    found = certified(population, length, beta=1.0, reward_max=0.0)
    law: dict[str, float] = {}
    for tokens, value in engine.enumerate().items():
        name = str(len([token for token in tokens if token == 0]))
        law[name] = law.get(name, 0.0) + math.exp(value)
    assert found == max(law, key=lambda name: law[name])


def test_what_cannot_be_proved_from_is_refused() -> None:
    population = nearly(0.1)
    with pytest.raises(ValueError, match="above reward_max=-1"):
        certified(population, answer, beta=1.0, reward_max=-1.0)
    silent = replace(population, drafts=[replace(draft, logq=None) for draft in population.drafts])
    with pytest.raises(ValueError, match="carries no log-probabilities"):
        certified(silent, answer, beta=1.0, reward_max=0.0)
    masked = replace(population, drafts=[replace(draft, order=(0,)) for draft in population.drafts])
    with pytest.raises(ValueError, match="masked model"):
        certified(masked, answer, beta=1.0, reward_max=0.0)
