"""The page at `/`: style and scripts of the folder `page/` in one HTML file, with the report's drawing of an answer.

It has no data of the server's: it asks for them with the API key that a person types, so the page itself needs none. Its content
security policy names the digests of its own script and style, and lets it ask nothing but this server.
"""

from __future__ import annotations

from importlib.resources import files

from starlette.responses import HTMLResponse

from exptilt.report.page import DRAWING, STYLE, asset, policy, script_of

_SCRIPTS = ("wire.js", "form.js", "live.js", "main.js")


def page() -> HTMLResponse:
    """The page as a response, which may be sent many times."""
    style = asset(STYLE) + _own("serve.css")
    script = script_of([*map(asset, DRAWING), *map(_own, _SCRIPTS)])
    allowed = policy(style, script, "connect-src 'self'", "frame-ancestors 'none'")
    headers = {
        "content-security-policy": allowed,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }
    return HTMLResponse(_own("page.html").replace("{style}", style).replace("{script}", script), headers=headers)


def _own(name: str) -> str:
    return (files("exptilt.serve") / "page" / name).read_text(encoding="utf-8")
