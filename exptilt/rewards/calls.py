"""Inputs for `OutputAgreement`: the example calls of a prompt, and variations of them, without any model.

    "... >>> add(2, 3)\\n 5"   gives   "add(2, 3)", "add(3, 3)", "add(-2, 3)", "add(2, 0)", ...

Examples are lines that start with ">>> " or "assert ". Only calls of a plain name with literal arguments are varied; each
variation changes one value somewhere inside them and keeps its type, so most are inputs that the function was meant for.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from exptilt.draft import Prompt, question
from exptilt.errors import RewardError
from exptilt.keys import Key

_EXAMPLE = re.compile(r"^\s*(?:>>>|assert)[ \t]+(.+?)\s*$", re.MULTILINE)
_TRIES = 20  # tries for each call wanted, before the variations count as exhausted


@dataclass(frozen=True)
class CallsLike:
    """A function from a prompt to calls like those of its examples: the examples themselves first, then variations.

    count: how many calls; fewer come where the examples do not allow as many.
    seed: the seed of the variations, which depend only on it and the prompt.
    Raises RewardError for a prompt without an example call.
    """

    count: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if not (isinstance(self.count, int) and self.count >= 1):
            raise ValueError(f"CallsLike(count={self.count!r}): give a whole number of 1 or more")

    def __call__(self, prompt: Prompt) -> list[str]:
        text = question(prompt)
        examples = list(_example_calls(text))
        if not examples:
            raise RewardError(
                f"the prompt {text[:80]!r} has no example call such as '>>> add(2, 3)': give inputs by a mapping or function"
            )
        rng = Key(self.seed, "calls", text).rng()
        calls = dict.fromkeys(map(_written, examples))
        for _ in range(_TRIES * self.count):
            if len(calls) >= self.count:
                break
            name, arguments = examples[rng.integers(len(examples))]
            place = rng.integers(len(arguments)) if arguments else 0
            changed = [_varied(value, rng) if number == place else value for number, value in enumerate(arguments)]
            calls[_written((name, changed))] = None
        return list(calls)[: self.count]


Call = tuple[str, list[Any]]
"""A function's name and its arguments."""


def _example_calls(prompt: str) -> Iterator[Call]:
    """The calls with literal arguments in the prompt's examples."""
    for line in _EXAMPLE.findall(prompt):
        try:
            tree = ast.parse(line, mode="eval").body
        except SyntaxError:
            continue
        call = tree.left if isinstance(tree, ast.Compare) else tree
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and not call.keywords:
            try:
                yield call.func.id, [ast.literal_eval(argument) for argument in call.args]
            except ValueError:  # an argument is not a literal
                continue


def _written(call: Call) -> str:
    return f"{call[0]}({', '.join(map(repr, call[1]))})"


def _varied(value: Any, rng: np.random.Generator) -> Any:
    """A value of the same type with one thing in it changed."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return int(rng.choice([value + 1, value - 1, -value, 2 * value, 0, value + int(rng.integers(-10, 11))]))
    if isinstance(value, float):
        return float(rng.choice([value + 1.0, -value, value / 2, 0.0, round(value + float(rng.normal()), 2)]))
    if isinstance(value, str):
        return "".join(_varied_items(list(value), rng, lambda item: item.swapcase()))
    if isinstance(value, dict):
        return {key: _varied(item, rng) if rng.random() < 0.5 else item for key, item in value.items()}
    if isinstance(value, set):
        return set(_varied(sorted(value, key=repr), rng))
    if isinstance(value, tuple):
        return tuple(_varied(list(value), rng))
    return _varied_items(value, rng, lambda item: _varied(item, rng)) if isinstance(value, list) else value


def _varied_items(items: list[Any], rng: np.random.Generator, change: Callable[[Any], Any]) -> list[Any]:
    """A list with one item left out, doubled, changed or exchanged with another; an empty one stays."""
    if not items:
        return items
    place, other = rng.integers(len(items), size=2)
    before, item, after = items[:place], items[place], items[place + 1 :]
    exchanged = [items[other] if number == place else item if number == other else each for number, each in enumerate(items)]
    ways = [[*before, *after], [*before, item, item, *after], [*before, change(item), *after], exchanged]
    return ways[rng.integers(len(ways))]
