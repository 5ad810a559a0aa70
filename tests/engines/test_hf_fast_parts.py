"""Parting rows of unlike size: every run is there, in order, and no cut of it would save anything."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from exptilt.engines.hf.fast.parts import parts


def cost(sizes: np.ndarray) -> int:
    return len(sizes) * int(sizes.max(0).prod())


@pytest.mark.parametrize("dimensions", [1, 2])
@pytest.mark.parametrize("extra", [0, 5, 40, 10_000])
def test_runs_cover_everything_and_no_further_cut_saves(dimensions: int, extra: int):
    generator = np.random.default_rng(dimensions)
    for _ in range(100):
        sizes = generator.integers(0, 9, (int(generator.integers(1, 15)), dimensions))
        runs = parts(sizes.tolist(), extra)
        assert [run.start for run in runs] == sorted(run.start for run in runs)
        assert sum(cost(sizes[run]) + extra for run in runs) <= cost(sizes) + extra
        covered = [place for run in runs for place in range(run.start, run.stop)]
        assert len(covered) == len(set(covered))
        assert {place for place in range(len(sizes)) if sizes[place].all()} <= set(covered)
        for run in runs:
            for cut in range(run.start + 1, run.stop):
                apart = cost(sizes[run.start : cut]) + cost(sizes[cut : run.stop])
                assert apart + extra >= cost(sizes[run])


def test_long_rows_stand_apart_from_many_short_ones():
    assert parts([[40]] * 3 + [[2]] * 100, 256) == [slice(0, 3), slice(3, 103)]
    assert parts([[40]] * 3 + [[38]] * 100, 256) == [slice(0, 103)]


def test_nothing_has_no_parts():
    assert parts([], 0) == []
    assert parts([(0, 7), (0, 3)], 0) == []
