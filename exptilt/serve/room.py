"""What the engines of a server have room for, as far as they can say.

transformers and llama.cpp count the tokens whose key-values they hold. vLLM and servers behind OpenAI's protocol keep that to
themselves, and masked models hold none that stay: they know how many responses they draw at once. Twice as many may then be under
way together, for some are rated meanwhile; other requests wait at the door, where they can be told how long, and not inside. A
table, or an engine by another author, says nothing: threads alone bound what it has to do.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from exptilt.core import Engine
from exptilt.engines.backend import CountsMemory, CountsRows
from exptilt.engines.language import LanguageEngine

_AHEAD = 2  # responses under way for each that is drawn at once, where memory is not known


@dataclass(frozen=True)
class Room:
    """What answers under way may take together; None where there is no bound.

    tokens: those whose key-values are held.
    rows: responses that are drawn at once.
    """

    tokens: int | None = None
    rows: int | None = None


ANY = Room()


def room_of(engines: Iterable[Engine]) -> Room:
    """The room of a model and its proposal: the lesser of what they have."""
    tokens, rows = [], []
    for engine in engines:
        backend = engine.backend if isinstance(engine, LanguageEngine) else None
        known = backend.memory_tokens if isinstance(backend, CountsMemory) else None
        if known is not None:
            tokens.append(known)
        elif isinstance(backend, CountsRows):
            rows.append(_AHEAD * backend.rows_at_once)
    return Room(min(tokens, default=None), min(rows, default=None))
