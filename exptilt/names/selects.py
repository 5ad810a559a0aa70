"""How one answer is picked from a population, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from exptilt.answers import Answer
from exptilt.names.answers import UTILITIES, find_answer
from exptilt.objects import Registry
from exptilt.populations.select import Select, best, draw, mbr, vote

SELECTS = Registry(
    "select",
    {"draw": draw, "best": best, "vote": vote, "vote-draws": vote, "majority": vote, "mbr": mbr},
    takes="(population, key) -> draft",
)


def select(name: str, answer: str | Answer = "number", utility: str = "rouge1") -> Select:
    """How an answer is picked. answer: what counts as one, for votes. utility: how texts are compared, for mbr."""
    read = find_answer(answer)
    made: dict[Any, Callable[[], Select]] = {
        "vote": lambda: vote(read),
        "vote-draws": lambda: vote(read, distinct=False),
        "majority": lambda: vote(read, weighted=False),
        "mbr": lambda: mbr(UTILITIES.find(utility)),
    }
    return made[name]() if name in made else SELECTS.find(name)
