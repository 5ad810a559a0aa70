"""docs/testing.md is true: its Python runs."""

from __future__ import annotations

import pytest

from tests.pages import run_page


def test_python_blocks_run(capsys: pytest.CaptureFixture[str]) -> None:
    space = run_page("testing.md")
    assert len(space["kept"]) > 10
    assert "the_cap_holds_and_ends_are_told" in capsys.readouterr().out
