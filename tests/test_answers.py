"""Reading answers: markers in their order, one canonical string per value, and no slow path on hostile text."""

from __future__ import annotations

import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from exptilt import answers
from exptilt.answers import boxed, choice, exact, latex, maths, number, quantity
from exptilt.draft import Draft
from exptilt.errors import ExptiltError
from exptilt.keys import Key
from exptilt.populations.population import Population
from exptilt.populations.select import vote


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


HOSTILE = ["9", "1,", "answer is ", "= ", "= 1", "####", "\\boxed{", "\\frac{", "1/", "-", "answer**", "1 1/2 ", "5 km and "]
HOSTILE += ["\\(", "$", "a "]


@pytest.mark.parametrize("read", [number, quantity, latex])
@pytest.mark.parametrize("piece", HOSTILE)
def test_reading_stays_quick_on_hostile_text(piece, read):
    """50,000 characters must not cost a time that grows with their square: minutes of CPU instead of a fraction of a second."""
    start = time.thread_time()
    read(piece * (50_000 // len(piece)))
    assert time.thread_time() - start < 5


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


# ------------------------------------------------------------------------------------------------- the table of cases

WAYS = ("{}", "{}.0", "${}", "0{}", "{}.", "**{}**", "{}%", "{} apples", "{}/1")
PLACES = (
    "#### {}",
    "The answer is {}",
    "3 + 4 of them, so \\boxed{{{}}}",
    "First 2 + 2 = 4, then 5 * 5 = {}",
    "Of 3 or 4 boxes he keeps {}",
)
LENGTHS = (("{} m", 1), ("{} meters", 1), ("{} km", 1000), ("{}000 mm", 1), ("the answer is {} kilometers", 1000))
OPTIONS = (
    "The answer is ({})",
    "Answer: {}",
    "\\boxed{{{}}}",
    "**Answer:** {}.",
    "not sure, but\n{}",
    "I say ({}) here",
    "{}) this one",
)

Cases = dict[str, dict[str, list[str]]]


def all_cases() -> Cases:
    """reader -> class -> texts: values in all ways of writing and all places, and the hand-written file."""
    cases: Cases = defaultdict(lambda: defaultdict(list))
    for value in (1, 2, 7, 10, 12, 48, 99, 100, 365, 1000, 4321, 20000, 123456, 7000000, 10**9, *range(201, 216)):
        for way in WAYS:
            cases["number"][str(value)] += [place.format(way.format(value)) for place in PLACES]
        cases["number"][str(value)] += [place.format(f"{value:,}") for place in PLACES]
    for meters in (1, 3, 17, 250):
        for way, unit in LENGTHS:
            cases["quantity"][f"{meters * unit} m"].append(way.format(meters))
    for letter in "ABCDE":
        cases["choice"][letter] += [way.format(letter) for way in OPTIONS]
    for line in Path(__file__).with_name("answer_cases.tsv").read_text().splitlines():
        if line and not line.startswith("#"):
            reader, name, text = line.split("\t")
            plain = text.replace("\\\\", "\0").replace("\\n", "\n").replace("\0", "\\")
            cases[reader][f"by hand: {name}" if name != "-" else name].append(plain)
    return cases


def test_the_table_holds_a_thousand_cases() -> None:
    assert sum(len(texts) for classes in all_cases().values() for texts in classes.values()) >= 1000


@pytest.mark.parametrize("reader", ["number", "quantity", "choice", "exact", "code", "latex"])
def test_equal_answers_are_equal_strings(reader: str) -> None:
    """Every text of a class has the same answer, and it has none only where the class says so."""
    if reader == "latex":
        pytest.importorskip("math_verify")
    read = getattr(answers, reader)
    for name, texts in all_cases()[reader].items():
        found = {text: read(text) for text in texts}
        assert len(set(found.values())) == 1, (name, found)
        assert all((answer is None) == (name == "-") for answer in found.values()), (name, found)


@pytest.mark.parametrize("reader", ["number", "quantity", "choice", "exact", "code", "latex"])
def test_different_answers_are_different_strings(reader: str) -> None:
    if reader == "latex":
        pytest.importorskip("math_verify")
    read = getattr(answers, reader)
    by_hand = [texts[0] for name, texts in all_cases()[reader].items() if name.startswith("by hand")]
    generated = [texts[0] for name, texts in all_cases()[reader].items() if not name.startswith(("by hand", "-"))]
    for texts in (by_hand, generated):
        assert len({read(text) for text in texts}) == len(texts)


def test_equal_answers_vote_together() -> None:
    texts = ["#### 42", "The answer is $42.", "\\boxed{42.0}", "#### 41", "#### 41", "no idea"]
    population = Population.unweighted([Draft("q", (row,), None, text, "stop") for row, text in enumerate(texts)], [0.0] * 6)
    assert answers.number(vote(answers.number)(population, Key(0)).text) == "42"
    assert vote(answers.number).posterior(population) == pytest.approx({"42": 3 / 6, "41": 2 / 6, None: 1 / 6})


# ---------------------------------------------------------------------------------------------------------- LaTeX


def test_latex_is_read_in_many_threads() -> None:
    """Samplers run in threads, where a time-out by signal raises: each thread must get the answer of its own formula."""
    pytest.importorskip("math_verify")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(answers.latex, [f"\\boxed{{\\sqrt{{{number}}} + x}}" for number in range(2, 26)]))
    assert len(set(found)) == 24
    assert found[2] == answers.latex("\\boxed{x + 2}")


def test_endless_expressions_are_compared_as_written_and_the_next_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten million factorial takes sympy for ever: its process ends by its CPU limit, and another one reads on."""
    pytest.importorskip("math_verify")
    assert answers.latex("\\boxed{10000000! + x}") == "10000000!+x"
    assert answers.latex("\\boxed{\\frac{x}{2} + \\frac{x}{2}}") == answers.latex("\\boxed{0 + \\left(x\\right)^1 + 0}")


def test_latex_without_math_verify_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Formulas must not be compared in a weaker way without a word; what is plainly a number needs no package."""
    monkeypatch.setattr(maths, "_READER", maths._Reader())
    monkeypatch.setattr(maths.importlib.util, "find_spec", lambda name: None)
    assert answers.latex("\\boxed{1,234.50}") == "1234.5"
    with pytest.raises(ExptiltError, match=r"exptilt\[eval\]"):
        answers.latex("\\boxed{x^2 + 17}")
