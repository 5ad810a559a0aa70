"""Values of the shipped decoder: what is learned, that any head leaves the weights exact, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import exptilt as xt
from exptilt.draft import known_logq
from exptilt.errors import ModelError, TargetError, TrainError
from exptilt.train import Fit, TwistedEngine
from tests.train.toys import PROMPT, drawn, table

pytest.importorskip("accelerate")

from exptilt.train.head import ValueHead, load_value
from exptilt.train.value import fit_value

BETA = 0.3


def early(prompt: Any, drafts: Any) -> list[float]:
    """A reward that the first token decides, which the hidden states of a prompt show at once."""
    return [float(draft.tokens[0] % 2) for draft in drafts]


@pytest.fixture(scope="module")
def engine() -> Any:
    with xt.load("tiny", max_tokens=3, temperature=1.5) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def value(engine: Any, tmp_path_factory: pytest.TempPathFactory) -> ValueHead:
    folder = tmp_path_factory.mktemp("value")
    store = drawn(folder, engine, early, BETA, 900)
    fitted = fit_value("tiny", [store], folder / "head", fit=Fit(epochs=12, batch=64, learning_rate=1e-2))
    assert fitted.tokens > 0
    return load_value(folder / "head")


def test_it_learns_what_prefixes_are_worth(engine: Any, value: ValueHead) -> None:
    """An odd first token is worth exp(1/β) times an even one: that is learned to 0.6 of 3.3 nats, though many tokens were drawn
    once or never."""
    drafts = engine.extend([engine.start(PROMPT)] * 60, [xt.Key(5).child(i) for i in range(60)], 1)
    found = np.array(value.of(engine)(PROMPT, drafts)) / BETA
    odd = np.array([draft.tokens[0] % 2 == 1 for draft in drafts])
    assert abs((np.mean(found[odd]) - np.mean(found[~odd])) - 1 / BETA) < 0.6


def test_a_twisted_proposal_makes_weights_more_even(engine: Any, value: ValueHead) -> None:
    plain = xt.sample(xt.Target(engine, early, BETA), PROMPT, xt.Independent(200)).population
    with TwistedEngine(engine, value) as proposal:
        twisted = xt.sample(xt.Target(engine, early, BETA, proposal=proposal), PROMPT, xt.Independent(200)).population
    assert twisted.ess > 1.3 * plain.ess
    assert plain.log_z is not None
    assert twisted.log_z == pytest.approx(plain.log_z, abs=0.35)


def test_the_proposal_scores_what_it_draws_and_keeps_the_support(engine: Any, value: ValueHead) -> None:
    """p/q is at most 1/d for each token, whatever the head says; log q as drawn is log q as scored."""
    with TwistedEngine(engine, value, 0.2) as proposal:
        drafts = proposal.extend([proposal.start(PROMPT)] * 40, [xt.Key(6).child(i) for i in range(40)])
        drafts += engine.extend([engine.start(PROMPT)] * 40, [xt.Key(7).child(i) for i in range(40)])
        log_p, log_q = engine.score(drafts), proposal.score(drafts)
    assert all(np.all(p - q < -math.log(0.2) + 1e-4) for p, q in zip(log_p, log_q, strict=True))
    assert [sum(q) for q in log_q[:40]] == pytest.approx([sum(known_logq(draft)) for draft in drafts[:40]], abs=1e-4)
    assert proposal.settings["twisted"]["defence"] == 0.2


def test_a_defence_of_one_is_the_model_itself(engine: Any, value: ValueHead) -> None:
    with TwistedEngine(engine, value, 1.0) as proposal:
        drafts = proposal.extend([proposal.start(PROMPT)] * 10, [xt.Key(8).child(i) for i in range(10)])
    assert [sum(p) for p in engine.score(drafts)] == pytest.approx([sum(known_logq(draft)) for draft in drafts], abs=1e-4)


def test_samplers_pick_by_it(engine: Any, value: ValueHead) -> None:
    target = xt.Target(engine, early, BETA)
    population = xt.sample(target, PROMPT, xt.SMC(particles=8, block=1, value=value.of(engine))).population
    assert population.log_z is not None


def test_the_model_is_left_as_it_is(engine: Any, value: ValueHead) -> None:
    """The twisted engine shares the weights: what the plain one draws must not change with it, nor when it is closed."""
    keys = [xt.Key(9).child(i) for i in range(8)]
    before = engine.extend([engine.start(PROMPT)] * 8, keys)
    with TwistedEngine(engine, value, 0.1) as proposal:
        proposal.extend([proposal.start(PROMPT)] * 8, keys)
        assert [draft.tokens for draft in engine.extend([engine.start(PROMPT)] * 8, keys)] == [draft.tokens for draft in before]
    assert engine.extend([engine.start(PROMPT)] * 8, keys) == before


def test_what_is_refused(value: ValueHead, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="reads hidden states of tiny, and table has none"):
        TwistedEngine(table(), value)
    with xt.load("tiny-small", max_tokens=3) as other, pytest.raises(TargetError, match="other weights: load that model"):
        TwistedEngine(other, value)
    with pytest.raises(ModelError, match="holds no value"):
        load_value(tmp_path)
    store = drawn(tmp_path, table(), same, BETA, 30)
    with pytest.raises(TrainError, match="all drafts have the same reward"):
        fit_value("tiny", [store], tmp_path / "out")


def same(prompt: Any, drafts: Any) -> list[float]:
    return [1.0] * len(drafts)


def test_a_last_layer_that_is_not_the_last_is_refused(engine: Any, value: ValueHead, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gemma caps its logits after the last layer: the twisted log-probabilities would be capped, and q another distribution."""
    kind = type(engine.backend.model)
    plain = kind.forward

    def capped(self: Any, *args: Any, **more: Any) -> Any:
        output = plain(self, *args, **more)
        output.logits = torch.tanh(output.logits / 5) * 5
        return output

    monkeypatch.setattr(kind, "forward", capped)
    with pytest.raises(TargetError, match="scales or caps its logits"):
        TwistedEngine(engine, value)
