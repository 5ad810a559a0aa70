"""An engine over the fake server, whose distribution is a table's: what its tests share."""

from __future__ import annotations

from functools import cache
from typing import Any

from exptilt.core import Engine
from exptilt.draft import Draft
from exptilt.engines.loading import load
from exptilt.engines.table import TableEngine
from exptilt.keys import Key
from exptilt.testing.toys import random_table
from tests.engines.fake_server import MODEL

CAP = 4
SYMBOLS = "ab#"
END = 2
PARTS: dict[str, Any] = {"max_tokens": CAP, "backoff": 0.01}


def table(seed: int = 1, cap: int = CAP) -> TableEngine:
    return TableEngine(cache(random_table(seed, 3)), cap, END, symbols=SYMBOLS)


def load_from(url: str | list[str], **parts: Any) -> Any:
    """The engine as its own class: tests look at its server too."""
    given: dict[str, Any] = PARTS | {"base_url": url} | parts
    return load(f"openai:{MODEL}", **given)


def draw(engine: Engine, count: int, tokens: int | None = None, prompt: str = "Q?") -> list[Draft]:
    return engine.extend([engine.start(prompt)] * count, [Key(0, i) for i in range(count)], tokens)


def as_text(law: dict[tuple[int, ...], float]) -> dict[Any, float]:
    """A law over tokens as one over what a reader sees: the text, and how it ended."""
    named = {}
    for tokens, mass in law.items():
        stopped = tokens[-1] == END
        text = "".join(SYMBOLS[token] for token in (tokens[:-1] if stopped else tokens))
        named[text, "stop" if stopped else "length"] = mass
    return named


def seen(draft: Draft) -> Any:
    return draft.text, draft.finish
