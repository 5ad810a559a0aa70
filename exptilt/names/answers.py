"""How answers are read and texts compared, by name."""

from __future__ import annotations

from exptilt import answers
from exptilt.answers import Answer
from exptilt.objects import Registry
from exptilt.populations import utilities

ANSWERS = Registry(
    "answer",
    {name: vars(answers)[name] for name in ("number", "quantity", "latex", "choice", "code", "exact")},
    takes="(text) -> str or None",
)
UTILITIES = Registry("utility", {"rouge1": utilities.rouge1, "chrf": utilities.chrf, "exact": utilities.exact})


def find_answer(answer: str | Answer) -> Answer:
    """The function that reads answers, by its name or as it is."""
    return ANSWERS.find(answer) if isinstance(answer, str) else answer
