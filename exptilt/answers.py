"""Reading the final answer out of a response, in a canonical form: equal answers are equal strings.

Each function here is `(text) -> str | None`, None where the text holds no such answer; so is any function of one's
own. Votes, agreement rewards and matching rules take one as their argument. Reading is by marker: what a response
says after "####", in \\boxed{...} or after "the answer is" goes before whatever else stands in it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from fractions import Fraction

Answer = Callable[[str], str | None]
"""Reads the canonical answer of a text; None where there is none."""

_LONGEST = 60  # characters of a number; longer runs of digits are noise, and cost time
_PASSAGE = 200  # characters after "answer is" among which the number is looked for

_DIGITS = r"(?>[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
_SIGN = r"(?:(?<![0-9A-Za-z)\]}])[-−])?"
_NUMBER = (
    rf"{_SIGN}(?:\$[-−]?)?(?>{_DIGITS}(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][-+]?[0-9]{{1,2}}(?![0-9A-Za-z]))?(?: ?/ ?0*[1-9][0-9]*)?"
)
_ANY = re.compile(_NUMBER)
# "#### 42", but not the Markdown headings "#### Step 1" and "#### 1. Compute".
_HASHES = re.compile(rf"####[ \t]*({_NUMBER})(?![ \t]*[.):][ \t]*[A-Za-z*\\])")
_ANSWER_IS = re.compile(r"\banswer(?:[ \t]+is\b|[*_ \t]{0,4}[:=])", re.IGNORECASE)
_EQUALS = re.compile(rf"=[ \t]*({_NUMBER})(?![ \t]*[-−+*/×^][ \t]*[0-9(])")
_FRACTION = re.compile(r"\\[dt]?frac *\{ *([0-9]+) *\} *\{ *([0-9]+) *\}")
_SENTENCE_END = re.compile(r"\n|[.!?](?:\s|$)")


def number(text: str) -> str | None:
    """The final number: "42.0", "$42." and "42%" are "42", "1,234.50" is "1234.5", "2/4" and "0.5" are "0.5", "1/3" stays.

    Looked for in this order: the first "#### 42"; the last \\boxed{...}; the last "answer is ..." or "answer: ...";
    the last "= 42" that no operator follows; the last number of the text. A box without a number, or one that was
    cut off, is no answer. Of several numbers in a box the first counts; of an equation what follows the last "=".
    Signs of currency, thousands commas and percent signs are dropped: 50% is "50".
    """
    text = _plain(text)
    if hashes := _HASHES.search(text):
        return _canonical(hashes[1])
    if "\\boxed" in text:
        content = boxed(text)
        return None if content is None else _number_in(content)
    for place in reversed(list(_ANSWER_IS.finditer(text))):
        passage = text[place.end() : place.end() + _PASSAGE].lstrip()
        if (found := _number_in(_SENTENCE_END.split(passage, maxsplit=1)[0])) is not None:
            return found
    for pattern, group in ((_EQUALS, 1), (_ANY, 0)):
        if matches := list(pattern.finditer(text)):
            return _canonical(matches[-1][group])
    return None


def choice(text: str) -> str | None:
    """The chosen option of a multiple-choice question, "A" to "E".

    Looked for in this order: the last \\boxed{B}; the last "answer is (B)" or "Answer: B"; a last line that is only
    the option, such as "B", "(B)" or "B) Paris"; the last "(B)" anywhere. A bare "A" before a lower-case word is taken
    for the article, except in "A because", "A since" and "A as".
    """
    content = boxed(text)
    if content is not None and (inside := re.fullmatch(r"\s*(?:\\text\w*\s*\{)?\s*\(?([A-E])\b.*", content, re.DOTALL)):
        return inside[1]
    option = r"[*_`$ \t]{0,4}(?:option[ \t]+|choice[ \t]+)?[*_`]{0,3}(?:\(([A-E])\)|([A-E])(?![A-Za-z0-9'’]))"
    article = r"(?!(?<=A)[ \t]+(?!because\b|since\b|as\b)[a-z])"
    if stated := list(re.finditer(rf"\banswer(?i:[ \t]+is[ \t]*:?|[*_ \t]{{0,4}}[:=]){option}{article}", _lower_answer(text))):
        return stated[-1][1] or stated[-1][2]
    lines = text.strip().splitlines()
    if lines and (alone := re.fullmatch(r"[*_\s]*(?:\(([A-E])\)|([A-E])(?=[).:*_\s]|$))(?:[).:*_].*|\s*)", lines[-1])):
        return alone[1] or alone[2]
    brackets = re.findall(r"\(([A-E])\)", text)
    return brackets[-1] if brackets else None


def exact(text: str) -> str | None:
    """The whole text, compared freely: lower case, single spaces, no punctuation at its ends; None if nothing is left.

    A text of nothing but punctuation keeps it, so that "?" and "!" differ.
    """
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    start, end = 0, len(folded)
    while start < end and _is_edge(folded[start]):
        start += 1
    while end > start and _is_edge(folded[end - 1]):
        end -= 1
    return folded[start:end] or folded or None


def boxed(text: str) -> str | None:
    """The content of the last \\boxed{...}, braces balanced; None where there is none or it was cut off."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    begin, depth = start + len("\\boxed{"), 1
    for place in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[begin:place]
    return None


def _plain(text: str) -> str:
    """The text with the LaTeX that stands around and inside numbers written plainly."""
    for mark, plain in (("{,}", ","), ("\\,", ""), ("\\!", ""), ("\\$", "$"), ("\\%", "%")):
        text = text.replace(mark, plain)
    return _FRACTION.sub(r"\1/\2", text)


def _number_in(passage: str) -> str | None:
    """The first number of a passage, or the first after its last "=" with a number behind it."""
    for part in (passage.rpartition("=")[2], passage):
        if found := _ANY.search(part):
            return _canonical(found[0])
    return None


def _canonical(written: str) -> str | None:
    """One string for each value: a decimal where the expansion ends, p/q in lowest terms where it does not."""
    plain = written.replace("−", "-").replace("$", "").replace(",", "").replace(" ", "")
    if len(plain) > _LONGEST:
        return None
    top, _, bottom = plain.replace("--", "").partition("/")
    value = Fraction(top) / Fraction(bottom or "1")
    rest, digits = value.denominator, 0
    for prime in (2, 5):
        power = 0
        while rest % prime == 0:
            rest, power = rest // prime, power + 1
        digits = max(digits, power)
    if rest != 1:
        return f"{value.numerator}/{value.denominator}"
    whole = str(abs(value.numerator) * 10**digits // value.denominator).rjust(digits + 1, "0")
    sign = "-" if value < 0 else ""
    return sign + (whole if digits == 0 else f"{whole[:-digits]}.{whole[-digits:]}")


def _lower_answer(text: str) -> str:
    """The text with the word "answer" in lower case wherever it stands; the option letters keep theirs."""
    return re.sub(r"(?i)\banswer\b", "answer", text)


def _is_edge(character: str) -> bool:
    """Whether a character is punctuation or a space, and so may be dropped at the ends of an answer."""
    return character.isspace() or unicodedata.category(character).startswith("P")
