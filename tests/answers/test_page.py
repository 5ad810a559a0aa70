"""docs/answers.md is true: its Python prints what it shows, and its table's examples are equal."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("math_verify")

from exptilt import answers

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "answers.md").read_text(encoding="utf-8")


def test_python_blocks_print_what_the_page_shows(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)^```\n(?:\n```output\n(.*?)^```)?", PAGE, flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) == 3
    for block, shown in blocks:
        exec(compile(block, "docs/answers.md", "exec"), names)
        assert capsys.readouterr().out == shown


def test_examples_of_the_table_are_equal() -> None:
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| (`[^|]+`) \| `([^|]+)` \|$", PAGE, flags=re.MULTILINE)
    assert len(rows) == 5
    for reader, texts, form in rows:
        for text in re.findall("`([^`]+)`", texts):
            assert getattr(answers, reader)(text) == form, text


def test_every_reader_is_in_the_table() -> None:
    named = set(re.findall(r"^\| `(\w+)` \|", PAGE, flags=re.MULTILINE))
    assert named == set(answers.__all__) - {"Answer", "boxed", "expression", "reference"}
