"""Answers that are quantities: a number with its unit, in the base units of its kind."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from exptilt.answers.candidates import Found
from exptilt.answers.clean import answering, clean
from exptilt.answers.lexer import Token, token_at
from exptilt.answers.literals import canonical, literal
from exptilt.answers.numerals import CURRENCIES, CURRENCY_WORDS, number_at
from exptilt.answers.numeric import clock_at
from exptilt.answers.passages import Unreadable
from exptilt.answers.readings import find
from exptilt.answers.unit_table import Unit, lookup
from exptilt.answers.units import unit_at

_JOINTS = ("and", ",")


def quantity(text: str) -> str | None:
    """The final number with its unit, in base units: "1.5 km" and "1,500 meters" are "1500 m", "100 °C" and "212 °F" "373.15 K".

    Looked for where `number` looks. Units are those of science, commerce and the kitchen, with metric prefixes and composed of
    others ("kg m/s^2", "miles per hour", "$5/hour"); "2 hours 30 minutes", "2:30 hours" and "150 min" are all "9000 s".
    Months and years are "month", volumes "m^3". Any other word after the number is not a unit: "42 apples" is "42", as is a
    bare 42. A number with a unit and one without are different answers; where responses often leave the unit out, `number` is
    the better reader.
    """
    return find(clean(answering(text)), quantity_form)


def quantity_form(tokens: Sequence[Token], start: int) -> Found | None:
    """The form of the quantity that begins at a token, with the smaller parts that continue it."""
    if (clock := clock_at(tokens, start)) is not None:
        return _duration(tokens, start, clock)
    found = _part(tokens, start)
    if found is None:
        return None
    size, unit, at = found
    if unit is None:
        return canonical(size), at
    total, smallest = size * unit.size + unit.zero, unit.size
    while (more := _continued(tokens, at, unit, smallest)) is not None:
        total, smallest, at = total + (more[0] if total >= 0 else -more[0]), more[1], more[2]
    return f"{canonical(total)} {unit.name}", at


def _part(tokens: Sequence[Token], start: int) -> tuple[Fraction, Unit | None, int] | None:
    """One number with its unit, and the position after it."""
    if (vague := _vague(tokens, start)) is not None:
        return vague
    found = number_at(tokens, start)
    if found is None:
        return None
    size, at = found
    money = next(
        (sign for token in tokens[start:at] if (sign := CURRENCIES.get(token.text) or CURRENCY_WORDS.get(token.text))), None
    )
    if feet := _marked(tokens, start, at):
        return size, feet, at + 1
    of_a = token_at(tokens, at).text == "of" and token_at(tokens, at + 1).text in ("a", "an")
    after = unit_at(tokens, at + 2 * of_a)  # "three quarters of an hour"
    if money is None:
        return (size, None, at) if after is None else (size, after[0], after[1])
    unit = lookup(money)
    if unit is None:
        raise Unreadable
    if after is None or (after[0].powers and after[0].powers == unit.powers):  # "$5 USD"
        return size, unit, at if after is None else after[1]
    per_money = all(power < 0 for _, power in after[0].powers)
    return (size, unit * after[0], after[1]) if per_money else (size, unit, at)


def _vague(tokens: Sequence[Token], start: int) -> tuple[Fraction, Unit, int] | None:
    """ "half an hour", "an hour", "a quarter of an hour", "an hour and a half"."""
    words = [token_at(tokens, start + step).text.lower() for step in range(5)]
    skip = words[0] == "a" and words[1] in ("half", "quarter")
    size, words = Fraction(1), words[skip:]
    at = start + skip
    if words[0] in ("half", "quarter"):
        size, at = Fraction(1, 2 if words[0] == "half" else 4), at + 1 + (words[1] == "of")
    if token_at(tokens, at).text.lower() not in ("a", "an") or (unit := unit_at(tokens, at + 1)) is None:
        return None
    at = unit[1]
    if [token_at(tokens, at + step).text for step in range(3)] == ["and", "a", "half"]:
        size, at = size + Fraction(1, 2), at + 3
    return size, unit[0], at


def _marked(tokens: Sequence[Token], start: int, at: int) -> Unit | None:
    """The unit of 5' and 6", where the mark is not a closing quote."""
    token, before = token_at(tokens, at), token_at(tokens, start - 1)
    if token.gap or token.text not in ("'", '"') or before.text == token.text or token_at(tokens, at + 1).kind == "word":
        return None
    return lookup("ft" if token.text == "'" else "inch")


def _continued(tokens: Sequence[Token], at: int, unit: Unit, smallest: Fraction) -> tuple[Fraction, Fraction, int] | None:
    """A further part of the same kind in a smaller unit: its size in base units, its unit's size, the position after it."""
    while token_at(tokens, at).text in _JOINTS:
        at += 1
    if token_at(tokens, at).kind != "number":
        return None
    found = _part(tokens, at)
    if found is not None and unit.name == "s" and token_at(tokens, found[2] - 1).text == "m":  # "2h 30m"
        found = found[0], lookup("min"), found[2]
    if found is None or found[1] is None or found[1].powers != unit.powers or found[1].size >= smallest or unit.zero:
        return None
    return found[0] * found[1].size, found[1].size, found[2]


def _duration(tokens: Sequence[Token], start: int, clock: Found) -> Found:
    """ "2:30 hours" is 2 hours and 30 minutes; without a unit of time after it a clock time stays as it is."""
    after = unit_at(tokens, clock[1])
    if after is None or after[0].powers != (("s", 1),) or after[0].size not in (60, 3600):
        return clock
    parts = [literal(token.text) for token in tokens[start : clock[1]] if token.kind == "number"]
    total = sum((part * after[0].size / 60**step for step, part in enumerate(parts)), Fraction(0))
    return f"{canonical(total)} s", after[1]
