"""The tokens of a passage in which numbers are looked for, and LaTeX written in the way of plain text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

_TEXT = re.compile(
    r"\\(?:text(?:bf|it|rm|normal|sf|tt|sc|up)?|math(?:rm|bf|it|sf|tt|normal)|mbox|hbox|emph|bold(?:symbol)?|underline|operatorname\*?)"
    r" ?\{([^{}]*)\}"
)
_DEGREES = re.compile(r"\^ ?(?:\{ ?\\circ ?\}|\\circ(?![A-Za-z]))|\\degree(?:s|Celsius|Fahrenheit)?(?![A-Za-z])")
_MICRO = re.compile(  # "\mu m", "{\mu}m", "\mu\text{m}"
    r"(?:\{ ?\\mu ?\}|\\mu(?![A-Za-z])) ?(\\(?:text|math)(?:rm|normal)? ?\{ ?)?(?=[A-Za-zΩ])"
)
_SPACE = re.compile(r"(?<!\\)\\[,;: ]|~|\\(?:q?quad|thinspace|thickspace|medspace|enspace|hspace\{[^{}]*\}|,)(?![A-Za-z])")
_NOTHING = re.compile(
    r"\\! ?|\\(?:left|right|[bB]igg?[lr]?|displaystyle|textstyle|limits|phantom\{[^{}]*\}|ensuremath)(?![A-Za-z])"
)
_COMMANDS = {
    "dfrac": "\\frac ", "tfrac": "\\frac ", "cfrac": "\\frac ", "times": " × ", "ast": "*", "cdot": " · ", "div": " / ",
    "pm": "±",
    "mp": "±", "approx": " ≈ ", "sim": " ≈ ", "simeq": " ≈ ", "ldots": "...", "dots": "...", "cdots": "...", "pounds": "£",
    "euro": "€", "yen": "¥", "cent": "¢", "percent": "%", "colon": ":", "geq": "≥", "ge": "≥", "leq": "≤", "le": "≤", "neq": "≠",
    "ne": "≠", "lt": "<", "gt": ">", "mu": "μ", "Omega": "Ω", "slash": "/", "textdollar": "$", "texteuro": "€",
}  # fmt: skip
_BASED = re.compile(r"\(([0-9]+)\) ?_")
_TAGS = re.compile(r"</?(?:b|i|u|em|strong|p|span|div|br|code|h[1-6]|li|td|mark|center|font)(?: [^<>]{0,60})?/?>", re.I)
_ABBREVIATED = re.compile(r"\b(sq|cu|ft|in|hrs?|mins?|secs?|lbs?|oz|yds?|mi|gal|approx|Rs)\. ?(?=[\w(])")
_COMMAND = re.compile(r"\\([A-Za-z]+)")
_FORMULA = re.compile(  # "$90^\circ$", but not "$5 and $6"
    r"\$\$([^$]{1,2000}?)\$\$|\$(?! )([^$\n]{1,300}?)(?<! )\$(?![0-9])"
    r"|\\\(((?:[^\\]|\\(?!\))){1,2000}?)\\\)|\\\[((?:[^\\]|\\(?!\])){1,2000}?)\\\]"
)

_TOKEN = re.compile(
    r"(?P<gap>\s+)"
    r"|(?P<number>0[xX][0-9A-Fa-f]+(?![0-9A-Za-z])|0[bB][01]+(?![0-9A-Za-z])|0[oO][0-7]+(?![0-9A-Za-z])"
    r"|(?>[0-9]+(?:['_][0-9]{3}(?![0-9]))*(?:[.,][0-9]+)*|\.[0-9]+)(?:[eE][-+]?[0-9]+(?![0-9A-Za-z.]))?)"
    r"|(?P<word>(?<=[0-9])[A-Za-zμΩ]+|[A-Za-zμΩ]+(?:[0-9]+[A-Za-z0-9]*)?|[^\W\d_A-Za-zμΩ]+)"
    r"|(?P<command>\\[A-Za-z]+|\\.)"
    r"|(?P<mark>\.\.\.|\*\*|[^\s])",
    re.DOTALL,
)


_NEAR = 300  # characters of a line on either side of an equals sign
_DEEPEST = 12  # brackets within brackets that are read


class Token(NamedTuple):
    """A word, number, command or sign of a passage.

    kind: "number", "word", "command" or "mark".
    gap: whether a space stands before it.
    prose: whether it stands outside of formulas.
    """

    kind: str
    text: str
    gap: bool
    prose: bool


def rest(text: str, at: int) -> str:
    """What follows a place on its line, without the end of the formula that the place is in, and no more than `_NEAR` characters.

    The "$" of "$x = 5$" would be taken for a currency after "=".
    """
    begin, end = max(text.rfind("\n", 0, at) + 1, at - _NEAR), text.find("\n", at)
    end = min(at + _NEAR, len(text) if end < 0 else end)
    inside = next((found for found in _FORMULA.finditer(text, begin, end) if found.end() > at), None)
    if inside is None or inside.start() >= at:
        return text[at:end]
    mark = 1 if inside[2] is not None else 2
    return f"{text[at : inside.end() - mark]} {text[inside.end() : end]}"


END = Token("mark", "", True, True)


def token_at(tokens: Sequence[Token], at: int) -> Token:
    return tokens[at] if 0 <= at < len(tokens) else END


def plain(text: str) -> str:
    """The text with LaTeX's spaces, signs and text marks written plainly.

    What was in its text marks stands between ⟨ and ⟩, what was in a formula between ⟪ and ⟫.
    """
    text = text.replace("\\$", "＄").replace("∘", "°")
    text = _FORMULA.sub(lambda found: f"⟪{next(filter(None, found.groups()), '')}⟫", text).replace("＄", "$")
    text = _BASED.sub(r"\1_", _ABBREVIATED.sub(r"\1 ", _TAGS.sub(" ", text)))
    if "\\" not in text and "~" not in text and "{" not in text:
        return text
    text = text.replace("{,}", ",").replace("{.}", ".").replace("{:}", ":").replace("\\%", "%")
    text = text.replace("\\#", "#").replace("\\&", "&").replace("\\_", "_")
    text = _DEGREES.sub("°", _NOTHING.sub("", _SPACE.sub(" ", text)))
    text = _MICRO.sub(lambda found: f"{found[1] or ''}μ", text)
    for _ in range(3):  # text marks within text marks
        text = _TEXT.sub(r" ⟨\1⟩ ", text)
    text = _COMMAND.sub(lambda found: _COMMANDS.get(found[1], found[0]), text)
    return re.sub(r" +", " ", text)


def tokens(text: str, *, prose: bool) -> list[Token]:
    """The tokens of a plain text; `prose` says whether it stands outside of formulas.

    Brackets within more than `_DEEPEST` others are commands that nobody knows, so that readers may follow brackets into brackets.
    """
    found: list[Token] = []
    gap, within, depth = False, [prose], 0
    for match in _TOKEN.finditer(text):
        kind, written = match.lastgroup or "mark", match[0]
        if written in "⟨⟪":
            within.append(written == "⟨")
        elif written in "⟩⟫":
            within = within[:-1] or [prose]
        elif kind != "gap" and written != "`" and (written != "**" or _is_power(text, match)):
            depth += {"(": 1, "{": 1, ")": -1, "}": -1}.get(written, 0)
            found.append(Token("command" if written in "({" and depth > _DEEPEST else kind, written, gap, within[-1]))
            gap = False
            continue
        gap = gap or kind == "gap" or written in "⟨⟩"
    return found


def _is_power(text: str, stars: re.Match[str]) -> bool:
    """Whether two stars mean a power, as in 10**6, and not bold print."""
    before, after = text[stars.start() - 1 : stars.start()], text[stars.end() : stars.end() + 1]
    return bool(before) and bool(after) and before in "0123456789)" and after in "0123456789(-"
