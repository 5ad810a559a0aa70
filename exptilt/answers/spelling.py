"""LaTeX as models write it, respelled for Math-Verify's parser; and a check for what the parser would misread.

The parser's own respelling drops units by their letters ("3ab" becomes 3, "2m" becomes 2), adds groups of digits ("1 234"
becomes 235) and loses primes, so that part is switched off and done here.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_SIGNS = {
    "π": "\\pi ", "∞": "\\infty ", "≤": "\\le ", "≥": "\\ge ", "⩽": "\\le ", "⩾": "\\ge ", "≠": "\\ne ", "≈": "\\approx ",
    "∈": "\\in ", "∪": "\\cup ", "∩": "\\cap ", "∅": "\\emptyset ", "±": "\\pm ", "×": "\\times ", "·": "\\cdot ",
    "°": "^\\circ ",
    "∖": "\\setminus ",
    "⌊": "\\lfloor ", "⌋": "\\rfloor ", "⌈": "\\lceil ", "⌉": "\\rceil ", "⟨": "\\langle ", "⟩": "\\rangle ", "ℝ": "\\mathbb{R}",
    "ℤ": "\\mathbb{Z}", "ℕ": "\\mathbb{N}", "ℚ": "\\mathbb{Q}", "ℂ": "\\mathbb{C}", "∫": "\\int ", "∑": "\\sum ", "∏": "\\prod ",
    "′": "'", "∧": "\\land ", "∨": "\\lor ", "→": "\\to ", "∠": "\\angle ", "△": "\\triangle ", "≡": "\\equiv ", "∓": "\\mp ",
    "⊂": "\\subset ", "⊆": "\\subseteq ", "¬": "\\neg ", "⇒": "\\Rightarrow ", "‖": "\\|", "∣": "|",
    "$": "", "€": "", "£": "", "¥": "", "₹": "", "`": "", "−": "-",
}  # fmt: skip
_FUNCTIONS = "arcsin|arccos|arctan|arccot|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln|exp|max|min|gcd|lcm"
_GREEK = "alpha|beta|gamma|delta|epsilon|theta|lambda|mu|sigma|phi|omega|rho|tau"
_Rule = tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]


def _rules(*pairs: tuple[str, str | Callable[[re.Match[str]], str]]) -> list[_Rule]:
    return [(re.compile(pattern), replacement) for pattern, replacement in pairs]


_LAYOUT = _rules(
    (r"\\(?:left|right|[bB]igg?[lr]?)(?![A-Za-z])\.?", ""),
    (r"\\(?:displaystyle|textstyle|limits|nolimits|ensuremath|rm|bf|it)(?![A-Za-z])", " "),
    (r"(?<!\\)\\! ?", ""),
    (r"(?<!\\)\\[,;: ]|~|\\(?:q?quad|thinspace|medspace|thickspace|enspace)(?![A-Za-z])|\\hspace\{[^{}]*\}", " "),
    (r"\\[$%#&](?![A-Za-z])", lambda found: "\\%" if found[0] == "\\%" else ""),
    (r"\\(?:pounds|euro|textdollar|percent)(?![A-Za-z])", ""),
    (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
    (r"\\[dt]binom(?![A-Za-z])", r"\\binom"),
    (r"\\(frac|binom) ?([0-9]) ?([0-9])(?![0-9])", r"\\\1{\2}{\3}"),
    (r"\\leqs?lant|\\leqq", r"\\le "),
    (r"\\geqs?lant|\\geqq", r"\\ge "),
    (r"\\(?:varnothing|O)(?![A-Za-z])", r"\\emptyset "),
    (r"\\l(?:brace|brack)(?![A-Za-z])", lambda found: "\\{" if "brace" in found[0] else "["),
    (r"\\r(?:brace|brack)(?![A-Za-z])", lambda found: "\\}" if "brace" in found[0] else "]"),
    (r"\\[lr]vert(?![A-Za-z])|\\mid(?![A-Za-z])", "|"),
    (r"\\[lr]?Vert(?![A-Za-z])", r"\\|"),
    (r"\\mathbb ?\{R\} ?[\^_] ?\{?\+\}?", r"(0,\\infty)"),
    (r"\\frac ?(\\[a-z]+) ?(\{[^{}]*\}|[0-9A-Za-z])", r"\\frac{\1}{\2}"),
    (r"\\colon(?![A-Za-z])", ":"),
    (r" +", " "),
)
_LETTERS = _rules(  # letters in fonts and with accents: unit vectors however they are set, other vectors, primes
    (r"\\(?:mathrm|text|operatorname|mathit)\{([eid])\}", r"\1"),
    (r"\\[ij]math(?![A-Za-z])", lambda found: found[0][1]),
    (
        r"\\operatorname\*?\{([a-z]+)\}|\\(?:mathrm|text)\{((?:arc)?(?:sin|cos|tan|ln|log|max|min|gcd|lcm|lim))\}",
        lambda found: _function(found),
    ),
    (r"\\(?:hat|widehat)\{?\\?(?:mathbf|boldsymbol|vec|mathrm|bm)?\{?([ijk])\}*", r"\1_{hat}"),
    (r"\\(?:mathbf|boldsymbol|vec|bm|overrightarrow)\{([ijk])\}", r"\1_{hat}"),
    (r"\\(?:mathbf|boldsymbol|vec|bm|overrightarrow)\{([A-Za-z])\}", r"\1_{vec}"),
    (r"\\(?:mathbf|boldsymbol|mathrm|mathit|mathsf|bm|textbf|text)\{(-?[0-9.,]+)\}", r"\1"),
    (r"\\(?:mathcal|mathscr|mathfrak)\{([A-Za-z])\}", r"\1_{cal}"),
    (r"\^ ?\{? ?((?:\\prime ?)+)\}?", lambda found: "'" * found[1].count("prime")),
    (r"([A-Za-z])('+)", lambda found: f"{found[1]}_{{{'prime' * len(found[2])}}}"),
)
_PLAIN_TEXT = _rules(  # what is written as in a program
    (r"\*\*", "^"),
    (r"(?<=[0-9A-Za-z)}]) ?\* ?(?=[0-9A-Za-z(\\{-])", r" \\cdot "),
    (r"<=|=<", r"\\le "),
    (r">=|=>", r"\\ge "),
    (r"!=", r"\\ne "),
    (r"(?<![A-Za-z\\])(?:infinity|inf|oo)(?![A-Za-z])", r"\\infty "),
    (r"(?<![A-Za-z\\])pi(?![A-Za-z])", r"\\pi "),
    (r"(?<![A-Za-z\\])(" + _GREEK + r")(?![A-Za-z])", r"\\\1 "),
    (r"(?<![A-Za-z\\])(" + _FUNCTIONS + r")(?![A-Za-z])", r"\\\1 "),
    (r"\\lg(?![A-Za-z])", r"\\log_{10} "),
    (r"\\log_ ?(?:e(?![A-Za-z])|\{e\})", r"\\ln "),
    (r"\\(?:bmod|pmod)(?![A-Za-z])", r"\\mod "),
    (r"(?<![A-Za-z\\])mod(?![A-Za-z])", r"\\mod "),
    (r"\\(max|min|gcd|lcm) ?\\\{([^{}\\]*)\\\}", r"\\\1(\2)"),
    (r"\\lor(?![A-Za-z])", r"\\text{ or }"),
    (r"\\land(?![A-Za-z])", r"\\text{ and }"),
)
_NUMBERS = _rules(
    (r"(?<![0-9.A-Za-z_^{])([1-9][0-9]{0,2})((?: [0-9]{3})+)(?![0-9])", lambda found: found[1] + found[2].replace(" ", "")),
    (r"(?<=[0-9])\{,\}(?=[0-9]{3}(?![0-9]))", ""),
    (r"(?<=[0-9])\{,\}(?=[0-9])", "."),
    (r"(?<![A-Za-z0-9_^\\])([0-9]+(?:\.[0-9]+)?)[eE]([-+]?[0-9]+)(?![A-Za-z0-9])", r"(\1 \\cdot 10^{\2})"),
    (r"([0-9]*)\.([0-9]*)\\(?:overline|bar|dot)(?:\{([0-9]+)\}|([0-9]))", lambda found: _period(found)),
)
_SHAPES = _rules(
    (r"^\]([^\[\](){}]*,[^\[\](){}]*)\[$", r"(\1)"),
    (r"^\]([^\[\](){}]*,[^\[\](){}]*)\]$", r"(\1]"),
    (r"^\[([^\[\](){}]*,[^\[\](){}]*)\[$", r"[\1)"),
    (r"^[A-Z](?:_\{?[0-9A-Za-z]\}?)?'?(?:_\{prime\})? ?(?:=|:)? ?(\([^()=]*,.*\))$", r"\1"),  # a point with its name
    (r"^\\\{ ?([a-z])(?: ?\\in ?\\mathbb\{R\})? ?[|:] ?(.*[<>=]|.*\\(?:le|ge|ne|in)(?![A-Za-z]))(.*)\\\}$", r"\2\3"),
    (r"(?:\{\})?[_^]\{?([0-9]+|n)\}? ?C_\{?([0-9]+|k|r)\}?", r"\\binom{\1}{\2}"),
    (r"^\\begin\{cases\}([^&]*)\\end\{cases\}$", lambda found: re.sub(r"\\\\", ",", found[1].strip().removesuffix("\\\\"))),
    (r"\\langle (?=[^|]*,)", "("),
    (r"(?<=[^|]) ?\\rangle", ")"),
    (r"\{([^{}]*)\\over(?![A-Za-z])([^{}]*)\}", r"\\frac{\1}{\2}"),
)
_UNIT_POWER = r"(?: ?\^ ?(?:\{-?[0-9]\}|[0-9]))?"
_WORD_MARK = r"\\(?:text(?:bf|it|rm|normal)?|mathrm|mbox|operatorname|rm)"
_TRAILING_UNIT = re.compile(
    rf"(?<=[^\s,=<>+*/({{-]) *(?:{_WORD_MARK} ?\{{(?! ?(?:and|or|if|for)\b)[^{{}}]*\}}{_UNIT_POWER} ?[/·]? ?)+$"
)
_TRAILING_FRACTION_UNIT = re.compile(
    rf"(?<=[0-9}})]) *\\frac ?\{{ ?{_WORD_MARK} ?\{{[^{{}}]*\}} ?\}} ?\{{ ?{_WORD_MARK} ?\{{[^{{}}]*\}}{_UNIT_POWER} ?\}}$"
)
_BARE_UNIT = re.compile(
    r"(?<=[0-9})]) +(?:cm|mm|km|kg|mg|ml|mL|ft|inches|inch|feet|miles?|meters?|metres?|units?|hours?|minutes?|seconds?"
    r"|degrees?|dollars?|cents?"
    rf"|square [a-z]+|cubic [a-z]+|sq\.? [a-z]+|years?|days?|percent|[a-z]{{5,}}){_UNIT_POWER}$"
)
_NAMED = re.compile(  # "AB =", "\angle ABC =", "|AB| =": names that the parser takes for products
    r"^(?:(?:[A-Z]{2,3}|\|[A-Z]{2}\||(?:m ?)?\\angle ?[A-Z]{1,3}|\\overline\{[A-Z]{2}\}|\\frac ?\{d[a-z]\} ?\{d[a-z]\}"
    r"|[A-Z]\([A-Za-z0-9 ,|]*\)|\[[A-Z]{3,4}\]) ?(?:=|\\approx) ?)(?=[^=]*$)(?=.*[0-9a-z\\])"
)
_LEADING_WORDS = re.compile(rf"^{_WORD_MARK} ?\{{[^{{}}]*\}} ?[=:] ?|^(?:=|:|\\therefore|\\implies|\\Rightarrow|\\approx) ?")
_DEGREES = re.compile(r"((?:[0-9.]+|\\frac ?\{[^{}]*\} ?\{[^{}]*\}|\\pi|[a-z)])) ?\^ ?(?:\{ ?\\circ ?\}|\\circ(?![A-Za-z]))")
_TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)")
_ROOT = re.compile(r"(?<![A-Za-z\\])(sqrt|cbrt|abs)(?=\()|(√|∛) ?(?=\()|(\\sqrt) ?(?=\()")
_ROOT_OF = re.compile(r"(?:√|(?<![A-Za-z\\])sqrt ?) ?(\{|[0-9.]+|[A-Za-zπ])")
_LEADING_MARKS = re.compile(r"^(?:[ ,;]|\.(?![0-9]))+")  # of the sentence before; the point of ".5x" is the number's
_NOT_VALUES = re.compile(  # what the parser takes for a product of letters, or whose meaning it loses
    r"\\(?:angle|triangle|overline|widehat|stackrel|square"
    r"|equiv|perp|parallel|cong|sim|mapsto|ldots|dots|cdots|cdot ?\\cdot|vdots|ddots"
    r"|forall|exists|Leftrightarrow|implies|oplus|otimes|star|circ|deg|begin\{cases)(?![A-Za-z])"
    r"|\\frac ?\{ ?(?:d|\\partial) ?[A-Za-z]|^(?!.*\\lim).*\\to(?![A-Za-z])|\.\.\."
    r"|(?<![_^0-9])[0-9]+ +[0-9]|\.[0-9]+\.[0-9]|[0-9]\. +[0-9]|[A-Za-z})\])]\.[0-9]|[A-Za-z]\\?&|\\mod.*\\mod"
    r"|^\(?[A-Z]\)? ?[0-9]|(?<![A-Za-z\\])[A-Za-z]\([^()]*\\(?:log|ln)\b|^\\?(?:Theta|Omega|O|o) ?\("
)


def spelled(content: str) -> str:
    """The expression in the parser's spelling, without units."""
    for sign, written in _SIGNS.items():
        content = content.replace(sign, written)
    for rules in (_LAYOUT, _LETTERS):
        content = _applied(rules, content)
    content = _LEADING_WORDS.sub("", _trimmed(content))
    content = _NAMED.sub("", _rooted(content))
    for rules in (_NUMBERS, _PLAIN_TEXT, _SHAPES):
        content = _applied(rules, content.strip())
    content = without_units(content)
    trigonometric = r"(\1 \\cdot \\frac{\\pi}{180})" if _TRIGONOMETRY.search(content) else r"\1"
    content = _DEGREES.sub(trigonometric, content).replace("\\%", "").replace("%", "")
    return _trimmed(re.sub(r" +", " ", content))


def _trimmed(content: str) -> str:
    """The expression without the punctuation of the sentence around it, which an ellipsis is not."""
    content = content.strip()
    return content if content.endswith("...") else _LEADING_MARKS.sub("", content).rstrip(" .,;")


def has_value(content: str) -> bool:
    """Whether the parser reads a respelled expression as what it means."""
    return not _NOT_VALUES.search(content)


def without_units(content: str) -> str:
    """The expression without the unit after it."""
    for pattern in (_TRAILING_FRACTION_UNIT, _TRAILING_UNIT, _BARE_UNIT):
        content = pattern.sub("", content)
    return content.strip()


def _applied(rules: list[_Rule], content: str) -> str:
    for pattern, replacement in rules:
        content = pattern.sub(replacement, content)
    return content


def _function(found: re.Match[str]) -> str:
    name = found[1] or found[2]
    return f"\\operatorname{{{name}}}" if name == "lcm" else f"\\{name} "


def _period(found: re.Match[str]) -> str:
    """A decimal with a period as a fraction."""
    whole, fixed, period = found[1] or "0", found[2], found[3] or found[4]
    bottom = 10 ** len(fixed) * (10 ** len(period) - 1)
    top = int(whole + fixed + period) - int(whole + fixed)
    return f"\\frac{{{top}}}{{{bottom}}}"


def _rooted(content: str) -> str:
    """Roots that are written as calls or by their sign, as \\sqrt{...}."""
    while root := _ROOT.search(content):
        end = _closing(content, root.end())
        if end < 0:
            break
        inner = content[root.end() + 1 : end]
        form = {"cbrt": "\\sqrt[3]{%s}", "∛": "\\sqrt[3]{%s}", "abs": "|%s|"}.get(root[1] or root[2] or "", "\\sqrt{%s}")
        content = content[: root.start()] + form % inner + content[end + 1 :]
    return _ROOT_OF.sub(lambda found: "\\sqrt{" if found[1] == "{" else f"\\sqrt{{{found[1]}}}", content)


def _closing(content: str, start: int) -> int:
    """Where the bracket at `start` closes; -1 where it does not."""
    depth = 0
    for at in range(start, len(content)):
        depth += {"(": 1, ")": -1}.get(content[at], 0)
        if depth == 0:
            return at
    return -1


_SPELLINGS = _rules(
    (r"\\(?:text(?:bf|it|rm|normal)?|mathrm|mbox) ?\{([^{}]*)\}", r"\1"),
    (r"\\(?:leq|leqslant)(?![A-Za-z])", r"\\le"),
    (r"\\(?:geq|geqslant)(?![A-Za-z])", r"\\ge"),
    (r"\\neq(?![A-Za-z])", r"\\ne"),
    (r"\\(?:ldots|dots|cdots)(?![A-Za-z])", "..."),
    (r"\\(?:bmod|pmod|mod)(?![A-Za-z])", r"\\mod"),
    (r"\{([0-9A-Za-z])\}", r"\1"),
    (r"[ \t\n]+(?![0-9])|(?<![0-9])(?<![0-9]\.)[ \t\n]+", ""),  # a space between digits stays: "3 4" is not 34
)


def as_written(content: str) -> str:
    """The expression without spaces and layout, its marks in one spelling."""
    for sign, written in _SIGNS.items():
        content = content.replace(sign, written)
    return _LEADING_MARKS.sub("", _applied(_SPELLINGS, _applied(_LAYOUT, content))).rstrip("., ")
