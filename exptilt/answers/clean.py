"""How a response is cleaned before an answer is looked for in it: one spelling for Unicode, the thinking left out.

All of it takes time linear in the length of the text, and is done once, so that no later pattern meets a run of spaces.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_THOUGHTS = r"think|thinking|thought|thoughts|reason|reasoning|reflection|scratchpad|analysis"
_THOUGHT_END = re.compile(
    rf"</ ?(?:{_THOUGHTS}) ?>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>|<\|channel\|>final<\|message\|>", re.IGNORECASE
)
_THOUGHT_START = re.compile(rf"<(?:{_THOUGHTS})>|\[THINK\]|◁think▷|<\|begin_of_thought\|>|<\|channel\|>analysis", re.IGNORECASE)
_SPACES = re.compile(r"[ \t]+")
_EMPTY_LINES = re.compile(r" ?\n[ \n]*\n ?")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+")
_LOWERED = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
_OVERLINED = re.compile("((?:[0-9][\u0304\u0305])+)")  # a bar set above each digit of a period
_VULGAR = re.compile("[0-9]?[¼-¾⅐-⅞↉]")
_LONG_DASH_AS_MINUS = re.compile(r"(?<!\S)[—―](?=[0-9.$£€¥₹])")
_HALF_DAY = re.compile(r"(?<=[0-9 ])([AaPp])\. ?[Mm]\.")
_PLAIN = {
    **dict.fromkeys("‐‑‒–−﹣－", "-"),
    **dict.fromkeys("“”„‟«»「」『』", '"'),
    **dict.fromkeys("‘’‚‛", "'"),
    **dict.fromkeys("⋅∙·・", "·"),
    **dict.fromkeys("⁄∕÷", "/"),
    **dict.fromkeys("×✕✖⨯", "×"),
    **dict.fromkeys("∼～", "~"),
    "٫": ".",
    "٬": ",",
    "٪": "%",
    "،": ",",
    "、": ",",
    "。": ". ",
    "…": "...",
    "￥": "¥",
    "￡": "£",
    "【": "[",
    "】": "]",
    "\u2028": "\n",
    "\u2029": "\n",
    "\x85": "\n",
    "⁢": "·",
    "⁡": "",
    "⁣": ",",
    "⁤": "+",
    "ℓ": "l",
    "K": "K",
    "′": "'",
    "″": '"',
    "\u00ba": "°",  # a raised o
    "\u02da": "°",  # a ring by itself
    "\u00b5": "\u03bc",  # the sign micro, which looks as the Greek letter does
    "\u2126": "Ω",  # ohm
    "\u212b": "Å",  # ångström
    "℃": "°C",
    "℉": "°F",
}


def answering(text: str) -> str:
    """The response after its thinking, since nothing that a model says to itself is its answer; "" if that never ended."""
    ends = [end.end() for end in _THOUGHT_END.finditer(text)]
    text = text[ends[-1] :] if ends else text
    start = _THOUGHT_START.search(text)
    return text if start is None else text[: start.start()]


def clean(text: str) -> str:
    """The text with one spelling for each sign: ASCII digits, minus, quotes and spaces; fractions and powers written out."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\v", "\n").replace("\f", "\n")
    if not text.isascii():
        text = _OVERLINED.sub(lambda found: rf"\overline{{{re.sub('[^0-9]', '', found[0])}}}", text)
        text = _RAISED.sub(lambda found: f"^{{{_compatible(found[0])}}}", text)
        text = _LOWERED.sub(lambda found: f"_{{{_compatible(found[0])}}}", text)
        text = _VULGAR.sub(_written_out, text)
        text = _NOT_ASCII.sub(lambda found: _plain(found[0]), _LONG_DASH_AS_MINUS.sub("-", text))
    text = _HALF_DAY.sub(r"\1m", text)
    return _EMPTY_LINES.sub("\n\n", _SPACES.sub(" ", text)).strip()


def _compatible(text: str) -> str:
    return unicodedata.normalize("NFKC", text).replace("−", "-")


def _written_out(found: re.Match[str]) -> str:
    """ "½" as "1/2", after a digit as " 1/2", which makes a mixed number."""
    sign = unicodedata.normalize("NFKC", found[0][-1]).replace("⁄", "/")
    return f"{found[0][:-1]} {sign}" if len(found[0]) > 1 else sign


@lru_cache(maxsize=4096)
def _plain(character: str) -> str:
    if (known := _PLAIN.get(character)) is not None:
        return known
    kind = unicodedata.category(character)
    if kind == "Nd":
        return str(unicodedata.decimal(character))
    if kind == "Zs":
        return " "
    if kind == "Cf":
        return ""
    if "\uff01" <= character <= "\uff5e" or "\u3380" <= character <= "\u33df" or "\U0001d400" <= character <= "\U0001d7ff":
        return unicodedata.normalize("NFKC", character)
    return character
