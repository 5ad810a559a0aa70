"""Answers that are numbers: where a response states its final number, and the one string for each value.

Digits that belong to a root, a power, a range, a date or a list are not numbers of their own, and an answer that is one of
these is None.
"""

from __future__ import annotations

from collections.abc import Sequence

from exptilt.answers.candidates import Found
from exptilt.answers.clean import answering, clean
from exptilt.answers.lexer import Token, token_at
from exptilt.answers.literals import canonical
from exptilt.answers.numerals import number_at
from exptilt.answers.readings import find
from exptilt.answers.units import unit_at


def number(text: str) -> str | None:
    """The final number: "42.0", "$42." and "42%" are "42", "1,234.50" is "1234.5", "2/4" and "0.5" are "0.5", "1/3" stays.

    It is looked for in the passages of `exptilt.answers.passages`; then after the last "=" that a number follows; then it is the
    last number of the text. Signs of currency, thousands separators, units and percent signs are dropped: 50% is "50".
    Fractions, mixed numbers, powers, periods (0.\\overline{3}), bases (101_2), scales (3 million, 2 dozen) and English words
    are read; a clock time or a ratio keeps its form, "3:30". None where the answer is several numbers, a range, a date, a
    root or a multiple of π. A comma is a decimal point only where points separate the thousands: "1.234,5".
    """
    return find(clean(answering(text)), number_form)


def number_form(tokens: Sequence[Token], start: int) -> Found | None:
    """The form of the number that begins at a token; a unit after it belongs to it and is dropped."""
    return clock_at(tokens, start) or literal_form(tokens, start)


def literal_form(tokens: Sequence[Token], start: int) -> Found | None:
    """The same without clock times and ratios."""
    found = number_at(tokens, start)
    if found is None:
        return None
    unit = unit_at(tokens, found[1])
    after = token_at(tokens, found[1])
    in_a_formula = not after.prose and after.kind == "word" and len(after.text) == 1  # "5m" is 5·m there
    return canonical(found[0]), found[1] if unit is None or in_a_formula else unit[1]


def clock_at(tokens: Sequence[Token], start: int) -> Found | None:
    """A clock time or a ratio, "3:30", "12:05 pm", "2:3", as it is written, without a leading zero."""
    parts, at = [token_at(tokens, start).text], start + 1
    while token_at(tokens, at).text == ":" and (part := token_at(tokens, at + 1)).kind == "number" and part.gap == tokens[at].gap:
        parts, at = [*parts, part.text], at + 2
    half = token_at(tokens, at).text.lower()
    half = half if half in ("am", "pm") else ""
    if not all(part.replace(".", "", 1).isdecimal() for part in parts) or not (len(parts) > 1 or half):
        return None
    if len(parts) == 1:
        parts.append("00")
    return f"{':'.join([parts[0].lstrip('0') or '0', *parts[1:]])} {half}".strip(), at + bool(half)
