"""Numbers as they are written: signs, fractions, mixed numbers, powers and scales around digits or number words."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from exptilt.answers.lexer import END, Token, token_at
from exptilt.answers.literals import DIGITS, digits_at
from exptilt.answers.passages import Unreadable
from exptilt.answers.words import SCALES, word_fraction, word_number

CURRENCIES = {"$": "$", "€": "€", "£": "£", "¥": "¥", "₹": "₹", "₩": "₩", "₽": "₽", "¢": "¢"}
CURRENCY_WORDS = {
    "USD": "$",
    "US": "$",
    "EUR": "€",
    "GBP": "£",
    "JPY": "¥",
    "INR": "₹",
    "Rs": "₹",
    "CAD": "CAD",
    "AUD": "AUD",
    "CHF": "CHF",
}

_SHORT_SCALES = {"k": 10**3, "K": 10**3, "M": 10**6, "mn": 10**6, "B": 10**9, "bn": 10**9}
_OPEN = {"(": ")", "{": "}"}
_TIMES = ("×", "·", "*", "x", "X")


def number_at(tokens: Sequence[Token], start: int) -> tuple[Fraction, int] | None:
    """The number that begins at a token and the position after it; None where none begins. Raises Unreadable."""
    sign, at = _sign(tokens, start)
    found = _mixed(tokens, at)
    if found is None:
        return None
    size, at = found
    for step in (_power_of_ten, _divided, _scaled):
        size, at = step(tokens, size, at)
    return sign * size, at


def _sign(tokens: Sequence[Token], at: int) -> tuple[int, int]:
    """Signs before a number, of currency and of inexactness too; a number has at most one minus."""
    sign, signs = 1, 0
    while (token := token_at(tokens, at)) is not END:
        if token.text in ("-", "+") or (token.kind == "word" and token.text.lower() in ("negative", "minus")):
            sign, signs = (sign if token.text == "+" else -1), signs + 1
        elif not is_currency(tokens, at) and token.text not in ("≈", "~"):
            break
        at += 1
    if signs > 1:
        raise Unreadable
    return sign, at


def is_currency(tokens: Sequence[Token], at: int) -> bool:
    """Whether this is a sign or code of currency that belongs to the number after it."""
    token, after = token_at(tokens, at), token_at(tokens, at + 1)
    if token.text in CURRENCIES:
        return True
    return token.text in CURRENCY_WORDS and (after.kind == "number" or after.text in (".", "$", "-"))


def _mixed(tokens: Sequence[Token], at: int) -> tuple[Fraction, int] | None:
    """A number with or without a power; a whole number and a proper fraction after it are one number."""
    found = _powered(tokens, at)
    if found is None or found[1] != at + 1 or not tokens[at].text.isdecimal():
        return found
    size, after = found
    joint = token_at(tokens, after)
    if joint.text == "and" and (spoken := word_fraction(tokens, after + 1)) is not None:
        return size + spoken[0], spoken[1]  # "2 and a half"
    hyphen = joint.text == "-" and not joint.gap and not token_at(tokens, after + 1).gap
    part = _proper(tokens, after + (hyphen or joint.text == "and"))
    if part is None or (part[2] and not hyphen and not joint.gap):
        return found
    return size + part[0], part[1]


def _proper(tokens: Sequence[Token], at: int) -> tuple[Fraction, int, bool] | None:
    """A fraction between 0 and 1, the position after it, and whether it is written with a slash."""
    token = token_at(tokens, at)
    if token.text == "\\frac":
        try:
            size, after = _fraction(tokens, at)
        except Unreadable:  # a unit, "5 \frac{km}{h}"
            return None
        return (size, after, False) if 0 < size < 1 and token_at(tokens, at + 1).text != "-" else None
    slash, below = token_at(tokens, at + 1), token_at(tokens, at + 2)
    if not (token.text.isdecimal() and slash.text == "/" and below.text.isdecimal() and len(token.text + below.text) < 12):
        return None
    top, bottom = int(token.text), int(below.text)
    return (Fraction(top, bottom), at + 3, True) if 0 < top < bottom else None


def _powered(tokens: Sequence[Token], at: int) -> tuple[Fraction, int] | None:
    found = _primary(tokens, at)
    if found is None or token_at(tokens, found[1]).text not in ("^", "**"):
        return found
    base, at = found
    sign, at = _sign(tokens, at + 1)
    exponent = _primary(tokens, at)
    if exponent is None:
        raise Unreadable
    return power(base, sign * exponent[0]), exponent[1]


def power(base: Fraction, exponent: Fraction) -> Fraction:
    """An integer power that is not too long to be written."""
    size = len(str(base.numerator)) + len(str(base.denominator))
    if exponent.denominator != 1 or abs(exponent) * size > 2 * DIGITS or (base == 0 and exponent <= 0):
        raise Unreadable
    return base ** int(exponent)


def _primary(tokens: Sequence[Token], at: int) -> tuple[Fraction, int] | None:
    token = token_at(tokens, at)
    if token.kind == "number":
        return digits_at(tokens, at)
    if token.kind == "mark" and token.text in _OPEN:
        return _bracketed(tokens, at)
    if token.text == "\\frac":
        return _fraction(tokens, at)
    return word_number(tokens, at) if token.kind == "word" else None


def _bracketed(tokens: Sequence[Token], at: int) -> tuple[Fraction, int] | None:
    """A number in brackets, or "{a \\over b}"."""
    found = number_at(tokens, at + 1)
    if found is None:
        return None
    size, after = found
    if token_at(tokens, after).text == "\\over":
        below = number_at(tokens, after + 1)
        if below is None or below[0] == 0:
            raise Unreadable
        size, after = size / below[0], below[1]
    if token_at(tokens, after).text != _OPEN[tokens[at].text]:
        raise Unreadable
    return size, after + 1


def _fraction(tokens: Sequence[Token], at: int) -> tuple[Fraction, int]:
    """\\frac with both its arguments, each in braces or one digit."""
    parts: list[Fraction] = []
    split = False
    at += 1
    while len(parts) < 2:
        token = token_at(tokens, at)
        if token.kind == "mark" and token.text == "{":
            found = _bracketed(tokens, at)
            if found is None:
                raise Unreadable
            parts.append(found[0])
            at = found[1]
        elif token.text.isdecimal() and len(token.text) <= 2 - len(parts):  # "\frac12" is one token of two digits
            parts += [Fraction(int(digit)) for digit in token.text]
            at, split = at + 1, split or len(token.text) > 1
        else:
            raise Unreadable
    if parts[1] == 0:
        raise Unreadable
    return parts[0] / parts[1], at


def _power_of_ten(tokens: Sequence[Token], size: Fraction, at: int) -> tuple[Fraction, int]:
    """ "3 × 10^8", with any sign of multiplication."""
    ten, raised = token_at(tokens, at + 1).text, token_at(tokens, at + 2).text
    if token_at(tokens, at).text in _TIMES and ten == "10" and raised in ("^", "**"):
        found = _powered(tokens, at + 1)
        return (size, at) if found is None else (size * found[0], found[1])
    return size, at


def _divided(tokens: Sequence[Token], size: Fraction, at: int) -> tuple[Fraction, int]:
    if token_at(tokens, at).text != "/":
        return size, at
    sign, after = _sign(tokens, at + 1)
    below = _powered(tokens, after)
    if below is None:
        return size, at
    if below[0] == 0 or token_at(tokens, below[1]).text == "/":
        raise Unreadable
    return size / (sign * below[0]), below[1]


def _scaled(tokens: Sequence[Token], size: Fraction, at: int) -> tuple[Fraction, int]:
    """ "3 million", "2 dozen", "5k", "$2B"."""
    token = token_at(tokens, at)
    while token.gap and (scale := SCALES.get(token.text.lower())):
        size, at = size * scale, at + 1
        token = token_at(tokens, at)
    if token.prose and not token.gap and (scale := _SHORT_SCALES.get(token.text)):
        return size * scale, at + 1
    return size, at
