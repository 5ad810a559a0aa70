"""Whoever watches a run sees how it grows before there is a population, and changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

import exptilt as xt
from exptilt.core import Sampler, Target
from exptilt.draft import Draft, Prompt
from exptilt.engines import TableEngine
from exptilt.samplers.trace import Tree
from exptilt.testing.toys import random_table
from exptilt.watching import Rows, watched_by


def reward(prompt: Prompt, drafts: Sequence[Draft]) -> list[float]:
    return [sum(draft.tokens) / 4 for draft in drafts]


TARGET = Target(TableEngine(random_table(3, 4), 6, 3), reward, 0.5)


class Watching:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.grown: list[tuple[object, Any]] = []

    def settle(self, sampler: object, text: str) -> None:
        pass

    def grow(self, sampler: object, trace: object) -> None:
        self.grown.append((sampler, trace))

    def draw(self, rows: Rows) -> None:
        pass


def steps(trace: Any) -> tuple[Any, ...]:
    return trace.steps if isinstance(trace, Tree) else trace.generations


def seen(sampler: Sampler) -> tuple[xt.Result, Watching]:
    watching = Watching()
    with watched_by(watching):
        result = xt.sample(TARGET, "hi", sampler, seed=4)
    return result, watching


@pytest.mark.parametrize(
    "sampler", [xt.SMC(4, 2), xt.Beam(2, 2, 2), xt.ETS(3, 1, 2, returns="chain")], ids=lambda each: type(each).__name__
)
def test_a_sampler_with_one_population_tells_every_step_before_it(sampler: Sampler) -> None:
    result, watching = seen(sampler)
    told = [steps(trace) for _, trace in watching.grown]
    whole = steps(result.population.trace)
    assert [len(each) for each in told] == [*range(1, len(told) + 1)]
    assert all(each == whole[: len(each)] for each in told)
    assert len(told) >= len(whole) - 1 >= 1
    assert {id(sampler) for sampler, _ in watching.grown} == {id(sampler)}
    alone = xt.sample(TARGET, "hi", sampler, seed=4)
    assert (alone.text, alone.log_z, alone.usage.reference) == (result.text, result.log_z, result.usage.reference)


def test_a_sampler_that_yields_after_each_step_need_not_tell() -> None:
    _, watching = seen(xt.ETS(3, 1, 2))
    assert watching.grown == []


def test_what_a_sampler_inside_tells_is_its_own() -> None:
    """Else the generations of one move would be drawn as the answer of the whole chain."""
    inner = xt.SMC(4, 2)
    outer = xt.Metropolised(inner, 3)
    _, watching = seen(outer)
    assert watching.grown
    assert {id(sampler) for sampler, _ in watching.grown} == {id(inner)}
