"""Answers that are quantities: a number with its unit, in base units. Units are read as they are composed: "kg m/s^2"."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from exptilt.answers.lexer import Token, token_at
from exptilt.answers.unit_table import Unit, lookup

_NONE = Unit(Fraction(1), ())
_SQUARE = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_AFTERWARDS = {"squared": 2, "cubed": 3}
_PER = {"/": 1, "per": 1, "an": 1, "a": 1}
_SEVERAL_WORDS = (
    (("percentage", "points"), "pp"), (("percentage", "point"), "pp"), (("percent", "points"), "pp"), (("basis", "points"), "bp"),
    (("per", "cent"), "%"), (("fl", "oz"), "floz"), (("fluid", "ounces"), "floz"), (("fluid", "ounce"), "floz"),
    (("degrees", "celsius"), "C"), (("degree", "celsius"), "C"), (("degrees", "fahrenheit"), "F"),
    (("degree", "fahrenheit"), "F"),
    (("deg", "c"), "C"), (("deg", "f"), "F"),
    (("degrees", "c"), "C"), (("degrees", "f"), "F"), (("°", "c"), "C"), (("°", "f"), "F"), (("metric", "tons"), "t"),
    (("metric", "ton"), "t"), (("nautical", "miles"), "nmi"), (("nautical", "mile"), "nmi"), (("light", "years"), "ly"),
    (("light", "-", "years"), "ly"), (("light", "year"), "ly"), (("mm", "hg"), "mmHg"),
    (("pounds", "sterling"), "GBP"),
)  # fmt: skip
_FLUID_OUNCE = Unit(Fraction("0.0000295735295625"), (("m", 3),))
_MERCURY = Unit(Fraction("133.322387415"), (("kg", 1), ("m", -1), ("s", -2)))


def unit_at(tokens: Sequence[Token], start: int, *, bracketed: bool = False) -> tuple[Unit, int] | None:
    """The unit that begins at a token and the position after it; None where none does.

    bracketed: whether it stands in brackets, where units side by side are factors: "J/(mol K)".
    """
    hyphen = token_at(tokens, start).text == "-" and token_at(tokens, start + 1).kind == "word"
    found = _factor(tokens, start + hyphen)
    if found is None:
        per = _per(tokens, start)
        found = None if per is None else (per[0], per[1])
        if found is None:
            return None
    unit, at = found
    while (more := _per(tokens, at) or (_factor if bracketed else _times)(tokens, at) or _times(tokens, at)) is not None:
        unit, at = unit * more[0], more[1]
    return unit, at


def _per(tokens: Sequence[Token], at: int) -> tuple[Unit, int] | None:
    """ "/s", "per hour", "an hour"."""
    word = token_at(tokens, at).text
    if word not in _PER:
        return None
    bracket = token_at(tokens, at + 1)[:2] == ("mark", "(")
    found = unit_at(tokens, at + 2, bracketed=True) if bracket else _factor(tokens, at + 1)
    if bracket and found is not None and token_at(tokens, found[1]).text != ")":
        return None
    if found is not None and not bracket and _is_temperature(tokens, found[1]) and (more := _factor(tokens, found[1])):
        found = found[0] * more[0], more[1]  # "J/g°C" is J/(g °C)
    if found is None or (
        word == "a" and token_at(tokens, at + 1).text not in ("day", "week", "month", "year", "minute", "second")
    ):
        return None
    return found[0] ** -1, found[1] + bracket


def _times(tokens: Sequence[Token], at: int) -> tuple[Unit, int] | None:
    """A further factor: "N·m", "kilowatt-hours", "m s^{-1}"."""
    token = token_at(tokens, at)
    if token.text == "." and (token.gap or token_at(tokens, at + 1).gap):  # the end of a sentence, not of "kg" in "kg.m/s"
        return None
    if token.text in ("·", "*", "-", "⋅", "."):
        return _factor(tokens, at + 1) if token_at(tokens, at + 1).kind == "word" or _is_temperature(tokens, at + 1) else None
    if _is_temperature(tokens, at):
        return _factor(tokens, at)
    if token.kind != "word":
        return None
    found = _factor(tokens, at)
    if found is None:
        return None
    raised = found[1] > at + 1 and "^" in [each.text for each in tokens[at : found[1]]]
    before = token_at(tokens, at - 1).text.lower()
    named = before.endswith(("watt", "newton", "watts", "newtons")) or (
        len(token.text) < 3 and token_at(tokens, at + 1).text == "/"
    )
    named = named or (not token.prose and len(token.text) < 3)
    return found if raised or named else None


def _is_temperature(tokens: Sequence[Token], at: int) -> bool:
    return token_at(tokens, at).text == "°" and token_at(tokens, at + 1).text in ("C", "F")


def _factor(tokens: Sequence[Token], at: int) -> tuple[Unit, int] | None:
    """One unit with its power: "cm^2", "square feet", "meters cubed", "cm3"."""
    token = token_at(tokens, at)
    if token.text == "\\frac":
        return _fraction(tokens, at)
    for words, name in _SEVERAL_WORDS:
        if all(token_at(tokens, at + step).text.lower() == word for step, word in enumerate(words)):
            return _known(name), at + len(words)
    if power := _SQUARE.get(token.text.lower()):
        dot = token_at(tokens, at + 1).text == "."
        found = _known(token_at(tokens, at + 1 + dot).text)
        return (found**power, at + 2 + dot) if found.powers else None
    unit, power = _known(token.text), 1
    if not unit.powers and token.text[-1:] in ("2", "3") and token.text[:-1].isalpha():
        unit, power = _known(token.text[:-1]), int(token.text[-1])
    if not unit.powers or (token.text == "in" and not _ends(tokens, at + 1)):
        return None
    at += 1
    digit = token_at(tokens, at)
    if digit.text in ("2", "3") and not digit.gap and unit.powers == (("m", 1),):  # "5cm2"
        power, at = int(digit.text), at + 1
    elif digit.text == "^":
        power, at = _exponent(tokens, at)
    elif afterwards := _AFTERWARDS.get(token_at(tokens, at).text.lower()):
        power, at = afterwards, at + 1
    return (unit if power == 1 else unit**power), at


def _known(name: str) -> Unit:
    """The unit of a name, one without powers where there is none."""
    if name in ("floz", "mmHg"):
        return _FLUID_OUNCE if name == "floz" else _MERCURY
    return lookup("inch" if name == "in" else name) or _NONE


def _ends(tokens: Sequence[Token], at: int) -> bool:
    """Whether "in" before this place can be inches: no word follows that it would go with."""
    token = token_at(tokens, at)
    return token.kind == "mark" and token.text not in ("$",)


def _exponent(tokens: Sequence[Token], at: int) -> tuple[int, int]:
    """The power written from "^" on, and the position after it."""
    braced = token_at(tokens, at + 1).text in ("{", "(")
    minus = token_at(tokens, at + 1 + braced).text == "-"
    digits = token_at(tokens, at + 1 + braced + minus).text
    if not digits.isdecimal() or len(digits) > 2:
        return 1, at
    return int(digits) * (-1 if minus else 1), at + 2 + 2 * braced + minus


def _fraction(tokens: Sequence[Token], at: int) -> tuple[Unit, int] | None:
    """ "\\frac{m}{s}"."""
    above = unit_at(tokens, at + 2) if token_at(tokens, at + 1)[:2] == ("mark", "{") else None
    if above is None or token_at(tokens, above[1]).text != "}" or token_at(tokens, above[1] + 1).text != "{":
        return None
    below = unit_at(tokens, above[1] + 2)
    return None if below is None else (above[0] * below[0] ** -1, below[1] + 1)
