"""Answers that are words: a choice, a piece of code, the whole text; and the \\boxed{...} that other readers look into."""

from __future__ import annotations

import ast
import re
import textwrap
import unicodedata
from collections.abc import Callable

Answer = Callable[[str], str | None]
"""Reads the canonical answer of a text; None where there is none."""

_FENCE = re.compile(r"^(`{3,}|~{3,})[^\n`]*\n(.*?)^\1[ \t]*$", re.MULTILINE | re.DOTALL)
_LONGEST_CODE = 100_000  # characters that are parsed; longer code is compared as it stands


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


def code(text: str) -> str | None:
    """The last fenced block of a response; None where there is none or it was cut off before its closing fence.

    Python loses its comments, blank lines and layout, so that programs which differ in nothing else are one answer;
    what does not parse as Python only loses its indentation and the spaces at the ends of its lines.
    """
    blocks = _FENCE.findall(text)
    if not blocks:
        return None
    block = textwrap.dedent("\n".join(line.rstrip() for line in blocks[-1][1].splitlines())).strip("\n")
    try:
        return ast.unparse(ast.parse(block[:_LONGEST_CODE])) if len(block) <= _LONGEST_CODE else block
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # another language, broken, or nested too deep
        return block


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


def _lower_answer(text: str) -> str:
    """The text with the word "answer" in lower case wherever it stands; the option letters keep theirs."""
    return re.sub(r"(?i)\banswer\b", "answer", text)


def _is_edge(character: str) -> bool:
    """Whether a character is punctuation or a space, and so may be dropped at the ends of an answer."""
    return character.isspace() or unicodedata.category(character).startswith("P")
