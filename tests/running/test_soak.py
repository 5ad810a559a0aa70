"""The soak of bench/soak.py, cut short and with failures close together: what it checks must hold here too."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("transformers")

from bench.chaos import Rates
from bench.soak import slope, soak


def test_failures_reach_those_they_concern_and_nobody_else() -> None:
    found = soak(2.0, flight=6, again=2, rates=Rates(steps=120, joins=150, scorings=4, patience=0.4))
    assert found["strange"] == []
    assert all(found["checks"].values()), found
    assert found["jobs"] > 6
    assert sum(found["failures"].values()) + found["abandoned"] > 0


def test_the_slope_of_memory_is_found_in_noise() -> None:
    seconds = np.arange(0.0, 1200.0)
    noise = np.random.default_rng(0).normal(0.0, 5.0, len(seconds))
    leak, flat = slope(seconds, 100 + 3 * seconds / 60 + noise), slope(seconds, 100 + noise)
    assert abs(leak["per minute"] - 3) < 5 * leak["error"]
    assert abs(flat["per minute"]) < 5 * flat["error"] < 1
