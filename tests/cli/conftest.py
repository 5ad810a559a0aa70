"""The program with a table for a model, in a folder of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from exptilt.cli import main
from exptilt.core import Engine
from exptilt.engines import TableEngine
from exptilt.testing.toys import random_table

Program = Callable[..., tuple[int, str, str]]

HEADS = """
def heads(text):
    return float(text.count("1"))
"""


@pytest.fixture(autouse=True)
def _modules_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A test's files are modules while it lasts: the next has files of the same names."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    for name, module in [*sys.modules.items()]:
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Program:
    """The program in a folder with heads.py: exit status, output and error output. `--help` has the status 0."""

    def load(name: str, **options: Any) -> Engine:
        return TableEngine(random_table(3, 4), 5, 3, symbols="1234", name=name)

    monkeypatch.setattr("exptilt.names.targets.load", load)
    monkeypatch.chdir(tmp_path)
    Path("heads.py").write_text(HEADS)

    def call(*argv: str) -> tuple[int, str, str]:
        try:
            code = main(argv)
        except SystemExit as ended:
            code = int(ended.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return call
