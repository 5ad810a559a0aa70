"""The mutants of `reproduce/mutants.txt` are of the code as it is: where a text has changed, nothing is proved."""

from __future__ import annotations

from pathlib import Path

import pytest

from reproduce.mutants import LIST, Mutant, read_mutants

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("mutant", read_mutants(LIST.read_text()), ids=lambda mutant: f"{mutant.file}: {mutant.what}")
def test_a_mutant_changes_one_place(mutant: Mutant) -> None:
    """Nine of 120 had lost theirs when the code around them was rewritten."""
    assert (ROOT / mutant.file).read_text(encoding="utf-8").count(mutant.before) == 1
    assert mutant.after != mutant.before
