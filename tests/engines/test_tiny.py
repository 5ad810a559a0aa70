"""The bundled models: reproducible alone or in company, and of the quality that README and demo speak of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import exptilt as xt
from exptilt.errors import ModelError
from exptilt.evaluation.tasks.word_problems import word_problems
from exptilt.keys import Key

QUESTIONS = [problem.question for problem in word_problems("test", 100, seed=3)]
MODELS = Path(xt.__file__).parent / "models"


@pytest.fixture(scope="module")
def tiny() -> xt.Target:
    return xt.Target(xt.load("tiny", max_tokens=64), xt.rewards.Arithmetic(), beta=0.1)


def test_the_same_seed_gives_the_same_text_alone_and_among_32(tiny: xt.Target) -> None:
    """At least 99 of 100: float32 sums depend on the shape of the batch, and a draw near an edge may fall either way."""
    sampler = xt.ETS(candidates=2, rollouts=1, block=20)
    together = xt.run(tiny, QUESTIONS, sampler, seed=5, concurrency=32)
    alone = [xt.sample(tiny, question, sampler, seed=5) for question in QUESTIONS]
    agree = sum(isinstance(one, xt.Result) and one.text == other.text for one, other in zip(together, alone, strict=True))
    assert agree >= 99


def test_accuracy_of_plain_sampling_leaves_something_to_gain(tiny: xt.Target) -> None:
    """Between 35 % and 65 % of draws are right, within five standard errors of 100 problems with 4 draws each."""
    problems = word_problems("test", 100, seed=4)
    results = xt.run(tiny, [problem.question for problem in problems], xt.Independent(4), seed=6, concurrency=64)
    right = 0
    for problem, result in zip(problems, results, strict=True):
        assert isinstance(result, xt.Result)
        right += sum(xt.answers.number(draft.text) == problem.answer for draft in result.population.drafts)
    slack = 5 * (0.25 / 100) ** 0.5  # draws of one problem are alike: count problems, not draws
    assert 0.35 - slack < right / 400 < 0.65 + slack


def test_the_proposal_speaks_the_same_tokens() -> None:
    assert xt.load("tiny").alphabet == xt.load("tiny-small").alphabet
    small, large = ((MODELS / name / "model.safetensors").stat().st_size for name in ("tiny-small", "tiny"))
    assert small <= large / 4 * 1.01
    assert sum(file.stat().st_size for file in MODELS.rglob("*") if file.is_file()) < 35e6


def test_ets_with_the_small_proposal(tiny: xt.Target) -> None:
    """ETS-IS on real models: Ẑ of proposal and plain runs estimate the same Z."""
    proposed = xt.Target(tiny.engine, tiny.reward, beta=0.5, proposal=xt.load("tiny-small", max_tokens=64))
    plain = xt.Target(tiny.engine, tiny.reward, beta=0.5)
    pool = xt.run(plain, QUESTIONS[:1], xt.Independent(600))[0]
    assert isinstance(pool, xt.Result)
    estimates = [600 * np.exp(pool.population.log_w)]
    for target in (proposed, plain):
        # The same prompt again is drawn anew, and all of them decode together.
        results = xt.run(target, QUESTIONS[:1] * 60, xt.ETS(4, 1, 16), concurrency=60)
        estimates.append(
            np.exp([result.log_z for result in results if isinstance(result, xt.Result) and result.log_z is not None])
        )
    means = [values.mean() for values in estimates]
    variances = [values.var(ddof=1) / len(values) for values in estimates]
    for other in (1, 2):
        assert abs(means[other] - means[0]) < 5 * (variances[other] + variances[0]) ** 0.5


class Odd:
    """A backend whose last log-probability is `value`."""

    def __init__(self, backend: Any, value: float) -> None:
        self.backend, self.value = backend, value

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def draw(self, rows: Sequence[Any]) -> None:
        self.backend.draw(rows)
        rows[-1].logq[-1] = self.value

    def rate(self, rows: Sequence[Any]) -> None:
        self.backend.rate(rows)
        rows[-1].values[-1, 0] = self.value


@pytest.mark.parametrize("value", [math.nan, 0.5, -math.inf])
def test_impossible_log_probabilities_of_a_backend_are_refused(tiny: xt.Target, value: float) -> None:
    """Without a session too: they are refused where they enter. Only a score may be -inf."""
    engine = replace(tiny.engine, backend=Odd(tiny.engine.backend, value))  # type: ignore[attr-defined, type-var]
    start = engine.start(QUESTIONS[0])
    with pytest.raises(ModelError, match=r"tiny says .* log-probability (nan|0.5|-inf)"):
        engine.extend([start], [Key(0)], 3)
    [draft] = tiny.engine.extend([start], [Key(0)], 3)
    if value == -math.inf:
        assert engine.score([draft])[0][-1] == value
        return
    with pytest.raises(ModelError, match=r"tiny gives .* log-probability (nan|0.5)"):
        engine.score([draft])
