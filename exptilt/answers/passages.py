"""The passages of a response that may hold its final answer, the most binding first.

1. `<answer>...</answer>`, the last one; inside it the other marks count in the same order, or else all of it is the answer.
2. "#### 42", the first that is an answer: GSM8K's mark, after which models continue with questions of their own.
3. `\\boxed{...}` or `\\fbox{...}`, the last one.
4. "[[42]]", the last one.
5. "The answer is ...", "Answer: ...", the heading "Final answer", "答案是 ...", '"answer": ...'; from the last to the first.

A box or a tag is binding: where it holds no answer, there is none. So is a denial ("the answer is not 3").
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

_STATEMENTS = 50  # of "answer is" in one response that are looked at, the last ones
_PASSAGE = 400  # characters of a statement that are looked at
_FORMULA = 2000  # characters of a formula that a statement begins with

_TAG = re.compile(r"<(?:(?:final_?)?answer|choice)>", re.IGNORECASE)
_TAG_END = re.compile(r"</(?:(?:final_?)?answer|choice)>", re.IGNORECASE)
_HASHES = re.compile(r"(?<!#)####(?!#) ?([^\n]{1,400})")
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)(?![A-Za-z]) ?")
_JOINED_BOXES = 20
_JOINT = re.compile(r"(?:\\(?:q?quad|text ?\{ ?(?:and|or) ?\}|[,;() \[\]])|[$,; .]|\b(?:and|or)\b|(?<![A-Za-z])[a-z] ?=){0,12}")
_BRACKETS = re.compile(r"\[\[ ?([^\[\]\n]{1,100}?) ?\]\]")
_NOUN = (
    r"(?<![A-Za-z])(?:answers?|ans|final (?:result|total|sum|value|solution|amount)|respuesta|réponse|resposta|risposta|antwort)"
    r"(?![A-Za-z])"
    r"|答案|答え|回答|정답|답|الإجابة|الجواب|उत्तर|ответ|đáp án"
)
_ADVERB = r"(?:,? (?:therefore|thus|then|hence|so|now|simply|just|indeed|clearly|finally),?)?"
_VERB = (
    r"(?: (?:is|are|was|equals|(?:would|will|must|should|can only|has to|may|might|could) be|comes (?:out )?to|es|est|ist|è|é)"
    r"(?=n't|[^A-Za-z]|$)|(?<= )(?:is|are|was)(?![A-Za-z])| ?(?:[:=]|->|→|⇒)| - | ?(?:是|为|為|は|은|는|هي|هو|है|это|là))"
)
_MARKS = r"[\"'`*_)}\]]{0,4}"
_OF = r"(?: (?:to|of|for|in)\b[^\n.:=]{0,80}?| \([^()\n]{0,40}\))?"
_STATED = re.compile(rf"(?:{_NOUN}){_MARKS}{_OF}{_ADVERB}{_VERB}", re.IGNORECASE)
_HEADING = re.compile(rf"^[#>*_ ]{{0,8}}(?:(?:the|my) )?(?:(?:final|correct) )?(?:{_NOUN})[*_: ]{{0,6}}$", re.IGNORECASE | re.M)
_LETTER_A = re.compile(r"^A: ?(?=\S)", re.M)
_LETTER_B = re.compile(r"^B: ?(?=\S)", re.M)
_DENIAL = re.compile(r"(?:is|are|was)?(?:n't| ?not)\b|anything but\b|neither\b|never\b", re.IGNORECASE)
_LEAD = re.compile(r"(?:[\s:*_`=→]|[-=]>|(?<=\n)(?:>|- (?=\S)))*")
_SUBJECT = re.compile(  # "Final answer: the largest n is 34"
    r"(?:the|this|that|there|our|its|her|his|their|each)\b(?:[^.\n]|\.(?=[0-9])){0,150}?"
    r" (?:is|are|was|equals|will be|must be)(?= )",
    re.IGNORECASE,
)
_OPENERS = {"$$": "$$", "\\[": "\\]", "\\(": "\\)", "$": "$"}
_END = re.compile(
    r"\$\$[^$]{1,400}\$\$|\$[^$\n]{1,300}\$|\\\((?:[^\\]|\\(?!\))){1,300}\\\)"  # no sentence ends within a formula
    r"|(?<![A-Za-z])(?:i\.e|e\.g|approx|sq|cu|Rs|vs|resp|no|a\.m|p\.m)\."
    r"|(?P<end>\n|[.!?][*_\"')\]]{0,4}(?=\s|$))",
    re.IGNORECASE,
)
_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)


class Unreadable(Exception):
    """Something of the kind that is looked for is here, but only in part or as several values, so there is no answer."""


@dataclass(frozen=True)
class Passage:
    """A piece of a response that is or holds its answer.

    mark: how it is marked: "tag", "hashes", "box", "brackets", "stated", or "A" after an "A:" that answers a "Q:".
    text: the piece itself.
    binding: whether there is no answer at all where none is found here.
    joined: the contents of the boxes before this one, where only "and", "or" or a comma separates them.
    """

    mark: str
    text: str
    binding: bool = False
    joined: tuple[str, ...] = ()


def passages(text: str) -> Iterator[Passage]:
    """The marked passages of a cleaned text, the most binding first."""
    if (inside := tagged(text)) is not None:
        yield from passages(inside)
        yield Passage("tag", inside, binding=True)
        return
    yield from (Passage("hashes", _BOX.split(found[1], maxsplit=1)[0].strip()) for found in _HASHES.finditer(text))
    if _BOX.search(text):
        *joined, content = _boxes(text)
        yield Passage("box", content or "", True, tuple(filter(None, joined)))
    if brackets := _BRACKETS.findall(text):
        yield Passage("brackets", brackets[-1])
    yield from _statements(text)


def tagged(text: str) -> str | None:
    """The content of the last <answer>...</answer>, or what follows the last <answer>; None where there is none."""
    tags = [tag.end() for tag in _TAG.finditer(text)]
    if not tags:
        return None
    end = _TAG_END.search(text, tags[-1])
    return text[tags[-1] : end.start() if end else len(text)].strip()


def final(text: str, read: Callable[[Passage], str | None]) -> tuple[str | None, bool]:
    """What the most binding marked passage says, and whether that settles it: otherwise unmarked text may be tried.

    read: the canonical answer of a passage, None where it holds nothing of the kind; raises Unreadable.
    """
    denied = False
    for passage in passages(text):
        if passage.mark == "stated" and _DENIAL.match(passage.text):
            denied = True
            continue
        try:
            found = read(passage)
        except Unreadable:
            return None, True
        if found is not None or passage.binding:
            return found, True
    return None, denied


def boxed(text: str) -> str | None:
    """The content of the last \\boxed{...} or \\fbox{...}, braces balanced; None where there is none or it was cut off."""
    boxes = [box.end() for box in _BOX.finditer(text)]
    return _content(text, boxes[-1])[0] if boxes else None


def _boxes(text: str) -> list[str | None]:
    """The contents of the last boxes of a text, as far as only a joint separates each from the next."""
    found: list[str | None] = []
    following = None
    for box in reversed(list(_BOX.finditer(text))[-_JOINED_BOXES:]):
        content, end = _content(text, box.end())
        if following is not None and not _JOINT.fullmatch(text[end:following]):
            break
        found.insert(0, content)
        following = box.start()
    return found


def _content(text: str, begin: int) -> tuple[str | None, int]:
    """The content of the box whose braces begin at a position, and the position after it; None where it was cut off."""
    if text[begin : begin + 1] != "{":  # "\boxed 5" and "\boxed\pi"
        bare = re.compile(r"[0-9]+(?:[.,][0-9]+)*|\\[A-Za-z]+|[^\s{}\\$]").match(text, begin)
        return (None, begin) if bare is None else (bare[0], bare.end())
    depth = 0
    for brace in _BRACES.finditer(text, begin):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return text[begin + 1 : brace.start()], brace.end()
    return None, len(text)


def _statements(text: str) -> Iterator[Passage]:
    """What follows "the answer is" and the like, from the last to the first."""
    marks = dict.fromkeys((found.end() for pattern in (_STATED, _HEADING) for found in pattern.finditer(text)), "stated")
    if not _LETTER_B.search(text):  # else they are the options of a question
        marks |= {found.end(): "A" for found in _LETTER_A.finditer(text)}
    for start in islice(sorted(marks, reverse=True), _STATEMENTS):
        if passage := _following(text, start):
            yield Passage(marks[start], passage)


def _following(text: str, start: int) -> str:
    """The sentence from `start` on. It may begin on a later line; a formula at its beginning may span lines."""
    for pattern in (_LEAD, _SUBJECT, _LEAD):
        lead = pattern.match(text, start)
        start = start if lead is None else lead.end()
    opener = next((mark for mark in _OPENERS if text.startswith(mark, start)), "")
    closed = text.find(_OPENERS[opener], start + len(opener), start + _FORMULA) if opener else -1
    begin = start if closed < 0 else closed + len(opener)
    if opener in ("$$", "\\[") and closed >= 0:
        return text[start:begin]
    stop = max(begin, start + _PASSAGE)
    end = next((found.start() for found in _END.finditer(text, begin, stop) if found["end"]), stop)
    return text[start:end].strip()
