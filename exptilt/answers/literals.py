"""Numbers in digits, with groups, periods and bases; and the one string for each value."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from exptilt.answers.lexer import Token, token_at
from exptilt.answers.passages import Unreadable
from exptilt.answers.words import UNITS

DIGITS = 1000  # of a number; longer ones are noise, and cost time
_FORMS = (  # a pattern of a whole literal, what parts its groups, and its decimal mark
    (re.compile(r"[0-9]*(?:\.[0-9]+)?"), "", "."),
    (re.compile(r"[1-9][0-9]{0,2}(?:,[0-9]{3})+(?:\.[0-9]+)?"), ",", "."),
    (re.compile(r"[1-9][0-9]?(?:,[0-9]{2})+,[0-9]{3}(?:\.[0-9]+)?"), ",", "."),  # lakhs and crores
    (re.compile(r"[1-9][0-9]{3,},[0-9]{1,2}"), "", ","),
    (re.compile(r"[1-9][0-9]{0,2}(?:\.[0-9]{3}){2,}(?:,[0-9]+)?|[1-9][0-9]{0,2}\.[0-9]{3},[0-9]+"), ".", ","),
)
_DECIMAL_COMMA = re.compile("[0-9]{1,3},[0-9]+")
_PREFIXED = {"0x": 16, "0b": 2, "0o": 8}
_BARS = ("\\overline", "\\bar", "\\dot", "\\overset")
_PERIOD = re.compile(r"([0-9]*)\.([0-9]*?)(?:([0-9])\3{2,}|([0-9]{2,}?)\4+)[0-9]*")
_OPEN = {"(": ")", "{": "}"}


def digits_at(tokens: Sequence[Token], at: int) -> tuple[Fraction, int]:
    """A number in digits, with its groups, its period and its base, and the position after it."""
    written = tokens[at].text
    if (base := _PREFIXED.get(written[:2].lower())) and len(written) > 2:
        return Fraction(int(written[2:], base)), at + 1
    written, at = _joined(tokens, at)
    mark, opener = token_at(tokens, at), token_at(tokens, at + 1)
    if mark.text == "." and not mark.gap and not opener.gap and opener.text in (*_BARS, "("):
        return _periodic(written + ".", tokens, at + 1)
    if (mark.text in _BARS or (mark.text == "(" and not mark.gap)) and "." in written:
        return _periodic(written, tokens, at)
    if mark.text == "..." and (endless := _endless(written)) is not None:
        return endless, at + 1
    if mark.text == "_" and (opener.kind == "number" or opener.text == "{") and not opener.gap:
        return _in_base(written, tokens, at + 1, braced=True)
    if found := _named_base(tokens, at):
        return _in_base(written, tokens, found, braced=False)
    if _DECIMAL_COMMA.fullmatch(written) and ((tokens[at - 1].prose and written[0] == "0") or _is_price(tokens, at)):
        written = written.replace(",", ".")
    return literal(written), at


def _is_price(tokens: Sequence[Token], at: int) -> bool:
    """Whether the literal before a place has two digits after its comma and stands beside a sign of currency."""
    beside = {token_at(tokens, at).text, token_at(tokens, at - 2).text}
    return len(tokens[at - 1].text.partition(",")[2]) == 2 and bool(beside & {"$", "€", "£", "¥"})


def _joined(tokens: Sequence[Token], at: int) -> tuple[str, int]:
    """Groups of three digits separated by spaces, as one literal."""
    written, at = tokens[at].text, at + 1
    if re.fullmatch("[1-9][0-9]{0,2}", written):
        while (token := token_at(tokens, at)).gap and re.fullmatch(r"[0-9]{3}(?:\.[0-9]+)?", token.text) and "." not in written:
            written, at = written + token.text, at + 1
    return written, at


def literal(written: str) -> Fraction:
    """The value of a literal such as 1,234.50 or 1.5e3. Raises Unreadable where its commas and points are not of one number."""
    mantissa, _, exponent = written.lower().partition("e")
    if len(written) > DIGITS or len(exponent) > 5 or abs(int(exponent or "0")) > DIGITS:
        raise Unreadable
    mantissa = mantissa.replace("'", "").replace("_", "")
    for pattern, groups, decimal in _FORMS:
        if pattern.fullmatch(mantissa):
            digits = mantissa.replace(groups, "") if groups else mantissa
            return Fraction(digits.replace(decimal, ".")) * Fraction(10) ** int(exponent or "0")
    raise Unreadable


def _periodic(start: str, tokens: Sequence[Token], at: int) -> tuple[Fraction, int]:
    """0.1\\overline{6} and 0.1(6): what stands before the period, then the period, marked at `at`."""
    opener = token_at(tokens, at)
    if opener.text != "(":
        at, opener = at + 1, token_at(tokens, at + 1)
    braced = opener.text in _OPEN
    period = token_at(tokens, at + braced).text
    after = at + 1 + 2 * braced
    closes = not braced or token_at(tokens, after - 1).text == _OPEN[opener.text]
    if not (period.isdecimal() and closes and re.fullmatch(r"[0-9]+\.[0-9]*", start) and len(start + period) < DIGITS):
        raise Unreadable
    decimals = len(start) - start.index(".") - 1
    return Fraction(start + "0") + Fraction(int(period), 10**decimals * (10 ** len(period) - 1)), after


def _endless(written: str) -> Fraction | None:
    """0.1666...: a fraction where the last decimals repeat, None where they do not."""
    found = _PERIOD.fullmatch(written) if len(written) < 60 else None
    if found is None:
        return None
    period = found[3] or found[4]
    tail = written[found.start(3 if found[3] else 4) :]
    if not (period * len(tail)).startswith(tail) or set(period) == {"0"}:
        return None
    start = f"{found[1] or '0'}.{found[2]}"
    return Fraction(start + "0") + Fraction(int(period), 10 ** len(found[2]) * (10 ** len(period) - 1))


def _named_base(tokens: Sequence[Token], at: int) -> int | None:
    """Where the base stands in "101 base 2" and "101 (in base 2)"."""
    for ahead, *words in ((1, "base"), (2, "in", "base"), (2, "(", "base"), (3, "(", "in", "base")):
        if [token_at(tokens, at + step).text for step in range(ahead)] == words and token_at(tokens, at + ahead).text.isdecimal():
            return at + ahead
    return None


def _in_base(written: str, tokens: Sequence[Token], at: int, *, braced: bool) -> tuple[Fraction, int]:
    opened = braced and token_at(tokens, at).text in _OPEN
    base = token_at(tokens, at + opened).text
    base = str(UNITS.get(base.lower(), base))
    after = at + 1 + 2 * opened + (not braced and token_at(tokens, at + 1).text == ")")
    if not (base.isdecimal() and len(base) < 3 and 2 <= int(base) <= 10 and written.isdecimal() and len(written) < 300):
        raise Unreadable
    if any(int(digit) >= int(base) for digit in written):
        raise Unreadable
    return Fraction(int(written, int(base))), after


def canonical(number: Fraction) -> str:
    """One string for each value: a decimal where the expansion ends, p/q in lowest terms where it does not."""
    rest, digits = number.denominator, 0
    for prime in (2, 5):
        power = 0
        while rest % prime == 0:
            rest, power = rest // prime, power + 1
        digits = max(digits, power)
    if rest != 1:
        return f"{number.numerator}/{number.denominator}"
    whole = str(abs(number.numerator) * 10**digits // number.denominator).rjust(digits + 1, "0")
    sign = "-" if number < 0 else ""
    return sign + (whole if digits == 0 else f"{whole[:-digits]}.{whole[-digits:]}")
