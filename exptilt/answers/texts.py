"""The type of functions that read answers, and the one whose answer is the whole text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

Answer = Callable[[str], str | None]
"""Reads the canonical answer of a text; None where there is none."""

_MINUS = re.compile(r"(?<!\w)[‐‑‒–−](?=[0-9.])")
_INVISIBLE = re.compile("[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]")  # not the joiners, which make words


def exact(text: str) -> str | None:
    """The whole text, compared freely: lower case, single spaces, no punctuation at its ends; None if nothing is left.

    A text of punctuation alone keeps it, so that "?" and "!" differ; a number keeps its minus, its point and its percent sign.
    Invisible characters do not count.
    """
    folded = " ".join(unicodedata.normalize("NFKC", _INVISIBLE.sub("", text)).casefold().split())
    folded = _MINUS.sub("-", folded)
    start, end = 0, len(folded)
    while start < end and _is_edge(folded[start]) and not (folded[start] in "-." and folded[start + 1 : start + 2].isdigit()):
        start += 1
    while end > start and _is_edge(folded[end - 1]) and not (folded[end - 1] == "%" and folded[end - 2 : end - 1].isdigit()):
        end -= 1
    return folded[start:end] or folded or None


def _is_edge(character: str) -> bool:
    """Whether a character is punctuation or a space, and so may be dropped at the ends of an answer."""
    return character.isspace() or unicodedata.category(character).startswith("P")
