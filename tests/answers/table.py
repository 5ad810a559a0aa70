"""The table of answers: texts in classes, those of one class one answer, those of two classes two."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

READERS = ("number", "quantity", "choice", "exact", "code", "latex")

_WAYS = ("{}", "{}.0", "${}", "0{}", "{}.", "**{}**", "{}%", "{} apples", "{}/1")
_PLACES = (
    "#### {}",
    "The answer is {}",
    "3 + 4 of them, so \\boxed{{{}}}",
    "First 2 + 2 = 4, then 5 * 5 = {}",
    "Of 3 or 4 boxes he keeps {}",
)
_LENGTHS = (("{} m", 1), ("{} meters", 1), ("{} km", 1000), ("{}000 mm", 1), ("the answer is {} kilometers", 1000))
_OPTIONS = (
    "The answer is ({})",
    "Answer: {}",
    "\\boxed{{{}}}",
    "**Answer:** {}.",
    "not sure, but\n{}",
    "I say ({}) here",
    "{}) this one",
)

Classes = dict[str, list[str]]


def by_hand(reader: str) -> Classes:
    """The classes of a file in cases/; "-" has no answer."""
    classes: Classes = defaultdict(list)
    for name, text in rows(f"{reader}.tsv"):
        classes[name].append(text)
    return classes


def generated(reader: str) -> Classes:
    """Values in all ways of writing and all places."""
    classes: Classes = defaultdict(list)
    if reader == "number":
        for value in (1, 2, 7, 10, 12, 48, 99, 100, 365, 1000, 4321, 20000, 123456, 7000000, 10**9, *range(201, 216)):
            for way in _WAYS:
                classes[str(value)] += [place.format(way.format(value)) for place in _PLACES]
            classes[str(value)] += [place.format(f"{value:,}") for place in _PLACES]
    if reader == "quantity":
        for meters in (1, 3, 17, 250):
            for way, unit in _LENGTHS:
                classes[f"{meters * unit} m"].append(way.format(meters))
    if reader == "choice":
        for letter in "ABCDEFGHJ":
            classes[letter] += [way.format(letter) for way in _OPTIONS]
    return classes


def rows(name: str) -> list[list[str]]:
    """The rows of another file in cases/, their escapes resolved."""
    lines = (Path(__file__).with_name("cases") / name).read_text(encoding="utf-8").splitlines()
    return [[_plain(field) for field in line.split("\t")] for line in lines if not line.startswith("#")]


def _plain(text: str) -> str:
    return text.replace("\\\\", "\0").replace("\\n", "\n").replace("\0", "\\")
