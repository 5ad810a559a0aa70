"""docs/train.md is true: its Python runs, and its table is that of the results."""

from __future__ import annotations

import json

import pytest

from tests.pages import DOCS, run_page
from tests.structure import ROOT


def test_python_blocks_run(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("trl")
    space = run_page("train.md")
    assert space["aligned"].prompts + space["aligned"].flat == 12
    assert space["twisted"].log_z is not None


def test_the_table_is_that_of_the_results() -> None:
    page = (DOCS / "train.md").read_text()
    rows = json.loads((ROOT / "reproduce" / "results" / "train_claims.json").read_text())
    assert all(f"| {row['claim']} | {row['prediction']} | {row['measured']} |" in page for row in rows)
