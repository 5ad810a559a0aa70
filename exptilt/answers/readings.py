"""How numbers are found in passages: where one may begin, what around it makes it a part of something else.

A reader gives the form of what begins at a token: `(tokens, start) -> (form, after) | None`. It is used by `number` and
`quantity`, whose forms differ.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from exptilt.answers.lexer import Token, plain, token_at, tokens
from exptilt.answers.numerals import CURRENCIES, is_currency
from exptilt.answers.places import Passage, Unreadable, final
from exptilt.answers.surroundings import check_after, check_before, is_aside, is_label

Found = tuple[str, int]
Reading = Callable[[Sequence[Token], int], Found | None]

_EQUATIONS = 50  # of a response that are looked at, the last ones
_SIDE = 300  # characters of the right side of one
_WHOLE = 300  # characters of a text that may be nothing but a number
_LINE = 2000  # characters of an unmarked line in which a number is looked for, the last ones

_HEADING = re.compile(r"[^.)\n]{1,12}[.):] ?[A-Za-z*\\]")  # "#### 1. Compute"
_HENCE = re.compile(r"i\.e\.|\bthat is,|\bnamely\b|\bwhich (?:is|equals|makes|gives)\b|⇒|→", re.I)
_EQUALS = re.compile(r"(?<![=<>!:])(?:=|≈|\\approx)(?![=>])")
_CONSTANTS = re.compile(r"√|π|\\sqrt|\\pi|\^|_")
_SO = re.compile(r"\b(?:so|hence|thus|therefore|giving|leaving|making)\b[^\n]*?[0-9]", re.I)
_DIGIT = re.compile("[0-9]")
_REFUSAL = re.compile(
    r"\b(?:can ?not|can't|could ?n[o']t|unable to|not able to|won't|will not) (?:[a-z]+ ){0,2}(?:answer|determine|solve|say|tell|"
    r"compute|calculate|find|help|provide|be (?:answered|determined|solved|found))"
    r"|\bdo(?:n't| not) know|\bnot enough information",
    re.I,
)
_FILLERS = {
    "about",
    "exactly",
    "approximately",
    "around",
    "roughly",
    "only",
    "just",
    "simply",
    "nearly",
    "almost",
    "total",
    "of",
    "the",
}


def find(text: str, read: Reading) -> str | None:
    """The final answer of a cleaned text."""
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
    if passage.place in ("box", "brackets"):
        return _formula(tokens(plain(text), prose=False), read)
    if passage.place == "tag" and (whole := _whole(text, read)) is not None:
        return whole
    if passage.place == "hashes":
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
    """The number that a formula is: what is left of it must be a name before "=" and words around it."""
    if found and all(token.prose or token.kind == "mark" for token in found) and any(token.prose for token in found):
        return _first_of(found, read)
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
    """Whether what stands between two "=" ends with a further letter that gets a value."""
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
        text = text[hence[-1] :]
    found = tokens(plain(text), prose=True)
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
        candidates = [_candidate(found, start, read)]
    else:
        candidates = _candidates(found, read) or _candidates(found, read, words=True)
    if not candidates:
        return None
    if candidates[0][2] is None:
        raise Unreadable
    return candidates[0][2]


Candidate = tuple[int, int, str | None]
"""Where it begins, the place after it, and its form; None for the form where it is not a number of its own."""


def _candidates(found: Sequence[Token], read: Reading, *, words: bool = False) -> list[Candidate]:
    """All that begin in a line."""
    candidates: list[Candidate] = []
    at = 0
    while at < len(found):
        token = found[at]
        begins = token.kind == "number" or token.text == "\\frac" or (token.text == "{" and _is_over(found, at))
        if begins or (words and token.kind == "word" and read(found, at) is not None):
            candidates.append(_candidate(found, _signed(found, at, candidates[-1][1] if candidates else 0), read))
            at = max(candidates[-1][1], at + 1)
        else:
            at += 1
    return candidates


def _is_over(found: Sequence[Token], at: int) -> bool:
    return any(token.text == "\\over" for token in found[at : at + 8])


def _signed(found: Sequence[Token], at: int, least: int) -> int:
    """Where a number begins whose digits begin at a token: before its signs."""
    while at > least:
        token, before = found[at - 1], token_at(found, at - 2)
        if token.text in ("-", "+"):
            attached = not found[at].gap
            if (
                at - 1 > least
                and not (token.gap and attached)
                and before.text not in ("=", ":", "(", ",", "[")
                and before.text != "$"
            ):
                return at  # "a - 5" and "3-5"
            if at - 1 == least == 0 and found[at].gap and token.prose and len(found) > at + 1 and found[at + 1].kind == "word":
                return at  # "- 5 apples" in a list
        elif not (is_currency(found, at - 1) or (token.kind == "word" and token.text.lower() in ("negative", "minus"))):
            return at
        at -= 1
    return at


def _candidate(found: Sequence[Token], start: int, read: Reading) -> Candidate:
    try:
        check_before(found, start)
        whole = read(found, start)
        if whole is None:
            raise Unreadable
        check_after(found, whole[1])
        return start, whole[1], whole[0]
    except Unreadable:
        return start, start + 1, None


def _right_side(text: str, read: Reading) -> str | None:
    """The number after the last "=" that one follows and no operator after it."""
    ends = [equals.end() for equals in _EQUALS.finditer(text)][-_EQUATIONS:]
    last_line = text.rfind("\n")
    if ends and _SO.search(text, ends[-1]):
        return None
    for end in reversed(ends):
        side = text[end : end + _SIDE].partition("\n")[0]
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


def _last(text: str, read: Reading) -> str | None:
    """The last number of a text without marks: that of its last line with one, labels and asides left out."""
    for words in (False, True):
        if words and _DIGIT.search(text):
            return None
        for line in reversed(text.split("\n")):
            if not words and not _DIGIT.search(line):
                continue
            found = tokens(plain(line[-_LINE:]), prose=True)
            candidates = [each for each in _candidates(found, read, words=words) if not is_label(found, each[0])]
            candidates = [each for each in candidates if not is_aside(found, each[0])] or candidates
            if not candidates:
                continue
            if candidates[-1][2] is None or _REFUSAL.search(line):
                raise Unreadable
            return candidates[-1][2]
    return None
