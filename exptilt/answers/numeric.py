"""Answers that are numbers: where a response states its final number, and the one string for each value."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from exptilt.answers.texts import boxed

_LONGEST = 60  # characters of a number; longer runs of digits are noise, and cost time
_STATEMENTS = 50  # of "answer is" in one response that are looked at, the last ones
_PASSAGE = 200  # characters after "answer is" among which the number is looked for

_DIGITS = r"(?>[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
_SIGN = r"(?:(?<![0-9A-Za-z)\]}])[-−])?"
_MIXED = r"[0-9]{1,3} [0-9]{1,3}/0*[1-9][0-9]{0,2}(?![0-9/.])"
_DECIMAL = rf"(?>{_DIGITS}(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][-+]?[0-9]{{1,2}}(?![0-9A-Za-z]))?(?: ?/ ?0*[1-9][0-9]*)?"
NUMBER = rf"{_SIGN}(?:\$[-−]?)?(?>{_MIXED}|{_DECIMAL})"

_ANSWER_IS = re.compile(r"\banswer(?:[ \t]+is\b|[*_ \t]{0,4}[:=])", re.IGNORECASE)
_SENTENCE_END = re.compile(r"\n|[.!?](?:\s|$)")
_FRACTION = re.compile(r"(?<=([0-9]))? *\\[dt]?frac *(?:\{ *([0-9]+) *\}|([0-9]))(?: *\{ *([0-9]+) *\}| *([0-9]))")
_POWER_OF_TEN = re.compile(r"(?<=[0-9]) *(?:\\times|\\cdot|[×·*x]) *10 *\^ *(?:\{ *([-+−]?[0-9]{1,2}) *\}|([-+−]?[0-9]{1,2}))")
_VULGAR = {"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅙": "1/6", "⅛": "1/8"}
_VULGAR_MARK = re.compile(rf"(?<=([0-9]))? *([{''.join(_VULGAR)}])")


@dataclass(frozen=True)
class Places:
    """Where an answer of one kind may stand in a response. core: the regular expression of what is looked for."""

    core: str

    @cached_property
    def anywhere(self) -> re.Pattern[str]:
        return re.compile(self.core)

    @cached_property
    def hashes(self) -> re.Pattern[str]:
        """ "#### 42", but not the Markdown headings "#### Step 1" and "#### 1. Compute"."""
        return re.compile(rf"####[ \t]*({self.core})(?![ \t]*[.):][ \t]*[A-Za-z*\\])")

    @cached_property
    def equals(self) -> re.Pattern[str]:
        """ "= 42" or "= **42**" that no operator follows."""
        return re.compile(rf"=[ \t]*\*{{0,2}}({self.core})(?![ \t]*[-−+*/×^][ \t]*[0-9(])")

    def find(self, text: str) -> str | None:
        """What stands at the first of these: "####", the last \\boxed, the last "answer is", the last "=", the last anywhere."""
        if hashes := self.hashes.search(text):
            return hashes[1]
        if "\\boxed" in text:
            content = boxed(text)
            return None if content is None else self._first(content)
        for place in reversed(list(_ANSWER_IS.finditer(text))[-_STATEMENTS:]):
            passage = text[place.end() : place.end() + _PASSAGE].lstrip()
            if (found := self._first(_SENTENCE_END.split(passage, maxsplit=1)[0])) is not None:
                return found
        for pattern, group in ((self.equals, 1), (self.anywhere, 0)):
            if matches := list(pattern.finditer(text)):
                return matches[-1][group]
        return None

    def _first(self, passage: str) -> str | None:
        """The first in a passage, or the first after its last "=" that has one behind it."""
        for part in (passage.rpartition("=")[2], passage):
            if found := self.anywhere.search(part):
                return found[0]
        return None


_NUMBERS = Places(NUMBER)


def number(text: str) -> str | None:
    """The final number: "42.0", "$42." and "42%" are "42", "1,234.50" is "1234.5", "2/4" and "0.5" are "0.5", "1/3" stays.

    Looked for in this order: the first "#### 42"; the last \\boxed{...}; the last "answer is ..." or "answer: ...";
    the last "= 42" that no operator follows; the last number of the text. A box without a number, or one that was
    cut off, is no answer. Of several numbers in a box the first counts; of an equation what follows the last "=".
    Signs of currency, thousands commas and percent signs are dropped: 50% is "50". "1 1/2", "1½" and "1\\frac12" are
    "1.5", "3 \\times 10^4" is "30000". A comma is never a decimal point, and numbers in words are not read.
    """
    written = _NUMBERS.find(plain(text))
    return None if written is None else canonical(value(written))


def plain(text: str) -> str:
    """The text with the LaTeX that stands around and inside numbers written plainly."""
    for mark, simple in (("{,}", ","), ("\\,", ""), ("\\!", ""), ("\\$", "$"), ("\\%", "%")):
        text = text.replace(mark, simple)
    text = _FRACTION.sub(lambda found: f"{' ' * bool(found[1])}{found[2] or found[3]}/{found[4] or found[5]}", text)
    text = _VULGAR_MARK.sub(lambda found: f"{' ' * bool(found[1])}{_VULGAR[found[2]]}", text)
    return _POWER_OF_TEN.sub(lambda found: "e" + (found[1] or found[2]).replace("−", "-"), text)


def value(written: str) -> Fraction | None:
    """The value of a number as it was written; None where it is too long to be one."""
    if len(written) > _LONGEST:
        return None
    digits = written.replace("−", "-").replace("$", "").replace(",", "").replace("--", "")
    if mixed := re.fullmatch(r"(-?)([0-9]+) ([0-9]+)/([0-9]+)", digits):
        part = Fraction(int(mixed[3]), int(mixed[4]))
        size = int(mixed[2]) + part if part < 1 else part  # "5 7/2" is no mixed number, but 7/2 after something else
        return -size if mixed[1] else size
    top, _, bottom = digits.replace(" ", "").partition("/")
    return Fraction(top) / Fraction(bottom or "1")


def canonical(number: Fraction | None) -> str | None:
    """One string for each value: a decimal where the expansion ends, p/q in lowest terms where it does not."""
    if number is None:
        return None
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
