"""Answers that are mathematics in LaTeX: equal values are one answer, however they are written.

A vote needs one string for each class of equal answers, not a test of pairs. What is plainly a number is read as `number`
reads it; otherwise Math-Verify's parser turns the LaTeX into a sympy expression, whose form is

- of a constant: the exact value where it is rational ("0.5", "1/3"), else 12 digits of it ("≈1.41421356237");
- of an expression with letters: 12 digits of its value at three fixed points of its letters, so that x+x and 2x, or
  (x²-1)/(x-1) and x+1, are one answer; different functions are confused only if they agree at all three;
- of sets, intervals, tuples, matrices, equations, inequalities: the forms of their parts, in a fixed order. "x = 5" is 5
  and "x > 3" is the interval; an equation between two expressions may be multiplied by any factor, and one that can be solved
  for y is the function y.

What the parser cannot read, or not within a second of CPU time, is compared as it is written, without spaces and layout. Other
limits: (1, 2) is both the interval and the point, 50\\% is 50, units are dropped, letters are real numbers, and log without a
base is decimal.
"""

from __future__ import annotations

import itertools
import re
from functools import lru_cache

from exptilt.answers.clean import answering, clean
from exptilt.answers.lexer import plain, tokens
from exptilt.answers.numeric import literal_form, number_form
from exptilt.answers.passages import Passage, Unreadable, final
from exptilt.answers.reader_pool import POOL
from exptilt.answers.readings import find, first, only
from exptilt.answers.spelling import as_written
from exptilt.answers.texts import exact

_LONGEST = 400  # characters of an expression that is read; longer ones are compared as written
_BARE = 300  # characters of a text without marks that may be nothing but an expression
_DELIMITED = re.compile(r"\$\$(.{1,400}?)\$\$|\$([^$\n]{1,400})\$|\\\((.{1,400}?)\\\)|\\\[(.{1,400}?)\\\]", re.DOTALL)
_JOINT = re.compile(r"[*_ ]*(?:,|;|and|or|, and|, or)[*_ ]*", re.IGNORECASE)
_SOLUTIONS = 20  # formulas at the end of a text that may be values of one letter
_VALUE_OF = re.compile(r"\s*([A-Za-z](?:_\{?\w+\}?)?)\s*=")
_MARKS = re.compile(r"\\(?:text\w*|math\w+|mbox|operatorname|begin|end|[A-Za-z]+)(?: ?\{[^{}]*\})?")
_PROSE = re.compile(
    r"(?<![A-Za-z])(?!(?:sqrt|cbrt|arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|exp|abs|max|min|gcd|lcm|mod|and|"
    r"infinity|inf|alpha|beta|theta|lambda|sigma|omega)(?![A-Za-z]))[^\W\d_]{3,}"
)
_WORDS = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mbox|mathbf) ?\{([^{}\\]*)\}|[YyNn](?:es|ES|o|O)"
    r"|[^\W\d_][^\W\d_' -]*(?:[^\W\d_]|[ '-]){3,}"
)
_OPTION = re.compile(
    r"\\(?:text(?:bf|rm|it)?|math(?:rm|bf)) ?\{ ?\(([A-J])\)[.:]? ?\}.*"
    r"|\\(?:text(?:bf|rm|it)?|math(?:rm|bf)) ?\{ ?([A-J])[.:]? ?\}(?:(?:\\[ ,;]| |~|\\quad|:).*)?"
    r"|\(([A-J])\)",
    re.DOTALL,
)
_NOTHING = re.compile(
    r"(?:there (?:is|are) )?no (?:real |such |possible |integer )?(?:solutions?|roots?|numbers?|values?)(?: exists?)?"
    r"|none|empty set",
    re.I,
)
_WORD_FORMS = {"infinity": "∞", "dne": "does not exist", "true": "true", "false": "false"}
_BECAUSE = re.compile(r",? (?:because|since|as)\b|(?<=^[YyNn]o),|(?<=^[Yy]es),", re.IGNORECASE)
_CONCLUDED = re.compile(r"(?:\b(?:is|are|get|gets|gives|equals|obtain|becomes|have|be)\b|[=:]) +([^\n]{1,80}?)[.!]?$")
_NAME = r"(?:\\(?!frac|sqrt)[A-Za-z]+|[A-Za-z])(?:_(?:\{[^{}]*\}|[0-9A-Za-z]))?'*(?: ?\( ?[A-Za-z](?: ?, ?[A-Za-z])* ?\))?"
_ASSIGNED = re.compile(rf"\s*{_NAME}\s*(?:=|\\approx|≈)(?![^=]*=)(.*)", re.DOTALL)
_SEVERAL = re.compile(
    r",|;|\\text\{ *(?:and|or) *\}|\\\\|\b(?:and|or)\b|\\l?or\b|\\land\b|[<>≤≥]|\\[lg]e"
)  # members, not steps of one chain
_DELIMITERS = re.compile(r"^(?:\\\(|\\\[|\$+)\s*(.*?)\s*(?:\\\)|\\\]|\$+)$", re.DOTALL)


def latex(text: str) -> str | None:
    """The final answer in LaTeX, in the canonical form that the overview describes.

    It is looked for in the passages of `exptilt.answers.passages`, as the formula there if one is marked; a text that is only an
    expression is its own answer; else it is the last formula between dollar signs, \\(...\\) or \\[...\\]; else what
    `number` finds. Raises ExptiltError where math-verify is not installed and an expression has to be read.
    """
    text = clean(answering(text))
    found, settled = final(text, _in_passage)
    if settled or not text:
        return found
    formulas = _DELIMITED.findall(text)
    if len(text) <= _BARE and not _is_prose(text) and (not formulas or _DELIMITED.fullmatch(text)):
        return expression(text)
    if formulas:
        return expression(_last_formulas(text))
    line = text.rpartition("\n")[2]
    if (concluded := list(_CONCLUDED.finditer(line[-_BARE:]))) and not _is_prose(concluded[-1][1]):
        return expression(concluded[-1][1])
    return find(text, number_form)


def _last_formulas(text: str) -> str:
    """The last formula of a text, with those before it that give the same letter another value, as in "$x = 1$ and $x = 2$"."""
    formulas = list(_DELIMITED.finditer(text))[-_SOLUTIONS:]
    joined = [_inside(formulas[-1])]
    for before, after in zip(formulas[-2::-1], formulas[:0:-1], strict=True):
        names = [_VALUE_OF.match(_inside(each)) for each in (before, after)]
        same = names[0] is not None and names[1] is not None and names[0][1] == names[1][1]
        if not (same and _JOINT.fullmatch(text[before.end() : after.start()])):
            break
        joined.insert(0, _inside(before))
    return ", ".join(joined)


def _inside(formula: re.Match[str]) -> str:
    return next(filter(None, formula.groups()))


def reference(text: str) -> str | None:
    """A right answer: as `latex` reads it where it is a solution with a marked answer, else the whole text as one expression."""
    cleaned = clean(answering(text))
    found, settled = final(cleaned, _in_passage)
    return found if settled and found is not None else expression(text)


def _in_passage(passage: Passage) -> str | None:
    if passage.mark in ("box", "brackets"):
        return expression(", ".join((*passage.joined, passage.text)))
    if passage.mark == "hashes":
        heading = re.match(r"[0-9]{1,2}[.):] ?[A-Za-z]", passage.text) or (
            _is_prose(passage.text) and not re.match(r"[-$€£\\0-9.]", passage.text)
        )
        return None if heading else _stated(passage.text)
    return _stated(passage.text)


def _stated(passage: str) -> str | None:
    """What a statement says: its formulas; else all of it; in prose its first number, or its words."""
    if formulas := list(_DELIMITED.finditer(passage)):
        joined = [_inside(formulas[0])]
        for before, after in itertools.pairwise(formulas):
            if not _JOINT.fullmatch(passage[before.end() : after.start()]):
                break
            joined.append(_inside(after))
        return expression(", ".join(joined))
    passage = passage.strip(" *_:\"'`").rstrip(".")
    if not _is_prose(passage):
        return expression(passage)
    try:
        return first(passage, number_form) or _said(_BECAUSE.split(passage, maxsplit=1)[0])
    except Unreadable:
        return expression(passage)


def _said(words: str) -> str | None:
    """The form of an answer in words."""
    words = words.strip()
    if len(words) == 1:
        return words
    if _NOTHING.fullmatch(words):
        return "∅"
    return _WORD_FORMS.get(words.lower()) or exact(words)


def _is_prose(text: str) -> bool:
    return _PROSE.search(_MARKS.sub(" ", text)) is not None


@lru_cache(maxsize=10_000)
def expression(content: str) -> str | None:
    """The canonical form of one LaTeX expression, as a reference answer gives it; None for an empty one."""
    content = clean(content).strip()
    while (inner := _DELIMITERS.match(content)) and inner[1]:
        content = inner[1]
    content = content if content.endswith("...") else content.rstrip(".,;").strip()
    if len(content) > _LONGEST:
        return as_written(content)
    content = _arrived_at(content)
    return _plainly(content) or (POOL.read(content) if content else None) or as_written(content) or None


def _arrived_at(content: str) -> str:
    """The last side of a chain of equations; of a value and its approximation the value."""
    before, approximately, after = re.sub(r"\\(?:approx|simeq)(?![A-Za-z])", "≈", content).partition("≈")
    if approximately and before.strip():
        content = after if re.fullmatch(rf"\s*{_NAME}\s*", before) else before
    if "=" not in content or _SEVERAL.search(content):
        return content.strip()
    depth, sides = 0, [""]
    for sign in content:
        depth += {"{": 1, "}": -1}.get(sign, 0)
        if sign == "=" and depth == 0 and sides[-1][-1:] not in ("<", ">", "!"):
            sides.append("")
        else:
            sides[-1] += sign
    return (sides[-1] if len(sides) > 2 else content).strip()


def _plainly(content: str) -> str | None:
    """The form of what needs no parser: a number with its unit, an option, words."""
    if option := _OPTION.fullmatch(content):
        return option[1] or option[2] or option[3]
    assigned = _ASSIGNED.fullmatch(content)
    value = content if assigned is None else assigned[1]
    try:
        if "=" not in value and (form := only(tokens(plain(value), prose=False), literal_form)) is not None:
            return form
    except Unreadable:
        pass
    if words := _WORDS.fullmatch(content):
        return _said(words[1] if words[1] is not None else words[0])
    return None
