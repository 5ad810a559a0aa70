"""Where an answer is looked for, in which order; and that no reader takes time with the square of a hostile text."""

from __future__ import annotations

import pytest

from exptilt.answers import boxed, choice, code, exact, latex, number, quantity


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2 * 3 = 6\n#### 42", "42"),
        ("#### 42\n\nQuestion: next\n#### 7", "42"),
        ("#### $1,234.50", "1234.5"),
        ("#### -7", "-7"),
        ("#### 42 apples", "42"),
        ("#### 5.", "5"),
        ("#### 8 \\boxed{9}", "8"),
        ("#### Step 1: add\n2 + 2 = 4\n#### Done", "4"),
        ("#### 1. Compute\nThe answer is 12.", "12"),
        ("so 5, that is \\boxed{42}, or 43", "42"),
        ("\\boxed{1} and then \\boxed{2}", "2"),
        ("it was 7 \\boxed{unknown}", None),
        ("it was 7 \\boxed{12", None),
        ("<answer>5</answer>, for #### 4 and \\boxed{3}", "5"),
        ("The answer is 4.\n<answer>\nThe answer is 5.\n</answer>", "5"),
        ("<think>\\boxed{3}</think>The answer is 5.", "5"),
        ("<think>\\boxed{3}", None),
        ("\\boxed{3}</think>", None),
        ("The answer is $42. There were 3 of us.", "42"),
        ("The answer is 5 * 3 = 15. Check: 3 = 3", "15"),
        ("The answer is not 3. The answer is 4", "4"),
        ("The answer is 4. The answer is not 3", "4"),
        ("Only 3 = 3. The answer is not 3.", None),
        ("Answer:\n\n4\n\nSee 5.", "4"),
        ("## Final answer\n4 of 5", "4"),
        ("A: 5\nB: 6\nAnswer: 7", "7"),
        ("2 + 3 = 5 of 9", "5"),
        ("x = 3 * 4, hence 12", "12"),
        ("x^2 = 9, so x is 3", "3"),
        ("3 apples and 4 pears", "4"),
        ("nothing", None),
        ("", None),
    ],
)
def test_number_reads_the_marked_answer(text: str, expected: str | None) -> None:
    assert number(text) == expected


def test_boxed_balances_braces() -> None:
    assert boxed("\\boxed{a} \\boxed{\\frac{1}{2}} {") == "\\frac{1}{2}"
    assert boxed("\\boxed{a} \\boxed{\\frac{1}{2}") is None
    assert boxed("\\boxed{a} \\fbox {\\{b\\}}") == "\\{b\\}"
    assert boxed("none") is None


PIECES = [
    "9", "1,", "1.", "1 2", "1/", "1 1/2 ", "1'", "½", "１", "-", "= ", "= 1", "answer is ", "answer**", "####", "\\boxed{",
    "\\frac{", "\\(", "\\sqrt", "\\text{", "$", "sqrt(", "0.(", "^{", "2^", "{", "(", "(A", "A or ", "a ", "one ", "hundred ",
    "5 km and ", " ", "\t", "\n", "\r\n", " \n", "\u00a0", "\u200b", "。", "'", '"', "> ", "```\n", "```",
    "<answer>", "<think>", "</think>", "i.e. ", "x = 2, ", "|", "[[", "the answer ",
    "it is ", "i choose ", "\\boxed{1} and ", "so ",
    "an hour ", "m/s ", "0.3...", "≈", "A: ", "\\[ a = ", "$a = ", "$a$ = ", "\\mu{", "<<a=", "kg.", "so A, ", "/(m ",
]  # fmt: skip


@pytest.mark.parametrize("piece", PIECES)
def test_reading_takes_time_linear_in_the_text(piece: str) -> None:
    """A response may degenerate into 100,000 spaces, which once cost `number` 166 s with the interpreter locked.

    Of 200,000 characters, what takes quadratic time takes longer than a test may: the suite's time limit ends it.
    """
    for read in (number, quantity, latex, choice, code, exact):
        found = read("x = 5 " + piece * (200_000 // len(piece)))
        assert found is None or isinstance(found, str)
