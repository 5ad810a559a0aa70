"""docs/steps.md runs as it is printed."""

from __future__ import annotations

import pytest

from exptilt.samplers.trace import Beams, Generations
from tests.pages import run_page


def test_the_page_on_steps_runs() -> None:
    pytest.importorskip("transformers")
    space = run_page("steps.md")
    assert isinstance(space["lines"].population.trace, Generations)
    assert isinstance(space["best"].population.trace, Beams)
    assert all(text.endswith("\n") for text in space["lines"].population.trace.generations[0].texts)
