"""The judge of generated notes' summaries (reproduce/claims/summaries.py): what it counts is read from the note alone."""

from __future__ import annotations

import pytest

from reproduce.claims.summaries import NOTES, Note, note

NOTE = Note(
    "The chess union met in Lund on 4 March. Owen Brandt was chosen as chair for 3 years. The yearly budget was raised from "
    "7,500 to 9,100 euros. They will meet again on 15 March. It rained all evening.",
    (("Lund",), ("Brandt",), ("9100",), ("15", "March")),
)


@pytest.mark.parametrize(
    ("summary", "marks"),
    [
        ("In Lund, Owen Brandt became chair, the budget rose to 9,100 euros, and they meet on 15 March.", (1, 1, 1)),
        ("The union chose Brandt and will meet on March 15th.", (0.5, 1, 1)),
        ("The budget rose to 9100 in lund", (0.5, 1, 1)),
        ("Brandton was chosen in Lundby.", (0, 1, 1)),
        ("In Lund they raised 9,100 by 21 %.", (0.5, 0, 1)),
        ("They meet on 15 April.", (0, 1, 1)),
        ("Lund " * 41, (0.25, 1, 0)),
        ("", (0, 1, 1)),
    ],
)
def test_marks(summary: str, marks: tuple[float, float, float]) -> None:
    assert NOTE.marks(summary) == marks


def test_a_note_is_its_own_best_summary_but_for_its_length() -> None:
    made = [note(number) for number in range(NOTES)]
    assert len({each.text for each in made}) == NOTES
    told = [each.marks(each.text) for each in made]
    assert all(mark[1:] == (1.0, 0.0) for mark in told)
    assert all(mark[0] == 1.0 for mark in told)
