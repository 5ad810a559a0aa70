"""Lines of a results file that an editor or a script has changed: they are read, or refused with file and line."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import exptilt as xt
from exptilt.errors import StoreError
from exptilt.report import write_report
from exptilt.running.forms import misfit_of_line
from tests.report.stores import PROMPTS, SAMPLERS, run_all, target

ODD: list[Any] = [None, "x", [], {}, -1, True, 1e300, {"float": "nan"}, {"float": "inf"}, [None], [[1]], 999999, 0]
EDITS = 150  # of each file


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something lies inside JSON values; of a list the first two items."""
    if path:
        yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for name, item in inner:
        yield from places(item, (*path, name))


def edited(row: dict[str, Any], path: tuple[Any, ...], chance: random.Random) -> dict[str, Any]:
    """The row with what lies at the path replaced or removed."""
    changed = copy.deepcopy(row)
    parent: Any = changed
    for name in path[:-1]:
        parent = parent[name]
    if chance.random() < 0.25:
        del parent[path[-1]]
    else:
        parent[path[-1]] = chance.choice(ODD)
    return changed


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # a reward of 1e300 is odd, and a number
def test_a_changed_file_is_read_or_refused_with_its_line(name: str, number: int, tmp_path: Path) -> None:
    """A report on a line with `usage` a text, or without its trace's numbers, ended with a KeyError or a TypeError."""
    store = {path.stem: path for path in run_all(tmp_path, PROMPTS[:2])}[name]
    rows = store.read_text().splitlines()
    row, chance, refused = json.loads(rows[number]), random.Random(name), 0
    for _ in range(EDITS):
        path = chance.choice(list(places(row)))
        lines = [*rows]
        lines[number] = json.dumps(edited(row, path, chance))
        (odd := tmp_path / "odd.jsonl").write_text("\n".join(lines) + "\n")
        said = refusal(lambda odd=odd: write_report([odd], tmp_path / "odd.html", references=dict.fromkeys(PROMPTS, "1")))
        select = xt.vote(xt.answers.exact)
        again = refusal(lambda odd=odd, select=select: xt.run(target(), PROMPTS[:2], SAMPLERS[name], select=select, store=odd))
        refused += said != ""
        assert not said or f"line {number + 1} of {odd}" in said or (number == 0 and str(odd) in said)
        assert not again or f"line {number + 1} of {odd}" in again or (number == 0 and str(odd) in again)
    assert 3 < refused < EDITS


def refusal(work: Callable[[], object]) -> str:
    """What is said where the file is refused; any other error ends the test."""
    try:
        work()
    except StoreError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("usage", "reference", "scored"), "x", "usage.reference.scored is 'x', not a count"),
        (("trace",), [], "trace is empty"),
        (("how", "steps", 0, "pick"), 99, "how.steps[0] has parts that do not fit"),
        (("posterior",), [[{}, 1.0]], "posterior[0] is [{}, 1.0], not an answer and its share"),
        (("population", "rows", 0), 99, "population.rows has 99, and there are"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(path: tuple[Any, ...], value: Any, said: str, tmp_path: Path) -> None:
    run_all(tmp_path, PROMPTS[:1])
    row = json.loads((tmp_path / "ets.jsonl").read_text().splitlines()[1])
    assert misfit_of_line(row) == ""
    parent: Any = row
    for name in path[:-1]:
        parent = parent[name]
    parent[path[-1]] = value
    assert said in misfit_of_line(row)
