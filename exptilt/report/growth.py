"""How a population grew, as JSON values for the page.

Trees are columns of cards. A card is a partial draft: {"text", "parent", "share", "log", "path", "rollouts"} as in
`exptilt.populations.growth.Card`, the last two only where they say something.
"""

from __future__ import annotations

from typing import Any

from exptilt.populations.growth import Card, Columns


class Texts:
    """The texts of one prompt, each once; everything else names them by number."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}

    def add(self, text: str) -> int:
        return self._places.setdefault(text, len(self._places))

    @property
    def all(self) -> list[str]:
        return list(self._places)


def columns_json(grown: Columns, texts: Texts) -> dict[str, Any]:
    """The columns, whose cards name their texts by number."""
    columns = [
        {"title": each.title, "note": each.note, "cards": [_card(card, texts) for card in each.cards]} for each in grown.columns
    ]
    return {"kind": grown.kind, "columns": columns}


def _card(card: Card, texts: Texts) -> dict[str, Any]:
    shown: dict[str, Any] = {"text": texts.add(card.text), "parent": card.parent, "share": card.share, "log": card.log}
    if card.path:
        shown["path"] = True
    return shown if card.rollouts is None else shown | {"rollouts": [*card.rollouts]}
