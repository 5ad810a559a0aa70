"""What the pilot draws and counts, and what it does where an engine cannot continue or a budget ends."""

from __future__ import annotations

import numpy as np
import pytest

from exptilt.core import Target
from exptilt.doctor.pilot import PLACES, Pilot, Sounding, piloted
from exptilt.running.result import Result
from exptilt.running.run import sample
from exptilt.testing.toys import autoregressive, masked
from exptilt.usage import Budget
from tests.doctor import tables


def drawn(target: Target, pilot: Pilot, budget: Budget | None = None) -> tuple[Result, Sounding]:
    result = sample(target, "x", pilot, budget=budget)
    return result, Sounding.of(result)


def test_tokens_and_times_are_counted() -> None:
    result, found = drawn(autoregressive(3, symbols=3, cap=6).target, Pilot(12))
    trace = piloted(result)
    assert trace.drawn == result.usage.tokens
    assert result.usage.tokens == found.lengths.sum() + sum(
        branches.lengths.sum() - branches.kept.sum() for branches in (found.moves, *found.forks) if branches is not None
    )
    assert trace.drawing > 0
    assert trace.rating > 0
    assert not result.population.proper


def test_half_of_the_draws_are_cut_where_they_should_be() -> None:
    _, found = drawn(autoregressive(3, symbols=3, cap=6).target, Pilot(12))
    assert found.moves is not None
    assert len(found.moves.kept) == 6
    assert np.all(found.moves.kept < found.lengths[:6])
    for place, fork in zip(PLACES, found.forks, strict=True):
        at = max(1, round(place * found.lengths.mean()))
        assert fork.kept.tolist() == np.minimum(found.lengths[:6], at).tolist()
        ended = found.lengths[:6] <= at
        assert fork.rewards[ended].tolist() == found.rewards[:6][ended].tolist()


def test_masked_drafts_have_moves_and_forks() -> None:
    _, found = drawn(masked(2, length=4).target, Pilot(8))
    assert found.moves is not None
    assert set(found.moves.lengths) == {4.0}
    assert [fork.kept[0] for fork in found.forks] == [1.0, 2.0, 3.0]


def test_an_engine_that_cannot_continue() -> None:
    target = Target(tables.whole_responses_only(tables.coin(4)), tables.of_tokens(sum), 1.0)
    result, found = drawn(target, Pilot(8))
    assert (found.moves, found.forks) == (None, ())
    assert result.usage.tokens == 32


def test_a_budget_ends_it_with_what_there_is() -> None:
    target = Target(tables.coin(4), tables.of_tokens(sum), 1.0)
    result, found = drawn(target, Pilot(16, batch=4), Budget(tokens=40))
    assert result.limit is not None
    assert len(found.rewards) == 8  # two batches of 16 tokens: a third could exceed the limit
    assert found.moves is None
    _, found = drawn(target, Pilot(16, batch=4), Budget(tokens=96))
    assert found.moves is not None
    assert found.forks == ()


def test_sizes_are_checked() -> None:
    with pytest.raises(ValueError, match="one draw shows no spread"):
        Pilot(1)
    with pytest.raises(ValueError, match="batch=0"):
        Pilot(4, batch=0)
