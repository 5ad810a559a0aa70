"""Pages of docs/ that several scripts write: each of them puts its own section, and leaves the others alone."""

from __future__ import annotations

import re
from pathlib import Path


def put_section(page: Path, heading: str, body: str) -> None:
    """Write the section under "## heading" anew, in its place; at the end where there is none yet."""
    text = page.read_text() if page.exists() else ""
    section = f"## {heading}\n\n{body.strip()}\n"
    old = re.compile(rf"^## {re.escape(heading)}\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    text = old.sub(lambda _: section + "\n", text) if old.search(text) else text.rstrip("\n") + "\n\n" + section
    page.write_text(text.strip("\n") + "\n")
