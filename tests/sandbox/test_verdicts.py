"""Verdicts: right programs pass whatever they return or raise, and no program passes by what it says of itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from exptilt.sandbox import Limits, Outcome, Task, try_program
from tests.sandbox.pairs import CHEATING, RIGHT, TESTS, Pair
from tests.sandbox.walls import needs_walls

PATIENT = Limits(seconds=60.0, cpu_seconds=20.0)
NEEDS = ("numpy", "pandas")


def outcomes(program: str, *codes: str, limits: Limits = PATIENT) -> list[Outcome]:
    return try_program(program, [Task(code) for code in codes], limits=limits)


def skip_without_packages(pair: Pair) -> None:
    for name in NEEDS:
        if f"import {name}" in "".join((pair.program, *pair.tests)):
            pytest.importorskip(name)


def by_name(pair: Pair) -> str:
    return pair.name


# ------------------------------------------------------------------------------------------------------ right programs


@needs_walls
@pytest.mark.parametrize("pair", RIGHT, ids=by_name)
def test_a_right_program_passes(pair: Pair):
    """Programs with dates, arrays, operators, exceptions, printing or a function named `sum` once failed without a word."""
    skip_without_packages(pair)
    assert outcomes(pair.program, *pair.tests) == [Outcome("passed")] * len(pair.tests)


ONE_PROCESS = """
import contextlib, io, sys, types
sys.path.insert(0, {root!r})
from tests.sandbox.pairs import RIGHT
for pair in RIGHT:
    sys.modules["program"] = types.ModuleType("program")
    names = vars(sys.modules["program"])
    try:
        exec(compile(pair.program, "program", "exec"), names)
        names["__name__"] = "__main__"
        stdin = sys.stdin
        for test in pair.tests if "unittest.main" not in pair.tests[0] else ():
            exec(compile(test, "test", "exec"), names)
        sys.stdin = stdin
    except BaseException as error:
        sys.exit(f"{{pair.name}}: {{error!r}}")
"""


def test_the_right_programs_are_right_where_there_is_one_process(tmp_path: Path):
    """Python itself agrees with every test above."""
    for name in NEEDS:
        pytest.importorskip(name)
    done = subprocess.run(
        [sys.executable, "-c", ONE_PROCESS.format(root=str(TESTS.parent))], capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")


@needs_walls
def test_the_tests_of_the_right_programs_can_fail():
    """None of them passes a program that defines nothing."""
    codes = [test for pair in RIGHT for test in pair.tests]
    found = outcomes("", *codes)
    assert [code for code, outcome in zip(codes, found, strict=True) if outcome.kind == "passed"] == []


@needs_walls
@pytest.mark.parametrize(
    ("program", "test"),
    [
        (
            "class S:\n    def __init__(s): s.x = []\n    def push(s, v): s.x.insert(0, v)\n    def pop(s): return s.x.pop()",
            "s = S()\ns.push(1)\ns.push(2)\nassert s.pop() == 2",
        ),
        ("def f(n): return map(str, range(n))", "assert f(2) == ['0', '1']"),
        ("def f(xs): xs.sort()\n", "assert f([2, 1]) == [1, 2]"),
        ("def f(xs): return xs.append(xs.pop()) or xs[::-1]", "assert f([1, 2]) == [1, 2]"),
        (
            "import datetime\ndef f(): return datetime.date(2024, 1, 2)",
            "import datetime\nassert f() == datetime.date(2024, 1, 3)",
        ),
        ("class Bad(Exception): pass\ndef f(): raise Bad", "assert f() == 1"),
        ("class V:\n    def __init__(s, x): s.x = x\n    def __add__(s, o): return V(s.x - o.x)", "assert (V(1) + V(2)).x == 3"),
        ("def f(g): return g(1)", "assert f(lambda x: x + 1) == 3"),
        (
            "def f(): print('a')",
            "import io, contextlib\nb = io.StringIO()\nwith contextlib.redirect_stdout(b):\n    f()\nassert not b.getvalue()",
        ),
        ("import os\ndef f(): os._exit(0)", "f()"),
    ],
)
def test_a_wrong_program_fails_and_is_not_called_unclear(program: str, test: str):
    (outcome,) = outcomes(program, test)
    assert outcome.kind == "failed"


# ------------------------------------------------------------------------------------------------------------- cheats


@needs_walls
@pytest.mark.parametrize("pair", CHEATING, ids=by_name)
def test_no_program_passes_by_what_it_says_of_itself(pair: Pair):
    """The judge once imported modules that the program named, took names from it, and passed loops on StopIteration."""
    skip_without_packages(pair)
    found = outcomes(pair.program, *pair.tests, limits=Limits(seconds=10.0, cpu_seconds=5.0))
    passed = [test for test, outcome in zip(pair.tests, found, strict=True) if outcome.kind == "passed"]
    assert passed == []


@needs_walls
def test_a_forger_that_knows_the_answer_passes():
    """The forged messages are the judge's own: what fails above fails for what it says, not for how."""
    forger = (TESTS / "hostile" / "verdicts" / "forger.txt").read_text()
    answers = "serve({'f': {'object': [0, 'f', False, True]}}, lambda asked: {'value': {'int': '0x4'}})"
    tests = ["assert f(2) == 4", "assert abs(f(2) - 4) < 1e-6", "import math\nassert math.isclose(f(2), 4)"]
    assert outcomes(forger + answers, *tests) == [Outcome("passed")] * 3


@needs_walls
def test_numpy_is_not_led_to_an_address_by_an_object():
    """With `__array_interface__` an object says where in memory its numbers are, and numpy would read the judge's."""
    pytest.importorskip("numpy")
    (pair,) = (pair for pair in CHEATING if pair.name == "offers memory to numpy")
    assert outcomes(pair.program, "import numpy as np\nassert np.asarray(f(2)).dtype == object") == [Outcome("passed")]


@needs_walls
def test_modules_of_the_judge_come_from_the_interpreters_folders_alone():
    """What the first task's program writes into the scratch folder is not imported while the second is judged."""
    program = """
import os, sys
for folder in ('/scratch', os.getcwd(), os.path.dirname(os.getcwd())):
    for name in ('colorsys', 'numpy', 'exptilt', 'plain'):
        with open(os.path.join(folder, name + '.py'), 'w') as file:
            file.write('raise SystemExit("planted")')
def f(x): return 4
"""
    test = "import colorsys, sys\nassert colorsys.__file__.startswith(sys.base_prefix) and f(2) == 4"
    assert [outcome.kind for outcome in outcomes(program, test, test)] == ["passed", "passed"]


# --------------------------------------------------------------------------------------------------------- broken tests


@needs_walls
@pytest.mark.parametrize(
    ("test", "why"),
    [
        ("import nowhere_to_be_found\nassert f(2) == 4", "the test imports something that is not installed"),
        ("from solution import f\nassert f(2) == 4", "the test imports something that is not installed"),
        ("import re\nassert f(re.match('a', 'a'))", "the test passes a value of type Match to the program"),
        ("import io\nassert f(io.StringIO('a'))", "the test passes a value of type StringIO to the program"),
        ("class A: pass\nf(A())", "the test passes a value of type A to the program"),
        ("import sys\nassert f(2) == 4\nsys.exit()", "the test exits by SystemExit"),
        ("f('x' * (1 << 25))", "the test sends the program more than a message can hold"),
    ],
)
def test_a_test_that_no_program_can_be_put_to(test: str, why: str):
    (outcome,) = outcomes("def f(x): return x * x if isinstance(x, int) else 0", test)
    assert (outcome.kind, outcome.any_program) == ("broken", True)
    assert outcome.detail.startswith(why)


@needs_walls
@pytest.mark.parametrize(
    ("program", "test", "why"),
    [
        (
            "class M:\n    def __init__(s, n): s.n = n\n    def __eq__(s, o): return s.n == o",
            "assert M(3) == 3",
            "compares an object",
        ),
        (
            "class M:\n    def __init__(s, n): s.n = n\n    def __sub__(s, o): return s.n - o",
            "assert M(3) - 1 == 2",
            "computes with",
        ),
        ("class B:\n    def __contains__(s, o): return o == 1", "assert 1 in B()", "computes with an object"),
        ("class T:\n    def startswith(s, o): return True", "assert T().startswith('a')", "asks .startswith()"),
        ("class A: pass", "class B(A): pass\nassert B()", "derives a class of its own"),
        ("class A: pass", "assert type(A()).__name__ == 'A'", "asks for the type"),
        ("class E(Exception): pass", "raise E('x')", "makes an exception of the program's class"),
        (
            "def f(xs):\n    xs.sort()\n    return len(xs)",
            "xs = [2, 1]\nassert f(xs) == 2 and xs == [1, 2]",
            "which the test does not see",
        ),
        (
            "class S:\n    def __init__(s, xs): s.xs = xs\n    def push(s, v): s.xs.append(v)",
            "xs = [1]\ns = S(xs)\ns.push(2)\nassert xs == [1, 2]",
            "the test holds another copy",
        ),
        (
            "def f(xs):\n    while xs: yield xs.pop()",
            "xs = [1]\nassert list(f(xs)) == [1] and xs == []",
            "the test holds another copy",
        ),
        (
            "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int",
            "import dataclasses\nassert dataclasses.asdict(P(1)) == {'x': 1}",
            "has a library do",
        ),
        (
            "import warnings\ndef f(): warnings.warn('x')",
            "import warnings\nwith warnings.catch_warnings(record=True) as seen:\n    f()\nassert len(seen) == 1",
            "catch_warnings",
        ),
        (
            "from enum import IntEnum\nclass L(IntEnum):\n    LOW = 1\ndef f(): return L.LOW",
            "assert f().name == 'LOW'",
            "class L",
        ),
        (
            "import fractions\ndef f(): return {fractions.Fraction: 1}",
            "import json\nassert json.dumps(f())",
            "an object of the program",
        ),
    ],
)
def test_what_cannot_be_judged_is_said_and_blames_no_test(program: str, test: str, why: str):
    """Right programs that no judge in another process can pass: once they failed without a word."""
    (outcome,) = outcomes(program, test)
    assert (outcome.kind, outcome.any_program) == ("broken", False)
    assert why in outcome.detail
