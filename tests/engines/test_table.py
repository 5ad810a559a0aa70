"""The exact toys: laws that sum to one, scores that agree with draws, draws that follow the law."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from exptilt.draft import MASK, Draft
from exptilt.engines.masked_table import MaskedTableEngine, Order
from exptilt.engines.table import TableEngine
from exptilt.errors import PromptError
from exptilt.keys import Key
from exptilt.testing.enumeration import distance, paths
from exptilt.testing.toys import autoregressive, random_fill, random_table

ORDERS: list[Order] = ["random", "left", "confidence"]
NAMES = ["autoregressive", "tempered", *ORDERS]


def engines() -> list[TableEngine | MaskedTableEngine]:
    return [
        TableEngine(random_table(1, 3), 4, 2),
        TableEngine(random_table(2, 2), 3, 0, temperature=0.7),
        *[MaskedTableEngine(random_fill(3, 2), 3, order) for order in ORDERS],
    ]


@pytest.mark.parametrize("engine", engines(), ids=NAMES)
def test_enumerated_law_is_the_law_of_draws(engine: TableEngine | MaskedTableEngine) -> None:
    """Over all random paths, drawing block by block gives the enumerated probabilities, which sum to one."""
    law: dict[tuple[int, ...], float] = {}

    def draw(key: Key) -> tuple[int, ...]:
        draft = engine.start("x")
        while draft.finish is None:
            [draft] = engine.extend([draft], [key], 2)
        return draft.tokens

    for probability, tokens in paths(draw):
        law[tokens] = law.get(tokens, 0.0) + probability
    listed = {tokens: math.exp(log_p) for tokens, log_p in engine.enumerate().items()}
    assert math.isclose(sum(listed.values()), 1.0, abs_tol=1e-12)
    assert distance(law, listed) < 1e-12


@pytest.mark.parametrize("engine", engines(), ids=NAMES)
def test_scores_agree_with_what_was_drawn(engine: TableEngine | MaskedTableEngine) -> None:
    drafts = engine.extend([engine.start("x")] * 20, [Key(0, i) for i in range(20)])
    assert len({draft.tokens for draft in drafts}) > 1
    for draft, score in zip(drafts, engine.score(drafts), strict=True):
        assert draft.logq is not None
        np.testing.assert_allclose(score, draft.logq, atol=1e-12)
        assert len(score) == draft.decided
    starts = [number % 4 for number in range(20)]
    for start, whole, part in zip(starts, engine.score(drafts), engine.score(drafts, starts), strict=True):
        np.testing.assert_array_equal(whole[start:], part)
    assert engine.extend(drafts, [Key(9)] * 20) == drafts


def test_finish_tells_end_from_cap() -> None:
    engine = TableEngine(lambda _: [0.5, 0.5], 3, 1)
    drafts = engine.extend([engine.start("x")] * 50, [Key(1, i) for i in range(50)])
    assert {draft.finish for draft in drafts} == {"stop", "length"}
    for draft in drafts:
        assert (draft.finish == "stop") == (draft.tokens[-1] == 1)
        assert draft.text == " ".join(str(token) for token in draft.tokens if token != 1)


def test_masked_text_shows_only_what_is_decided() -> None:
    engine = MaskedTableEngine(random_fill(3, 2), 3, "left", symbols="ab")
    [draft] = engine.extend([engine.start("x")], [Key(0)], 2)
    assert draft.tokens[2] == MASK
    assert len(draft.text) == 2
    assert draft.finish is None


def test_refusals() -> None:
    with pytest.raises(PromptError, match="empty"):
        autoregressive(0).target.engine.start("  ")
    with pytest.raises(ValueError, match="sum to 1"):
        TableEngine(lambda _: [0.4, 0.4], 3, 1)
    with pytest.raises(ValueError, match="end=2"):
        TableEngine(lambda _: [0.4, 0.6], 3, 2)
    with pytest.raises(ValueError, match="temperature=0"):
        TableEngine(lambda _: [0.4, 0.6], 3, 1, temperature=0)
    with pytest.raises(ValueError, match="order='right'"):
        replace(MaskedTableEngine(random_fill(3, 2), 3), order="right")  # type: ignore[arg-type]


@pytest.mark.parametrize("tokens", [None, 1, 5])
def test_a_draft_at_its_cap_is_finished(tokens: int | None) -> None:
    """It came back unfinished for ever, and a sampler that asks for one token more would never end."""
    engine = TableEngine(lambda prefix: [0.5, 0.5], 2, 1)
    for drawn, finish in (((0, 0), "length"), ((0, 1), "stop"), ((1,), "stop")):
        draft = Draft("x", drawn, (math.log(0.5),) * len(drawn))
        [found] = engine.extend([draft], [Key(0)], tokens)
        assert (found.tokens, found.finish) == (drawn, finish)
    fresh = engine.extend([engine.start("x")] * 40, [Key(1, number) for number in range(40)], 2)
    assert {draft.finish for draft in fresh} == {"stop", "length"}


@pytest.mark.parametrize("temperature", [1e-3, 1e-9, 1e-320])
def test_a_low_temperature_takes_the_likeliest_token(temperature: float) -> None:
    """All powers of the probabilities fell to 0, and the distribution was 0/0."""
    engine = TableEngine(lambda _: [0.4, 0.35, 0.25], 2, 2, temperature=temperature)
    outcomes = engine.enumerate()
    assert outcomes[0, 0] == pytest.approx(0, abs=1e-9)
    assert sum(map(math.exp, outcomes.values())) == pytest.approx(1)
