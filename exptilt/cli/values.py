"""The values of flags: numbers, words and counts, and the messages that refuse anything else."""

from __future__ import annotations

import argparse
import json
import math
from typing import Any, NoReturn

from exptilt.errors import did_you_mean
from exptilt.evaluation.cost import Parameters


def whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def real(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def positive(text: str) -> float:
    if not 0 < real(text) < math.inf:
        raise argparse.ArgumentTypeError(f"{text} must be a positive number, because it divides the reward: π ∝ p·exp(r/β)")
    return real(text)


def parameters(text: str) -> Parameters:
    """How many parameters the model, its proposal and a reward model have, such as "5e8,0,1e9"."""
    try:
        counts = [float(part) for part in text.split(",")]
        return Parameters(*counts) if len(counts) <= 3 else _no_parameters(text)
    except ValueError:
        return _no_parameters(text)


def _no_parameters(text: str) -> NoReturn:
    raise argparse.ArgumentTypeError(f"{text!r} is not one to three numbers of parameters, such as 5e8,0,1e9")


def json_object(text: str) -> dict[str, Any]:
    """Names with their values, as JSON."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is not a JSON object, such as '{{\"enable_thinking\": false}}'")
    return found


def option(text: str) -> str:
    """A name with its value."""
    name, sign, _ = text.partition("=")
    if not (name.isidentifier() and sign):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE, such as rows_memory=8000000000")
    return text


def one_of(*choices: str) -> dict[str, Any]:
    """What makes a flag take one of these words."""

    def read(text: str) -> str:
        if text not in choices:
            raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(choices)}.{did_you_mean(text, choices)}")
        return text

    return {"type": read, "metavar": "{" + ",".join(choices) + "}"}
