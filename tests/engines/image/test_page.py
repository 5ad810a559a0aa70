"""docs/images.md runs as it is printed."""

from __future__ import annotations

import pytest

from tests.pages import run_page


def test_the_page_on_pictures_runs() -> None:
    pytest.importorskip("diffusers")
    space = run_page("images.md")
    assert space["result"].draft.glimpse.startswith("data:image/png")
    assert len(space["filtered"].population) == 6
