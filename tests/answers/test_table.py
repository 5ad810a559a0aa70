"""Equal answers are equal strings and different ones different, for every class of the table."""

from __future__ import annotations

import pytest

from exptilt import answers
from exptilt.core import Draft
from exptilt.keys import Key
from exptilt.populations.population import Population
from exptilt.populations.select import vote
from tests.answers.table import READERS, by_hand, generated, rows


def test_the_table_holds_more_than_two_thousand_cases() -> None:
    tables = [table(reader) for reader in READERS for table in (by_hand, generated)]
    assert sum(len(texts) for classes in tables for texts in classes.values()) >= 2000


@pytest.mark.parametrize("reader", READERS)
def test_equal_answers_are_equal_strings(reader: str) -> None:
    """Every text of a class has the same answer, and it has none only where the class says so.

    Digits inside of "2\\sqrt{3}", "3-5", "May 5" or "2, 3" were once read as numbers of their own: the class "-" of
    cases/number.tsv and cases/quantity.tsv is what must not be read in part.
    """
    if reader == "latex":
        pytest.importorskip("math_verify")
    read = getattr(answers, reader)
    for table in (by_hand(reader), generated(reader)):
        for name, texts in table.items():
            found = {text: read(text) for text in texts}
            assert len(set(found.values())) == 1, (name, found)
            assert all((answer is None) == (name == "-") for answer in found.values()), (name, found)


@pytest.mark.parametrize("reader", READERS)
def test_different_answers_are_different_strings(reader: str) -> None:
    if reader == "latex":
        pytest.importorskip("math_verify")
    read = getattr(answers, reader)
    for table in (by_hand(reader), generated(reader)):
        forms: dict[str | None, str] = {}
        for name, texts in table.items():
            form = read(texts[0])
            assert form not in forms, (name, forms[form], form)
            forms[form] = name


@pytest.mark.parametrize("reader", ["number", "quantity", "choice", "exact"])
def test_a_canonical_form_is_its_own_answer(reader: str) -> None:
    """Forms are compared with references that were forms once: reading twice must change nothing."""
    read = getattr(answers, reader)
    for name, texts in by_hand(reader).items():
        form = read(texts[0])
        assert form is None or read(form) == form, name


@pytest.mark.parametrize("reader", ["number", "choice", "exact"])
def test_texts_have_the_forms_of_the_table(reader: str) -> None:
    read = getattr(answers, reader)
    wrong = {
        text: read(text) for name, form, text in rows("forms.tsv") if name == reader and read(text) != {"-": None}.get(form, form)
    }
    assert not wrong


@pytest.mark.parametrize("reader", ["quantity", "latex"])
def test_pairs_are_equal_or_not(reader: str) -> None:
    """Math-Verify's parser alone reads 3ab as 3, x' as x, A as a, and "1 234" as 235: pairs tell what single forms would not."""
    if reader == "latex":
        pytest.importorskip("math_verify")
    read = getattr(answers, reader)
    wrong = {}
    for name, sign, one, other in rows("pairs.tsv"):
        if name == reader:
            forms = read(one), read(other)
            if (forms[0] is not None and forms[0] == forms[1]) != (sign == "="):
                wrong[one, sign, other] = forms
    assert not wrong


def test_equal_answers_vote_together() -> None:
    texts = ["#### 42", "The answer is $42.", "\\boxed{42.0}", "#### 41", "#### 41", "no idea"]
    population = Population.unweighted([Draft("q", (row,), None, text, "stop") for row, text in enumerate(texts)], [0.0] * 6)
    assert answers.number(vote(answers.number)(population, Key(0)).text) == "42"
    assert vote(answers.number).posterior(population) == pytest.approx({"42": 3 / 6, "41": 2 / 6, None: 1 / 6})
