"""How numbers are found in passages: which of the numbers in it a statement, a formula or an unmarked text means.

`number` and `quantity` look in the same way; they differ in the form that they give to what begins at a token (`Reading`).
"""

from __future__ import annotations

import re
from collections.abc import Callable

from exptilt.answers.candidates import Reading, candidate_at, candidates_of
from exptilt.answers.lexer import Token, plain, rest, token_at, tokens
from exptilt.answers.numerals import CURRENCIES
from exptilt.answers.passages import Passage, Unreadable, final
from exptilt.answers.surroundings import check_after, is_aside, is_label

_EQUATIONS = 50  # of a response that are looked at, the last ones
_WHOLE = 300  # characters of a text that may be nothing but a number
_LINE = 2000  # characters of an unmarked line in which a number is looked for, the last ones

_CALCULATION = re.compile(r"<<[^<>\n]{1,200}>>")  # "18/2 = <<18/2=9>>9", as GSM8K's solutions and models trained on them write
_HEADING = re.compile(r"[^.)\n]{1,12}[.):] ?[A-Za-z*\\]")  # "#### 1. Compute"
_HENCE = re.compile(r"i\.e\.|\bthat is,|\bnamely\b|\bwhich (?:is|equals|makes|gives)(?= [-$\\0-9])|⇒|→", re.I)
_EQUALS = re.compile(r"(?<![=<>!:])(?:=|≈|\\approx)(?![=>])")
_CONSTANTS = re.compile(r"√|π|\\sqrt|\\pi|\^|_")
_SO = re.compile(r"\b(?:so|hence|thus|therefore|giving|leaving|making)\b[^\n]{0,200}?[0-9]", re.I)
_ANOTHER_NAME = re.compile(r"(?:[,;]|\bor\b|\band\b) ?\$?[A-Za-z](?:_\{?[0-9A-Za-z]\}?)? ?=$")
_DIGIT = re.compile("[0-9]")
_REFUSAL = re.compile(
    r"\b(?:can ?not|can't|could ?n[o']t|unable to|not able to|won't|will not) (?:[a-z]+ ){0,2}(?:answer|determine|solve|say|tell|"
    r"compute|calculate|find|help|provide|be (?:answered|determined|solved|found))"
    r"|\bdo(?:n't| not) know|\bnot enough information",
    re.I,
)
_ABOUT = {"about", "approximately", "around", "roughly", "nearly", "almost"}
_FILLERS = _ABOUT | {"exactly", "only", "just", "simply", "total", "of", "the"}


def find(text: str, read: Reading) -> str | None:
    """The final answer of a cleaned text."""
    text = _CALCULATION.sub("", text)
    found, settled = final(text, lambda passage: _in_passage(passage, read))
    if settled or not text:
        return found
    try:
        if len(text) <= _WHOLE and (whole := _whole(text, read)) is not None:
            return whole
        return _right_side(text, read) or _last(text, read)
    except Unreadable:
        return None


def _in_passage(passage: Passage, read: Reading) -> str | None:
    text = passage.text
    if passage.mark in ("box", "brackets"):
        return _formula(tokens(plain(text), prose=False), read)
    if passage.mark == "tag" and (whole := _whole(text, read)) is not None:
        return whole
    if passage.mark == "hashes":
        return None if _HEADING.match(text) or not _begins(text, read) else first(text, read)
    return first(text, read)


def _whole(text: str, read: Reading) -> str | None:
    """The form of a text that is one number and nothing else; None for any other."""
    text = plain(text).strip()
    found = tokens(text if text.endswith("..") else text.removesuffix("."), prose=True)
    try:
        whole = read(found, 0) if found else None
    except Unreadable:
        return None
    return whole[0] if whole is not None and whole[1] == len(found) else None


def _formula(found: list[Token], read: Reading) -> str | None:
    """The number that a formula is: the rest of it must be a name before "=" and words around it."""
    if found and all(token.prose or token.kind == "mark" for token in found) and any(token.prose for token in found):
        return _first_of(found, read)
    if (exact := _before_approximation(found, lambda before: _formula(before, read))) is not None:
        return exact
    sides = _sides(found)
    side = sides[-1]
    if any(map(_names_another, sides[1:-1])):
        raise Unreadable  # "x = 2, y = 3"
    if len(sides) > 1 and len(side) == 1 and side[0].kind == "word":
        side = sides[-2]  # "5 = x"
    start = next(
        (at for at, token in enumerate(side) if not (token.prose and token.kind == "word") and token.text not in ":"), None
    )
    if start is None:
        return None
    return only(side[start:], read)


def _before_approximation(found: list[Token], read: Callable[[list[Token]], str | None]) -> str | None:
    """What comes before "≈" or "or about", where it can be read: the value, while what follows is only close to it."""
    at = next((at for at, token in enumerate(found) if token.text == "≈" or _or_about(found, at)), 0)
    if not any(token.kind == "number" for token in found[:at]):
        return None
    try:
        return read(found[:at])
    except Unreadable:
        return None


def _or_about(found: list[Token], at: int) -> bool:
    words = [token_at(found, at + step).text.lower() for step in range(2)]
    return words[0] == "or" and words[1] in _ABOUT and token_at(found, at + 2).kind == "number"


def only(side: list[Token], read: Reading) -> str | None:
    """The number that a formula begins with, where the rest is words. Raises Unreadable where a number is only a part of it."""
    whole = read(side, 0) if side else None
    if whole is None:
        if any(token.kind == "number" for token in side):
            raise Unreadable
        return None
    check_after(side, whole[1])
    depth = 0
    for token in side[whole[1] :]:  # of what is left, words may be aside, and numbers only in brackets
        depth += {"(": 1, ")": -1}.get(token.text, 0)
        if not (token.prose or token.text in ".,;:()°%'\"*" or token.text in CURRENCIES or _is_word(token)):
            raise Unreadable
        if token.kind == "number" and depth == 0:
            raise Unreadable
    return whole[0]


def _is_word(token: Token) -> bool:
    return token.kind == "word" and token.gap and len(token.text) > 2


def _sides(found: list[Token]) -> list[list[Token]]:
    sides: list[list[Token]] = [[]]
    for token in found:
        if token.text in ("=", "≈"):
            sides.append([])
        else:
            sides[-1].append(token)
    return [side for side in sides if side] or [[]]


def _names_another(side: list[Token]) -> bool:
    """Whether what is between two "=" ends with another letter that is given a value."""
    if token_at(side, len(side) - 2).text == "_":
        side = side[:-2]
    name, joint = token_at(side, len(side) - 1), token_at(side, len(side) - 2)
    return name.kind == "word" and len(name.text) == 1 and joint.text.lower() in (",", ";", "or", "and", "&")


def _begins(text: str, read: Reading) -> bool:
    """Whether a passage begins with a number, readable or not."""
    found = tokens(plain(text), prose=True)
    start = next((at for at, token in enumerate(found) if token.text not in "*_\"'("), 0)
    try:
        return read(found, start) is not None
    except Unreadable:
        return True


def first(text: str, read: Reading) -> str | None:
    """The number that a statement states: its first, or the first after its last "=" or "i.e."."""
    hence = [found.end() for found in _HENCE.finditer(text)]
    if hence and _DIGIT.search(text, hence[-1]):
        near = rest(text, hence[-1])
        text = near if _DIGIT.search(near) else text[hence[-1] :]
    found = tokens(plain(text), prose=True)
    if (exact := _before_approximation(found, lambda before: _last_side(before, read))) is not None:
        return exact
    return _last_side(found, read)


def _last_side(found: list[Token], read: Reading) -> str | None:
    """The first number after the last "=" that one follows."""
    sides = _sides(found)
    if any(map(_names_another, sides[1:-1])):
        raise Unreadable
    for number in range(len(sides) - 1, 0, -1):
        try:
            if (side := _first_of(sides[number], read)) is not None:
                return side
        except Unreadable:
            if any(token.kind != "mark" and token.kind != "number" for token in sides[number]):
                raise
    return _first_of(sides[0] if len(sides) > 1 else found, read)


def _first_of(found: list[Token], read: Reading) -> str | None:
    start = next((at for at, token in enumerate(found) if token.text.lower() not in _FILLERS), 0)
    if token_at(found, start).kind == "word" and read(found, start) is not None:
        candidates = [candidate_at(found, start, read)]
    else:
        candidates = candidates_of(found, read) or candidates_of(found, read, words=True)
    if not candidates:
        return None
    if candidates[0][2] is None:
        raise Unreadable
    return candidates[0][2]


def _right_side(text: str, read: Reading) -> str | None:
    """The number after the last "=" that one follows and no operator after it."""
    ends = [equals.end() for equals in _EQUALS.finditer(text)][-_EQUATIONS:]
    last_line = text.rfind("\n")
    if ends and _SO.search(text, ends[-1]):
        return None
    if len(ends) > 1 and _ANOTHER_NAME.search(text, ends[-2], ends[-1]):
        raise Unreadable  # "x = 2 or x = 3"
    for number in reversed(range(len(ends))):
        end = ends[number]
        if text[end - 1] != "=" and number and "\n" not in text[ends[number - 1] : end]:
            end = ends[number - 1]  # what is near a value goes after the value
            if _begins_none(text[end : ends[number]], read):
                end = ends[number]
        side = rest(text, end)
        found = list(tokens(plain(side), prose=True))
        start = next((at for at, token in enumerate(found) if token.text not in "*_"), 0)
        try:
            if found and (whole := read(found, start)) is not None:
                check_after(found, whole[1])
                return whole[0]
        except Unreadable:
            if end > last_line and _CONSTANTS.search(side):
                raise
    return None


def _begins_none(text: str, read: Reading) -> bool:
    """Whether no number that can be read begins a text."""
    found = tokens(plain(text.rstrip("≈ ").removesuffix("\\approx")), prose=True)
    try:
        whole = read(found, 0) if found else None
        return whole is None or whole[1] != len(found)
    except Unreadable:
        return True


def _last(text: str, read: Reading) -> str | None:
    """The last number of a text without marks: that of its last line with one, labels and asides left out."""
    for words in (False, True):
        if words and _DIGIT.search(text):
            return None
        for line in reversed(text.split("\n")):
            if not words and not _DIGIT.search(line):
                continue
            found = tokens(plain(line[-_LINE:]), prose=True)
            candidates = [each for each in candidates_of(found, read, words=words) if not is_label(found, each[0])]
            candidates = [each for each in candidates if not is_aside(found, each[0])] or candidates
            if not candidates:
                continue
            if candidates[-1][2] is None or _REFUSAL.search(line):
                raise Unreadable
            return candidates[-1][2]
    return None
