"""Answers that are quantities: a number with its unit, in the base unit of its kind."""

from __future__ import annotations

import re
from fractions import Fraction

from exptilt.answers.numeric import NUMBER, Places, canonical, plain, value

# For each base unit: the names of a unit, and how many base units it is. "miles an hour" must stand before "miles".
_KINDS: dict[str, dict[str, str]] = {
    "m/s": {
        "m/s|met(?:er|re)s per second": "1",
        "km/h|kph|kilomet(?:er|re)s (?:per|an) hour": "5/18",
        "mph|miles (?:per|an) hour": "0.44704",
    },
    "m": {
        "mm|millimet(?:er|re)s?": "0.001",
        "cm|centimet(?:er|re)s?": "0.01",
        "m|met(?:er|re)s?": "1",
        "km|kilomet(?:er|re)s?": "1000",
        "inch|inches": "0.0254",
        "ft|foot|feet": "0.3048",
        "yd|yards?": "0.9144",
        "mi|miles?": "1609.344",
    },
    "m^2": {
        r"cm\^2|square (?:cm|centimet(?:er|re)s?)": "0.0001",
        r"m\^2|square met(?:er|re)s?": "1",
        r"km\^2|square kilomet(?:er|re)s?": "1000000",
        r"ft\^2|square (?:foot|feet)": "0.09290304",
        "ha|hectares?": "10000",
        "acres?": "4046.8564224",
    },
    "l": {
        r"ml|millilit(?:er|re)s?|cm\^3|cubic centimet(?:er|re)s?": "0.001",
        "l|L|lit(?:er|re)s?": "1",
        r"m\^3|cubic met(?:er|re)s?": "1000",
        "gal|gallons?": "3.785411784",
    },
    "g": {
        "mg|milligrams?": "0.001",
        "g|grams?": "1",
        "kg|kilograms?|kilos?": "1000",
        "tonnes?": "1000000",
        "oz|ounces?": "28.349523125",
        "lbs?|pounds?": "453.59237",
    },
    "s": {
        "ms|milliseconds?": "0.001",
        "s|secs?|seconds?": "1",
        "mins?|minutes?": "60",
        "h|hrs?|hours?": "3600",
        "days?": "86400",
        "weeks?": "604800",
    },
    "month": {"months?": "1", "years?": "12"},
    "$": {"cents?|¢": "0.01", "dollars?|USD": "1"},
    "€": {"€|euros?|EUR": "1"},
    "£": {"£|GBP": "1"},
    "%": {"%|percent|per cent": "1"},
    "°C": {"°C|° C|degrees Celsius": "1"},
    "°F": {"°F|° F|degrees Fahrenheit": "1"},
    "°": {"°|degrees?": "1"},
}
_UNITS = [(re.compile(names), base, Fraction(size)) for base, kind in _KINDS.items() for names, size in kind.items()]
_NAME = rf"(?:{'|'.join(names for kind in _KINDS.values() for names in kind)})(?![A-Za-z^/])"
_PART = rf"(?:(?P<sign>[€£])[ ]?)?(?P<number>{NUMBER})(?:[ \t-]?[ \t]*(?P<unit>{_NAME}))?"
_BARE = re.sub(r"\(\?P<\w+>", "(?:", _PART)
_FIRST_OF_MANY = rf"{NUMBER}[ \t-]?[ \t]*{_NAME}(?:,? and |,? )"
_QUANTITIES = Places(rf"(?:{_FIRST_OF_MANY}){{0,3}}{_BARE}")
_PARTS = re.compile(_PART)
_MARKS = (
    ("^{\\circ}", "°"),
    ("^\\circ", "°"),
    ("\\degree", "°"),
    ("^{2}", "^2"),
    ("^{3}", "^3"),
    ("²", "^2"),
    ("³", "^3"),
)
_FORMULA = re.compile(r"\$(?! )([^$\n]{1,200}?)(?<! )\$(?![0-9])")  # "$90^\circ$", but not "$5 and $6"
_LATEX_TEXT = re.compile(r"\\(?:text|mathrm|textrm|mbox) ?\{[ ~]*([^{}]*)\}")


def quantity(text: str) -> str | None:
    """The final number with its unit, in the base unit of its kind: "1.5 km" and "1,500 meters" are "1500 m".

    Looked for where `number` looks. Lengths become "m", areas "m^2", volumes "l", masses "g", times "s" (months and
    years "month"), speeds "m/s", dollars and cents "$", "%" and degrees stay; "2 hours 30 minutes" and "150 min" are
    both "9000 s". Another word after the number is no unit: "42 apples" is "42", as a bare 42 is. A number with a unit
    and one without are different answers; where responses often leave the unit out, `number` is the better reader.
    """
    text = plain(_LATEX_TEXT.sub(r" \1", _FORMULA.sub(r"\1", text)))
    for mark, simple in _MARKS:
        text = text.replace(mark, simple)
    written = _QUANTITIES.find(text)
    return None if written is None else _sum([_measure(part) for part in _PARTS.finditer(written)])


def _measure(part: re.Match[str]) -> tuple[Fraction | None, str, Fraction]:
    """The size of a part in its base unit, the base unit ("" for none), and the size of its own unit."""
    size, unit = value(part["number"]), part["unit"]
    if size is None or (unit is None and part["sign"] is None and "$" not in part["number"]):
        return size, "", Fraction(1)
    if unit is None:
        return size, part["sign"] or "$", Fraction(1)
    base, factor = next((base, factor) for pattern, base, factor in _UNITS if pattern.fullmatch(unit))
    return size * factor, base, factor


def _sum(parts: list[tuple[Fraction | None, str, Fraction]]) -> str | None:
    """The last part, with those before it that it continues: each of the same kind, in a larger unit."""
    total, base, factor = parts[-1]
    for size, other, larger in reversed(parts[:-1]):
        if other != base or larger <= factor or size is None or total is None:
            break
        total, factor = total + size, larger
    number = canonical(total)
    return number if number is None or not base else f"{number} {base}"
