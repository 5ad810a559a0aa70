"""Programs with tests, read from text files: `=== name`, the program, then each test after `--- test`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).parents[1]


@dataclass(frozen=True)
class Pair:
    """A program and the tests that it is put to."""

    name: str
    program: str
    tests: tuple[str, ...]


def pairs(folder: Path) -> Iterator[Pair]:
    """All pairs in the files of a folder that have any; `$forger` stands for the text of its forger.txt."""
    forger = folder / "forger.txt"
    for path in sorted(folder.glob("*.txt")):
        for text in ("\n" + path.read_text()).split("\n=== ")[1:]:
            name, _, rest = text.partition("\n")
            program, *tests = rest.split("--- test\n")
            if "$forger" in program:
                program = program.replace("$forger", forger.read_text())
            yield Pair(name, program, tuple(tests))


RIGHT = list(pairs(TESTS / "sandbox" / "right"))
CHEATING = list(pairs(TESTS / "hostile" / "verdicts"))
