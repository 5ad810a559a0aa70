"""Numbers in English words: "twelve", "one hundred and five", "two thirds", "a dozen"."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

_SMALL = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
UNITS = {word: value for value, word in enumerate(_SMALL)}
TENS = {
    "twenty": 20, "thirty": 30, "forty": 40, "fourty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90,
}  # fmt: skip
SCALES = {
    "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "lakh": 10**5, "crore": 10**7,
    "dozen": 12, "hundreds": 100, "thousands": 1000, "millions": 10**6, "billions": 10**9, "trillions": 10**12, "lakhs": 10**5,
    "crores": 10**7, "dozens": 12,
}  # fmt: skip
_PARTS = {
    "half": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8, "ninth": 9, "tenth": 10,
    "twelfth": 12, "hundredth": 100, "thousandth": 1000,
}  # fmt: skip
_PARTS |= {"halves": 2} | {f"{word}s": value for word, value in _PARTS.items()}
_NOT_A_NUMBER = {"of", "another", "who", "that", "which", "with", "more", "by"}  # after "one", which then stands for a thing


def word_number(tokens: Sequence[Any], start: int) -> tuple[Fraction, int] | None:
    """The number in words that begins at a token and the position after it; None where none does."""
    words = _Words(tokens, start)
    if (words.at(0), words.at(1)) == ("half", "a") and (scale := SCALES.get(words.at(2))):
        return Fraction(scale, 2), start + 3
    if words.at(0) in ("a", "an"):
        return words.article()
    whole = words.whole()
    if whole is None:
        return None
    size, used = whole
    if (part := _PARTS.get(words.at(used))) and (words.at(used).endswith("s") or size == 1):
        return Fraction(size, part), start + used + 1
    if words.at(used) == "and" and (fraction := words.fraction(used + 1)) is not None:
        return size + fraction[0], start + used + 1 + fraction[1]
    if words.at(0) == "one" and used == 1 and words.at(1) in _NOT_A_NUMBER:
        return None
    return Fraction(size), start + used


def word_fraction(tokens: Sequence[Any], start: int) -> tuple[Fraction, int] | None:
    """ "a half", "two thirds" at a token, and the position after it."""
    found = _Words(tokens, start).fraction(0)
    return None if found is None else (found[0], start + found[1])


class _Words:
    """The words from a token on, in lower case, hyphens left out."""

    def __init__(self, tokens: Sequence[Any], start: int) -> None:
        self._tokens, self._start = tokens, start

    def at(self, step: int) -> str:
        place = self._start + step
        return self._tokens[place].text.lower() if place < len(self._tokens) else ""

    def article(self) -> tuple[Fraction, int] | None:
        """ "a dozen", "a hundred", "a half"."""
        if scale := SCALES.get(self.at(1)):
            return Fraction(scale), self._start + 2
        part = self.at(1) in ("half", "third", "quarter", "fifth") and self.at(2) not in ("of", "a", "an", "way")
        return (Fraction(1, _PARTS[self.at(1)]), self._start + 2) if part else None

    def fraction(self, step: int) -> tuple[Fraction, int] | None:
        """ "a half", "two thirds": its value and how many tokens it is."""
        top = 1 if self.at(step) in ("a", "an") else UNITS.get(self.at(step))
        part = _PARTS.get(self.at(step + 1))
        return None if top is None or part is None else (Fraction(top, part), 2)

    def whole(self) -> tuple[int, int] | None:
        """A whole number and how many tokens it is."""
        total, current, step, last = 0, -1, 0, 10**15  # current: since the last scale word, -1 for nothing
        while True:
            word = self.at(step)
            joined = step > 0 and (word == "-" or (word == "and" and self._continues(step + 1)))
            word = self.at(step + 1) if joined else word
            small = UNITS.get(word, TENS.get(word))
            if small is not None and self._fits(small, current):
                current = max(current, 0) + small
            elif word == "hundred" and 0 < current < 100:
                current *= 100
            elif word != "hundred" and SCALES.get(word, last) < last and current > 0:
                last = SCALES[word]
                total, current = total + current * last, -1
            else:
                break
            step += 1 + joined
        return (total + max(current, 0), step) if step else None

    @staticmethod
    def _fits(small: int, current: int) -> bool:
        """Whether a number below 100 may follow what stands since the last scale word: "five" after "twenty", not "twelve"."""
        return current == -1 or (current > 0 and small > 0 and current % (100 if small >= 10 else 10) == 0)

    def _continues(self, step: int) -> bool:
        return (self.at(step) in UNITS and self.at(step + 1) not in _PARTS) or self.at(step) in TENS
