"""All numbers that begin in a line, including those that are only a part of something."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from exptilt.answers.lexer import Token, token_at
from exptilt.answers.numerals import is_currency
from exptilt.answers.passages import Unreadable
from exptilt.answers.surroundings import check_after, check_before

Found = tuple[str, int]
Reading = Callable[[Sequence[Token], int], Found | None]
"""Returns the form of what begins at a token and the position after it; None where nothing does. Raises Unreadable."""

Candidate = tuple[int, int, str | None]
"""Where a number begins, the position after it, and its form, which is None where it is only a part of something."""


def candidates_of(found: Sequence[Token], read: Reading, *, words: bool = False) -> list[Candidate]:
    """The candidates of a line; `words` says whether number words begin one too."""
    candidates: list[Candidate] = []
    at = 0
    while at < len(found):
        token = found[at]
        begins = token.kind == "number" or token.text == "\\frac" or (token.text == "{" and _is_over(found, at))
        if begins or (words and token.kind == "word" and read(found, at) is not None):
            candidates.append(candidate_at(found, _signed(found, at, candidates[-1][1] if candidates else 0), read))
            at = max(candidates[-1][1], at + 1)
        else:
            at += 1
    return candidates


def _is_over(found: Sequence[Token], at: int) -> bool:
    return any(token.text == "\\over" for token in found[at : at + 8])


def _signed(found: Sequence[Token], at: int, least: int) -> int:
    """Where the number whose digits begin at a token begins: before its signs."""
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


def candidate_at(found: Sequence[Token], start: int, read: Reading) -> Candidate:
    try:
        check_before(found, start)
        whole = read(found, start)
        if whole is None:
            raise Unreadable
        check_after(found, whole[1])
        return start, whole[1], whole[0]
    except Unreadable:
        return start, start + 1, None
