"""Reading answers: markers in their order, one canonical string per value, and no slow path on hostile text."""

from __future__ import annotations

import time

import pytest

from exptilt.answers import boxed, choice, exact, number


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
        ("\\boxed{x = 5}", "5"),
        ("\\boxed{x = 2 + 3 = 5}", "5"),
        ("\\boxed{1{,}000 \\text{ m}}", "1000"),
        ("\\boxed{\\$5}", "5"),
        ("\\boxed{\\frac{2}{4}}", "0.5"),
        ("\\boxed{-\\frac{1}{3}}", "-1/3"),
        ("it was 7 \\boxed{unknown}", None),
        ("it was 7 \\boxed{12", None),
        ("The answer is $42. There were 3 of us.", "42"),
        ("answer: **3,000**", "3000"),
        ("The answer is 5 * 3 = 15. Check: 3 = 3", "15"),
        ("The answer is not 3. The answer is 4", "4"),
        ("2 + 3 = 5 of 9", "5"),
        ("x = 3 * 4, hence 12", "12"),
        ("3 apples and 4 pears", "4"),
        ("nothing", None),
        ("", None),
    ],
)
def test_number_reads_the_marked_answer(text, expected):
    assert number(text) == expected


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("42", "42"),
        ("42.0", "42"),
        ("042", "42"),
        ("$42.", "42"),
        ("42%", "42"),
        ("84/2", "42"),
        ("−3", "-3"),
        ("-$5", "-5"),
        ("$-5", "-5"),
        ("-0.0", "0"),
        (".5", "0.5"),
        ("0.50", "0.5"),
        ("2/4", "0.5"),
        ("1/3", "1/3"),
        ("-2/6", "-1/3"),
        ("0.0625", "0.0625"),
        ("-12.125", "-12.125"),
        ("1e3", "1000"),
        ("1,000,000", "1000000"),
        ("10-4", "4"),
        ("1/0", "0"),
    ],
)
def test_number_has_one_form_for_each_value(written, canonical):
    assert number(written) == canonical
    assert number(canonical) == canonical


@pytest.mark.parametrize("piece", ["9", "1,", "answer is ", "= ", "= 1", "####", "\\boxed{", "\\frac{", "1/", "-", "answer**"])
def test_number_stays_quick_on_hostile_text(piece):
    """50,000 characters must not cost a time that grows with their square: minutes instead of a fraction of a second."""
    start = time.perf_counter()
    number(piece * (50_000 // len(piece)))
    assert time.perf_counter() - start < 5


def test_number_refuses_endless_digits():
    assert number("#### " + "9" * 5000) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The answer is (B).", "B"),
        ("ANSWER: C", "C"),
        ("**Answer:** D", "D"),
        ("The correct answer is **(B) Paris**, not (A).", "B"),
        ("The answer is A. No, the answer is option E", "E"),
        ("The answer is A because it fits", "A"),
        ("The answer is A lot of work", None),
        ("the answer is a bit long", None),
        ("(A) is wrong \\boxed{B}", "B"),
        ("\\boxed{\\text{(C)}}", "C"),
        ("B", "B"),
        ("Let us see.\n(D)", "D"),
        ("A. Paris", "A"),
        ("A dog", None),
        ("Not (A), so I pick (C) here", "C"),
        ("answer: F", None),
        ("Because", None),
        ("", None),
    ],
)
def test_choice(text, expected):
    assert choice(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  Paris. ", "paris"),
        ("“The  Cat”!", "the cat"),
        ("a.b", "a.b"),
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
        ("?", "?"),
        (" ", None),
    ],
)
def test_exact(text, expected):
    assert exact(text) == expected


def test_boxed_balances_braces():
    assert boxed("\\boxed{a} \\boxed{\\frac{1}{2}} {") == "\\frac{1}{2}"
    assert boxed("\\boxed{a} \\boxed{\\frac{1}{2}") is None
    assert boxed("none") is None
