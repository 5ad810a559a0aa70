"""One set of results files and its page, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from exptilt.report import write_report
from tests.report.stores import Page, run_all


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return run_all(tmp_path_factory.mktemp("stores"))


@pytest.fixture(scope="session")
def page(stores: list[Path]) -> Page:
    return Page(write_report(stores, stores[0].parent / "report.html"))
