"""Functions of the task file truthfulqa_mc2.yaml: options in an order of their own, and which letters are true."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from exptilt.evaluation.tasks.papers import LETTERS, multiple_choice, option

__all__ = ["multiple_choice", "process_results", "with_choices"]


def with_choices(documents: Any) -> Any:
    """The documents with their `choices`, shuffled, and the letters of the true ones: in the data these come first."""
    return documents.map(_shuffled)


def _shuffled(doc: Mapping[str, Any]) -> dict[str, Any]:
    given = list(zip(doc["mc2_targets"]["choices"], doc["mc2_targets"]["labels"], strict=True))
    random.Random(doc["question"]).shuffle(given)  # a string seeds alike on every machine
    right = "".join(letter for letter, (_, label) in zip(LETTERS, given, strict=False) if label == 1)
    return {"choices": [text for text, _ in given], "true": right}


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    letter = option(results[0])
    return {"mc2": float(letter is not None and letter in doc["true"])}
