"""Aligned models are π: on distributions that can be enumerated, by both forms, with a table and with the shipped decoder."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import exptilt as xt
from exptilt.core import Engine
from exptilt.train import Fit, Power, Tilt, read_lessons
from exptilt.train.lessons import Form, Lessons
from tests.train.toys import TableNetwork, divergence, drawn, exact, ones, shares, table

pytest.importorskip("accelerate")

from exptilt.train.align import align, draft_row, likelihood
from exptilt.train.fitting import Row, fit_rows
from exptilt.train.settings import Folder

QUICK = Fit(epochs=250, batch=31, learning_rate=0.1, warmup=0.0)


def rows_of(lessons: Lessons) -> list[Row]:
    scale = lessons.drafts / len(lessons.items)
    return [
        draft_row([0], draft.tokens, [[weight * scale]] * len(draft.tokens))
        for lesson in lessons.items
        for draft, weight in zip(lesson.drafts, lesson.weights, strict=True)
    ]


@pytest.mark.parametrize(
    ("form", "factor"),
    [
        (Tilt(), lambda tokens, log_p: (tokens.count(1) + 0.7 * (tokens[-1] == 2)) / 0.8),
        (Tilt(1.5), lambda tokens, log_p: (tokens.count(1) + 0.7 * (tokens[-1] == 2)) / 1.5),
        (Power(4, 0.5), lambda tokens, log_p: log_p / (4 * 0.5 - 1)),
    ],
    ids=["tilt", "another beta", "power"],
)
def test_a_table_learns_the_target(tmp_path: Path, form: Form, factor: object) -> None:
    """KL(π‖π_θ) below 0.01 nats, where the model started more than 0.1 away. Weights that were left out, taken twice, or
    averaged over the tokens of a response would leave it at another distribution."""
    engine = table()
    lessons = read_lessons([drawn(tmp_path, engine, ones, 0.8, 4000)], form)
    network, target = TableNetwork(), exact(engine, factor)
    before = divergence(target, network.log_prob)
    fit_rows(network, rows_of(lessons), likelihood(1.0), QUICK, Folder(tmp_path / "out", {}))
    assert before > 0.1
    assert divergence(target, network.log_prob) < 0.01
    assert divergence(dict(engine.enumerate()), network.log_prob) > 0.05  # it is not p that was learned


def test_mean_over_tokens_is_not_the_likelihood(tmp_path: Path) -> None:
    """The usual loss of causal models is a mean over the tokens of a batch, which gives long responses less: it misses π."""
    engine = table()
    lessons = read_lessons([drawn(tmp_path, engine, ones, 0.8, 4000)])
    rows = rows_of(lessons)
    for row in rows:
        row.labels[:, 1] /= (row.labels[:, 1] > 0).sum()
    network = TableNetwork()
    fit_rows(network, rows, likelihood(1.0), QUICK, Folder(tmp_path / "out", {}))
    wanted = exact(engine, lambda tokens, _: (tokens.count(1) + 0.7 * (tokens[-1] == 2)) / 0.8)
    assert divergence(wanted, network.log_prob) > 0.01


def test_the_power_needs_a_length_times_beta_above_one() -> None:
    assert Power(4, 0.5).exponent == pytest.approx(1.0)
    with pytest.raises(ValueError, match=r"length·beta = 4·0\.25 = 1 must be above 1.*number of tokens.*Give beta above 0\.25"):
        Power(4, 0.25)


@pytest.mark.parametrize(
    ("form", "rank", "near"),
    [(Tilt(), None, 0.01), (Power(4, 0.5), None, 0.01), (Power(4, 0.5), 16, 0.07)],
    ids=["tilt, full", "power, full", "power, lora"],
)
def test_the_shipped_decoder_learns_the_target(tmp_path: Path, form: Form, rank: int | None, near: float) -> None:
    """Two of the three likeliest tokens are drawn: 9 responses at most, each scored exactly.

    LoRA leaves the last norm and layer as they are, which bounds the logits: at this temperature some 6 % of its mass stay on the
    tokens that p never draws.
    """
    prompt = "Tom has 3 apples and buys 4 more. How many apples does Tom have?"
    with xt.load("tiny", top_k=3, max_tokens=2, temperature=2.0) as engine:
        store = drawn(tmp_path, engine, digits, 0.4, 4000, [prompt])
        log_p = enumerated(engine, prompt)
    fit = Fit(epochs=100, batch=64, learning_rate=1e-3 if rank is None else 3e-3, rank=rank)  # all drafts at once: no noise
    aligned = align("tiny", [store], tmp_path / "out", form=form, fit=fit)
    p = np.array([*log_p.values()])
    logs = p + (form.exponent * p if isinstance(form, Power) else np.array([*map(digit_count, log_p)]) / 0.4)
    with xt.load(aligned.model, max_tokens=2, temperature=2.0) as student:
        scores = np.array([sum(each) for each in student.score([xt.Draft(prompt, tokens) for tokens in log_p])])
    pi = shares(logs)
    assert float(np.sum(pi * (np.log(pi) - p))) > 0.05
    assert float(np.sum(pi * (np.log(pi) - scores))) < near
    assert aligned.tokens > 0


def digit_count(tokens: tuple[int, ...]) -> float:
    return float(sum(token % 2 for token in tokens)) / 2


def digits(prompt: object, drafts: list[xt.Draft]) -> list[float]:
    return [digit_count(draft.tokens) for draft in drafts]


def enumerated(engine: Engine, prompt: str) -> dict[tuple[int, ...], float]:
    """The responses with their log-probabilities: all that 3,000 draws find."""
    drafts = engine.extend([engine.start(prompt)] * 3000, [xt.Key(1).child(i) for i in range(3000)])
    return {draft.tokens: math.fsum(draft.logq or ()) for draft in drafts}
