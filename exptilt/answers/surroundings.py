"""The surroundings of a number that show it to be only a part of something: of a formula, a list, a range, a date, a name."""

from __future__ import annotations

from collections.abc import Sequence

from exptilt.answers.lexer import Token, token_at
from exptilt.answers.passages import Unreadable

_LABELS = {
    "step", "rule", "figure", "fig", "table", "question", "problem", "exercise", "section", "chapter", "page", "part", "case",
    "equation", "eq", "option", "choice", "line", "item", "example", "theorem", "lemma", "note", "appendix", "version",
    "confidence", "#",
}  # fmt: skip
_MONTHS = {
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December",
    "Jan", "Feb", "Mar", "Apr", "Jun", "Jul", "Aug", "Sep", "Sept", "Oct", "Nov", "Dec",
}  # fmt: skip
_PLACING = {"in", "into", "from", "among"}
_BEFORE_ADJUNCT = {"after", "in", "within", "over", "during", "for", "per", "every", "each", "by"}
_ADJUNCT = {
    "step",
    "day",
    "hour",
    "minute",
    "second",
    "week",
    "month",
    "year",
    "time",
    "try",
    "tries",
    "attempt",
    "night",
    "trip",
}
_OF_A_NUMBER = {"sqrt", "root", "log", "ln", "lg", "sin", "cos", "tan", "exp", "mod", "modulo", "factorial", "base"}
_OPERATORS = {
    "x",
    "plus",
    "minus",
    "times",
    "more",
    "less",
    "fewer",
    "divided",
    "multiplied",
    "modulo",
    "mod",
    "choose",
    "to",
    "through",
}
_JOINERS = {"and", "or", "to", "&", ",", ";", "through"}
_NEVER = {"⌊", "⌈", "^", "_", "±", "**", "<", ">", "≤", "≥", "≠", "√", "π", "∞", "\u0304", "\u0305"}
_OPERATIONS = {"+", "-", "×", "*", "·", "/", "="}
_ORDINALS = {"st", "nd", "rd", "th"}
_MAY_TOUCH = {"m", "g", "s", "h", "l", "L", "W", "V", "A", "J", "N", "C", "F"}  # units, in prose
_DELIMITERS = {"\\end", "\\(", "\\)", "\\[", "\\]", "\\\\", "\\{", "\\}"}


def check_after(tokens: Sequence[Token], after: int) -> None:
    """Raise Unreadable where what follows makes the number before `after` a part of something."""
    token, then = token_at(tokens, after), token_at(tokens, after + 1)
    if token.text in (")", "}", "]") and then.text in _NEVER | _OPERATIONS and _is_operand(tokens, after + 2):
        raise Unreadable  # "(3)/(4)"
    if token.kind == "number" or (token.kind == "command" and token.text not in _DELIMITERS):
        raise Unreadable
    if token.text in _NEVER and not (token.text in ("_", "<") and not _is_operand(tokens, after + 1)):
        raise Unreadable
    if token.text in _OPERATIONS and _is_operand(tokens, after + 1):
        raise Unreadable
    if (token.text == "!" and not token.prose) or (token.text == ":" and then.kind == "number" and not then.gap):
        raise Unreadable
    if token.text == "(" and not token.gap and (not token.prose or then.kind == "number"):
        raise Unreadable
    if token.kind == "word":
        _check_word_after(tokens, after)
    elif token.text in _JOINERS:
        ahead = 2 if then.text in ("and", "or") else 1
        if _is_number(tokens, after + ahead):
            raise Unreadable


def _check_word_after(tokens: Sequence[Token], after: int) -> None:
    word = tokens[after].text
    touches = not tokens[after].gap and word.isascii() and len(word) < 3
    if touches and word not in _ORDINALS and not (tokens[after].prose and word in _MAY_TOUCH):
        raise Unreadable
    if not tokens[after].prose and len(word) == 1:
        raise Unreadable
    date = [token_at(tokens, after + step).text for step in range(3)]
    if word in _MONTHS or (word in _ORDINALS | {"of"} and (date[1] in _MONTHS or date[2] in _MONTHS)):
        raise Unreadable
    if word.lower() in _OPERATORS | _JOINERS:
        ahead = 2 if token_at(tokens, after + 1).text in ("than", "by", "about", "from") else 1
        if _is_number(tokens, after + ahead):
            raise Unreadable


def check_before(tokens: Sequence[Token], start: int) -> None:
    """Raise Unreadable where what comes before a number makes it a part of something."""
    token, before = token_at(tokens, start - 1), token_at(tokens, start - 2)
    attached = start > 0 and not tokens[start].gap
    if start == 0:
        return
    if token.kind == "number" and not is_label(tokens, start - 1):
        raise Unreadable
    if attached and (token.text in ("-", "+", "'") and before.kind != "word") and (token.text != "'" or before.kind == "number"):
        raise Unreadable  # "--5", "5'10"
    if attached and token.text == "|" and any(after.text == "|" and not after.gap for after in tokens[start + 1 : start + 5]):
        raise Unreadable  # "|-5|"
    if token.text == "." and before.text in _MONTHS:
        raise Unreadable
    if token.kind == "command" and token.text not in _DELIMITERS:
        raise Unreadable
    if token.text in _NEVER and not (token.text in ("_", ">") and before.text in ("-", "=", "", "_")):
        raise Unreadable
    if token.text in _OPERATIONS - {"="} and start > 1 and token.gap != attached and _may_end(before):
        raise Unreadable
    if token.text == "{" and (before.kind == "command" or before.text in ("^", "_", "}")):
        raise Unreadable
    if token.text == "(" and not token.gap and before.kind == "word" and before.text.isascii() and start > 1:
        raise Unreadable  # "f(2)"
    if token.text in _JOINERS and (before.kind == "number" or before.text in ("%", "°")):
        raise Unreadable
    if token.kind == "word":
        _check_word_before(token, before)


def _check_word_before(token: Token, before: Token) -> None:
    if (
        token.text.lower() in _OF_A_NUMBER
        or token.text in _MONTHS
        or (token.text == "of" and before.text.lower() in _OF_A_NUMBER)
    ):
        raise Unreadable
    if not token.prose and len(token.text) == 1:
        raise Unreadable


def _may_end(token: Token) -> bool:
    """Whether an operand of a formula may end with the token."""
    return (
        token.kind == "number"
        or token.text in (")", "}", "]", "°", "%")
        or (token.kind == "word" and (len(token.text) < 3 or not token.prose))
    )


def _is_operand(tokens: Sequence[Token], at: int) -> bool:
    """Whether an operand of a formula begins here: a number, a letter, a function, a bracket."""
    token = token_at(tokens, at)
    if token.text in ("-", "+"):
        token = token_at(tokens, at + 1)
    return (
        token.kind in ("number", "command")
        or token.text in ("(", "{", "√", "π")
        or (token.kind == "word" and (len(token.text) == 1 or token.text.lower() in _OF_A_NUMBER))
    )


def _is_number(tokens: Sequence[Token], at: int) -> bool:
    token = token_at(tokens, at)
    if token.text in ("-", "+", "$", "€", "£"):
        token = token_at(tokens, at + 1)
    return token.kind == "number" or token.text == "\\frac"


def is_label(tokens: Sequence[Token], start: int) -> bool:
    """Whether the number only names a thing: "step 3", "#2", "top-10", "1." before the words of a list item."""
    token, before = token_at(tokens, start - 1), token_at(tokens, start - 2)
    if start > 0 and (token.text.lower() in _LABELS or (token.text == "(" and before.text.lower() in _LABELS)):
        return True
    if (
        start > 1
        and token.text == "-"
        and not token.gap
        and not tokens[start].gap
        and before.kind == "word"
        and len(before.text) > 1
    ):
        return True
    mark, then = token_at(tokens, start + 1), token_at(tokens, start + 2)
    return start == 0 and mark.text in (".", ")") and not mark.gap and then.gap and then.text != ""


def is_aside(tokens: Sequence[Token], start: int) -> bool:
    """Whether the number is in brackets, or says when or how long: "after 3 days"."""
    before, after = token_at(tokens, start - 1).text.lower(), token_at(tokens, start + 1).text.lower()
    if before in _BEFORE_ADJUNCT and after.removesuffix("s") in _ADJUNCT | {word.removesuffix("s") for word in _ADJUNCT}:
        return True
    earlier = token_at(tokens, start - 2)
    if before in _PLACING or (before == "of" and (earlier.kind == "number" or earlier.text == "out")):
        return True
    if before == "the" and earlier.text == "of" and token_at(tokens, start - 3).kind == "number":
        return True
    opened = sum({"(": 1, ")": -1}.get(token.text, 0) for token in tokens[:start])
    return opened > 0
