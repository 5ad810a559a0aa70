"""Right answers are read whole: as each reader writes answers, bare or as a solution that marks them."""

from __future__ import annotations

import pytest

from exptilt import answers
from exptilt.core import Draft
from exptilt.rewards import Matches


@pytest.mark.parametrize(
    ("reference", "right", "part"),
    [
        ("2x+1", "2x+1", "1"),
        ("\\frac{\\sqrt{5}}{3}", "\\frac13\\sqrt5", "3"),
        ("(3, 4)", "(3,4)", "4"),
        ("x \\le 5", "(-\\infty, 5]", "5"),
        ("2-7i", "-7i+2", "7"),
        ("\\text{Rome}", "Rome", "1"),
        ("3 \\text{ or } 4", "4, 3", "4"),
        ("so that $y = 2$, hence $x = 3$, or \\boxed{3\\sqrt{7}}", "\\sqrt{63}", "7"),
        ("12", "12.0", "2"),
        ("Rome", "\\text{Rome}", "1"),
        ("2 of the 3 sides", "2 of the 3 sides", "3"),
    ],
)
def test_a_bare_latex_reference_is_the_whole_of_it(reference: str, right: str, part: str) -> None:
    """`Matches(answers.latex, "2x+1")` took the reference's last number, 1, and rewarded the draft that answered 1."""
    pytest.importorskip("math_verify")
    reward = Matches(answers.latex, reference)
    drafts = [Draft("q", (row,), None, f"\\boxed{{{text}}}", "stop") for row, text in enumerate((right, part))]
    assert reward("q", drafts) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("reader", "reference", "form"),
    [
        (answers.number, "5 + 7 = 12\n#### 12", "12"),
        (answers.number, "1,200", "1200"),
        (answers.quantity, "3 km", "3000 m"),
        (answers.choice, "c", "C"),
        (answers.choice, "(C)", "C"),
        (answers.code, "a + b", "a + b"),
        (answers.exact, "Rome.", "rome"),
        (str.strip, " one's own ", "one's own"),
    ],
)
def test_references_of_other_readers(reader: answers.Answer, reference: str, form: str) -> None:
    assert answers.reference(reader, reference) == form


def test_a_reference_without_an_answer_is_refused() -> None:
    for reader, reference in ((answers.number, "x > 3"), (answers.choice, "Rome"), (answers.number, "2, 3")):
        with pytest.raises(ValueError, match="finds no answer in the reference"):
            Matches(reader, reference)
