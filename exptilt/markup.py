"""HTML made of elements, in which every text is escaped: what a model or a data set says can never become markup."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Html:
    """A piece of finished HTML; a plain string is text, and is escaped wherever it is put into one."""

    source: str


Child = Html | str | None | Sequence["Child"]

_NO_CHARACTERS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")  # in no document


def element(name: str, *children: Child, **attributes: str | float | bool | None) -> Html:
    """One element. Of an attribute's name a last underscore is left out, another is a hyphen; None and False leave it out."""
    told = "".join(
        f" {key}" if value is True else f' {key}="{escaped(str(value))}"'
        for key, value in ((key.removesuffix("_").replace("_", "-"), value) for key, value in attributes.items())
        if value is not None and value is not False
    )
    return Html(f"<{name}{told}>{joined(*children).source}</{name}>")


def joined(*children: Child) -> Html:
    """Pieces one after the other; None is nothing."""
    return Html("".join(map(_piece, children)))


def escaped(text: str) -> str:
    """A text as it stands in HTML, also inside an attribute; what is no character becomes the sign for that."""
    return html.escape(_NO_CHARACTERS.sub("\ufffd", text))


def _piece(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Html):
        return child.source
    return escaped(child) if isinstance(child, str) else "".join(map(_piece, child))
