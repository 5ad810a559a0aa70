"""The README is true: its Python runs, its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def test_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """All of them in one name space, as a reader would type them."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) >= 2
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert len(capsys.readouterr().out.splitlines()) >= len(blocks)
    assert (tmp_path / "runs" / "readme.jsonl").exists()


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#]+)\)", README))
def test_links_lead_somewhere(target: str) -> None:
    assert target.startswith("https://") or (ROOT / target).exists()


def test_the_first_example_prints_what_stands_below_it(capsys: pytest.CaptureFixture[str]) -> None:
    """It is there to show the tilt: the wrong answer leads under p, the right one under π."""
    code, printed = re.findall(r"```python\n(.*?)```\n\n```output\n(.*?)\n```", README, flags=re.DOTALL)[0]
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip() == printed


def test_the_verdicts_on_claims_are_counted_as_on_their_page() -> None:
    counts = re.search(r"Of \d+ claims: [^.]*\.", (ROOT / "docs" / "claims.md").read_text())
    assert counts is not None
    assert counts[0] in README
