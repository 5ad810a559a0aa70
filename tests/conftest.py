"""What holds for every test."""

from __future__ import annotations

import signal

import pytest

# A shell that starts the tests in the background has them ignore Ctrl-C, and the programs that they start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def no_width_from_the_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers of pytest-xdist have COLUMNS set, and what the command line prints would be broken into lines of 80."""
    monkeypatch.delenv("COLUMNS", raising=False)
