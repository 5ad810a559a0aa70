"""The page: template, style and scripts of the folder `page/` in one HTML file, and the data inside it.

`DRAWING` and `STYLE` draw one answer; the server's page has them too.

Data are JSON in script elements of a type that no browser runs, with every "<" escaped, so that no text can end its
element. The page's content security policy names the digests of its own script and style: nothing else runs, and
nothing is fetched, whatever the data say. One element for each prompt and method is read when it is opened.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from typing import Any

from exptilt.report.prompt import plain

DRAWING = ("dom.js", "theme.js", "tree.js", "drafts.js", "answer.js")
STYLE = "style.css"
_SCRIPTS = (*DRAWING, "data.js", "plots.js", "overview.js", "list.js", "detail.js", "main.js")
_LONE = re.compile("[\ud800-\udfff]")  # half a surrogate pair is valid JSON when escaped, and no valid UTF-8


def render(title: str, overview: Mapping[str, Any], details: Iterable[tuple[int, int, Mapping[str, Any]]]) -> Iterator[str]:
    """The page in pieces. details: number of the prompt, number of the method, and what `prompt.detail` made of it."""
    style = asset(STYLE) + asset("report.css")
    script = script_of([asset(name) for name in _SCRIPTS])
    head, _, foot = asset("page.html").partition("<!-- data -->\n")
    yield head.replace("{policy}", policy(style, script)).replace("{style}", style).replace("{title}", _text(title))
    yield _element("overview", overview)
    for row, column, values in details:
        yield _element(f"detail-{row}-{column}", values)
    yield foot.replace("{script}", script)


def _element(name: str, values: Mapping[str, Any]) -> str:
    return f'<script type="application/json" id="{name}">{to_json(values)}</script>\n'


def to_json(values: Any) -> str:
    """JSON that can stand in a script element of a UTF-8 page."""
    written = json.dumps(plain(values), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return _LONE.sub(lambda found: f"\\u{ord(found[0]):04x}", written).replace("<", "\\u003c")


def _text(value: str) -> str:
    return html.escape(_LONE.sub("\N{REPLACEMENT CHARACTER}", value))


def asset(name: str) -> str:
    """A file of the report's folder `page/`."""
    return (files("exptilt.report") / "page" / name).read_text(encoding="utf-8")


def script_of(parts: Iterable[str]) -> str:
    """One script of several, whose names are its own."""
    return '"use strict";\n(() => {\n' + "\n".join(parts) + "})();\n"


def policy(style: str, script: str, *more: str) -> str:
    """The content security policy of a page with this inline style and script. more: what else it allows."""
    own = (f"style-src '{_digest(style)}'", f"script-src '{_digest(script)}'")
    return "; ".join(("default-src 'none'", "img-src data:", *own, *more, "base-uri 'none'", "form-action 'none'"))


def _digest(content: str) -> str:
    """A content security policy's name for an inline script or style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
