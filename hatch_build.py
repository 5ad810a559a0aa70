"""The README as packages have it: where an index shows it, paths within the repository lead nowhere.

With `Repository = "https://..."` under `[project.urls]` in pyproject.toml, links and pictures lead to the release's tag there.
Without one, links become their text, and pictures are left out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"(?P<picture>!?)\[(?P<text>[^\]]*)\]\((?P<path>(?!https?://|#)[^)]+)\)")


def packaged(text: str, repository: str | None, version: str) -> str:
    """The README with no link or picture by a path. repository: its address, such as one of GitHub."""

    def absolute(link: re.Match[str]) -> str:
        if repository is None:
            return "" if link["picture"] else link["text"]
        kind = "raw" if link["picture"] else "blob"
        return f"{link['picture']}[{link['text']}]({repository.rstrip('/')}/{kind}/v{version}/{link['path']})"

    return re.sub(r"\n{3,}", "\n\n", _LINK.sub(absolute, text))


class Readme(MetadataHookInterface):
    """Called by hatchling for every wheel, source archive and editable installation."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Put the README into the metadata."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        repository = metadata.get("urls", {}).get("Repository")
        metadata["readme"] = {"content-type": "text/markdown", "text": packaged(text, repository, metadata["version"])}
