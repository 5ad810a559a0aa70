"""Answers that are the letter of an option."""

from __future__ import annotations

import re

from exptilt.answers.clean import answering, clean
from exptilt.answers.lexer import plain
from exptilt.answers.passages import Passage, Unreadable, final

_LONGEST_LINE = 1000  # characters of a line that may be only an option
_OPEN = r"(?:[\"'`*_$({\[<⟨⟪ ]|\\\(){0,12}"
_NAMED = r"(?:(?:the )?(?:correct |right |best )?(?:option|choice|letter|answer|statement|alternative)s? ?(?:is |: ?)?)?"
_ADVERB = (
    r"(?:(?:thus|therefore|then|hence|clearly|simply|indeed|definitely|probably|most likely|likely|actually|again|only|just),? )?"
)
_OPTION = re.compile(rf"{_OPEN}(?i:{_ADVERB}{_NAMED}){_OPEN}(?P<letter>[A-Ja-j])(?![A-Za-z0-9_^#])(?P<rest>.*)", re.DOTALL)
_CLOSED = re.compile(r" ?(?:[\"'`*_$)}\]>⟩⟫.:,;!?]|\\\))")
_CLOSERS = re.compile(r"(?:[\"'`*_$)}\]>⟩⟫. ]|\\\))*")
_ANOTHER = re.compile(rf"(?:[,/&+;]|\bor\b|\band\b|\bor/and\b|,? ?(?:and|or) )+ ?{_OPEN}(?:(?i:{_NAMED})){_OPEN}[A-J](?![\w'^])")
_GOES_ON = re.compile(  # words after a bare "A" or "I" that make it a letter and not the article or the pronoun
    r" (?:is|was|are|because|since|as|seems|would|must|fits|matches|gives|can|for|with|which|where|when|but|not|rather"
    r"|being|has|,)"
    r"\b"
)
_SEPARATE = re.compile(r" ?(?:[)\]:]|\. |\.$| [-—] |\*\*)")
_LINE = re.compile(
    rf"(?P<open>[*_#>\s\"'`$({{\[<⟨⟪]{{0,12}})(?i:{_NAMED})[*_\"'`$({{\[<⟨⟪]{{0,12}}(?P<letter>[A-J])"
    r"(?P<rest>(?:[)\]}>:.*_`⟩⟫$]|[\"'](?![a-z])| - | — |,? (?:because|since|as)\b).*|\s*)",
    re.DOTALL,
)
_ALONE = r"(?=(?i: only| just)?(?i: option| choice| answer| letter)? [^\w\n]{0,4}[A-J][^\w\n]{0,4}$)"
_CLAIMS = re.compile(
    r"(?:\b(?i:(?:correct|right|best|final|chosen|selected|true) (?:option|choice|letter|alternative|statement|one)"
    r"|option|choice)[\"']? ?(?i:is|would be|must be|should be|:)"
    r"|\b(?i:i(?:'d| would|'ll| will)? (?:choose|pick|select|go with|say|opt for))(?! between| from| among)"
    r"|\b(?i:(?:(?:we |therefore,? |so,? |thus,? )(?:choose|pick|select)|choose|pick|select))(?! between| from| among)"
    rf"|\b(?i:it(?:'s| is| must be| has to be)|therefore,?|thus,?|hence,?|so,?|leaves|leaving|matches|corresponds to){_ALONE}"
    r"|(?:选项|选择?|選択肢)[是为は]?)[: ]*(?P<after>[^\n]{1,80})",
    re.MULTILINE,
)
_IS_RIGHT = re.compile(
    rf"{_OPEN}(?P<letter>[A-J])[\"'`*_$)}}\]>⟩⟫]* (?i:is|must be|should be|seems|would be)"
    r" (?i:(?:clearly|therefore|thus|the|indeed|also|most likely)? ?(?:correct|right|true|best"
    r"|the (?:correct |right |best |final )?(?:answer|option|choice)|(?:correct |right |best )(?:answer|option|choice)))"
)
_SMALL = re.compile(r"\(?([a-j])[).:]{0,2}")  # as all of a text
_SAYS_OF_IT = re.compile(r"[)\]}>*_.: ]*(?:is|was|are|isn't|can|cannot|can't|does|doesn't|would|has|seems|says|or|and)\b")
_OTHER_BEFORE = re.compile(r"(?:\b(?:or|and|nor)|\b[A-J][)*_$\"'`]{0,4} ?[,/&])[ (*]*$")  # "A, C is right", not "So, C is right"
_BRACKETED = re.compile(r"\(([A-J])\)")


def choice(text: str) -> str | None:
    """The chosen option of a multiple-choice question, "A" to "J".

    It is looked for in the passages of `exptilt.answers.passages`; then in "option C is correct", "the correct option is C", "I
    choose C"; then in a last or first line that is only the option, such as "B", "(B)" or "B) Paris"; then it is the last "(B)"
    anywhere. A small letter counts where it is set off: "(b)", "answer: b". A bare "A" before a word is taken for the article,
    except in "A because", "A is" and the like. None where several options are named together.
    """
    text = clean(answering(text))
    if small := _SMALL.fullmatch(text):
        return small[1].upper()
    found, settled = final(text, _in_passage)
    if settled or not text:
        return found
    try:
        return _claimed(text) or _on_a_line(text) or (_BRACKETED.findall(text) or [None])[-1]
    except Unreadable:
        return None


def _in_passage(passage: Passage) -> str | None:
    if passage.mark == "A":
        return None
    return _option(plain(passage.text), bare=passage.mark in ("box", "tag", "brackets"))


def _option(passage: str, *, bare: bool) -> str | None:
    """The option that a passage begins with. Raises Unreadable where it names several."""
    passage = re.sub("[⟨⟩⟪⟫]", "", passage).strip()
    found = _OPTION.match(passage)
    if found is None:
        return None
    letter, rest = found["letter"], found["rest"]
    opened = passage[: found.start("letter")].rstrip()[-1:]
    marked = bool(opened) and opened in "\"'`*_$({[<⟨⟪" and bool(_CLOSED.match(rest))
    if not marked and not _stands_alone(letter, rest, bare=bare):
        return None
    if _ANOTHER.match(_CLOSERS.sub("", rest, count=1)) or (_ANOTHER.match(rest)):
        raise Unreadable
    return letter.upper()


def _stands_alone(letter: str, rest: str, *, bare: bool) -> bool:
    """Whether a letter without marks is an option and not a word, article or pronoun."""
    if not rest.strip(" .!?)*_⟩⟫$}\"'`"):
        return True
    if letter.islower():
        return bool(_SEPARATE.match(rest)) and letter not in "ai"
    if rest[0] in "'’" or (letter == "I" and rest.startswith(" ") and not rest.startswith((" is ", " because "))):
        return False
    if letter == "A" and not bare and re.match(r" [a-z]", rest):
        return bool(_GOES_ON.match(rest))
    return not re.match(r" ?[=+*/<>^]|-[A-Za-z0-9]", rest)


def _claimed(text: str) -> str | None:
    """What "option C is correct" and "the correct option is C" say, the last of them."""
    claims: list[tuple[int, str]] = [
        (found.start(), "" if _OTHER_BEFORE.search(text[max(0, found.start() - 12) : found.start()]) else found["letter"])
        for found in _IS_RIGHT.finditer(text)
    ]
    for found in _CLAIMS.finditer(text):
        try:
            letter = _option(plain(found["after"]), bare=False)
        except Unreadable:
            letter = ""
        if letter is not None:
            claims.append((found.start(), letter))
    if not claims:
        return None
    if not (last := max(claims)[1]):
        raise Unreadable
    return last


def _on_a_line(text: str) -> str | None:
    """The option where the last line, or else the first, says nothing more."""
    lines = [line for line in text.split("\n") if line.strip()]
    for line in dict.fromkeys((lines[-1], lines[0])):
        found = _LINE.fullmatch(plain(line[:_LONGEST_LINE]).strip())
        if found and not _SAYS_OF_IT.match(found["rest"]) and not (found["letter"] == "I" and found["rest"].strip(" .)*_")):
            if _ANOTHER.match(_CLOSERS.sub("", found["rest"], count=1)):
                raise Unreadable
            return found["letter"]
    return None
