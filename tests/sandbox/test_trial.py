"""Examinations: every way to be right passes, no way to cheat does, and one task does not take the others along."""

from __future__ import annotations

import pytest

from exptilt import sandbox
from exptilt.sandbox import InputOutput, Limits, Outcome, SandboxError, Task, trial, try_program
from tests.hostile.cheats import CHEATS
from tests.sandbox.walls import needs_walls

SHORT = Limits(seconds=60.0, cpu_seconds=10.0, memory=128 << 20, processes=12)


def kinds(program: str, *codes: str, limits: Limits = SHORT) -> list[str]:
    return [outcome.kind for outcome in try_program(program, [Task(code) for code in codes], limits=limits)]


PROGRAM = """
import math
from collections import Counter, namedtuple

LIMIT = 3

class Wrong(ValueError):
    pass

class Solution:
    def __init__(self, factor=2):
        self.factor = factor
    def times(self, value):
        return self.factor * value
    def __eq__(self, other):
        return self.factor == other.factor

def double(x): return 2 * x
def same(x): return x
def steps(n):
    for i in range(n):
        yield i
def sort(items): items.sort()
def count(text): return Counter(text)
def pair(a, *, b=1): return namedtuple("Pair", "a b")(a, b)
def fail(): raise Wrong("no")
"""

RIGHT = [
    "assert double(2) == 4 and double('a') == 'aa'",
    "assert LIMIT == 3",
    "assert list(steps(3)) == [0, 1, 2] and sum(steps(4)) == 6",
    "items = [3, 1, 2]\nassert sort(items) is None\nassert items == [1, 2, 3]",
    "assert count('aab') == {'a': 2, 'b': 1}",
    "assert pair(1, b=2) == (1, 2) and pair(1) == (1, 1)",
    "assert Solution().times(4) == 8 and Solution(3).factor == 3",
    "assert Solution() == Solution(2) and Solution() != Solution(3)",
    "try:\n    fail()\nexcept ValueError as error:\n    assert str(error) == 'no'\nelse:\n    assert False",
    "def check(candidate):\n    assert candidate(1) == 2\n    assert candidate([1]) == [1, 1]\n\ncheck(double)",
    "assert math.isclose(double(0.1), 0.2)",
    "import math\nassert math.isnan(same(math.nan)) and same(-math.inf) == -math.inf",
    "value = {1: (True, None), 'b': {2, 3}, b'c': [1.5, 10**400, 1j]}\nassert same(value) == value",
    "assert same([1, [2, (3,)]]) == [1, [2, (3,)]] and same(frozenset([1])) == frozenset([1])",
]

WRONG = [
    "assert double(2) == 5",
    "assert nothing(2) == 4",
    "fail()",
    "double()",
    "assert double(2)",
    "raise SystemExit(3)",
]


@needs_walls
def test_right_answers_pass_and_wrong_ones_fail():
    assert kinds(PROGRAM, *RIGHT) == ["passed"] * len(RIGHT)
    assert kinds(PROGRAM, *WRONG) == ["failed"] * 4 + ["passed", "failed"]


TESTS = ["assert f(2) == 4", "import math\nassert math.isclose(f(2), 4)", "assert abs(f(2) - 4) < 1e-6 and all([f(2) == 4])"]


@needs_walls
@pytest.mark.parametrize("cheat", CHEATS)
def test_no_cheat_passes(cheat: str):
    tests = TESTS if {"built-ins", "modules", "everything"} & set(cheat.split()) else TESTS[:1]
    assert "passed" not in kinds(CHEATS[cheat], *tests, limits=Limits(seconds=4.0, cpu_seconds=2.0))


@needs_walls
@pytest.mark.parametrize(
    "cheat", ["exits well when asked", "raises SystemExit", "equals everything", "reads the test in files", "shadows built-ins"]
)
def test_the_cheats_would_deceive_a_harness_that_appends_the_test(cheat: str):
    """They are worth refusing: program and test in one process, judged by its exit status."""
    test = TESTS[2] if cheat == "shadows built-ins" else TESTS[0]
    assert sandbox.run(f"{CHEATS[cheat]}\n{test}").returncode == 0


@needs_walls
def test_the_tests_that_no_cheat_passes_are_passed_by_the_right_program():
    assert kinds("def f(x): return x * x", *TESTS) == ["passed"] * 3


@needs_walls
def test_one_task_does_not_take_the_others_along():
    """A hang, a memory hog, a fork bomb and a murder between tasks that pass; each fails alone."""
    program = """
import os
def ok(): return 1
def hang():
    while True: pass
def hog():
    held = []
    while True: held.append(bytearray(10**6))
def bomb():
    while True:
        try: os.fork()
        except OSError: pass
def murder(): os.kill(-1, 9)
def leave():
    if os.fork() == 0:
        os.setsid()
        while True: pass
    return 1
"""
    codes = [
        "assert ok()",
        "hang()",
        "assert ok()",
        "hog()",
        "assert leave()",
        "bomb()",
        "assert ok()",
        "murder()",
        "assert ok()",
    ]
    limits = Limits(seconds=20.0, cpu_seconds=1.0, memory=128 << 20, processes=12)
    bad = {"hang()", "hog()", "bomb()", "murder()"}
    assert kinds(program, *codes, limits=limits) == ["failed" if code in bad else "passed" for code in codes]


@needs_walls
def test_tasks_do_not_share_the_programs_state():
    program = """
import os
seen = []
def visit():
    seen.append(1)
    open("file", "a").write("x")
    return len(seen), os.path.getsize("file")
"""
    assert kinds(program, *["assert visit() == (1, 1)"] * 2) == ["passed"] * 2


@needs_walls
def test_expressions_have_values_in_canonical_form():
    codes = ["double(0.1) + 0.1", "count('bab')", "{3, 1, 2}", "fail()", "Solution()", "steps(3)", "list(steps(2))", "same('é')"]
    outcomes = try_program(PROGRAM, [Task(code, wants_value=True) for code in codes], limits=SHORT)
    values = ["0.3", "{'a': 1, 'b': 2}", "set(1, 2, 3)", None, None, None, "list(0, 1)", "'\\xe9'"]
    assert [outcome.value for outcome in outcomes] == values


@needs_walls
@pytest.mark.parametrize("caught", ["except Exception", "except"])
def test_a_test_that_passes_an_object_is_broken_whatever_it_catches(caught: str):
    (outcome,) = try_program(PROGRAM, [Task(f"try:\n    same(object())\n{caught}:\n    pass")], limits=SHORT)
    why = "the test passes a value of type object to the program, which takes plain values and functions only"
    assert outcome == Outcome("broken", why, any_program=True)


@needs_walls
def test_a_program_that_does_not_load_fails_everything():
    for program in ("def f(:", "1 / 0", "import nowhere", "raise KeyboardInterrupt"):
        (outcome,) = try_program(program, [Task("assert True")], limits=SHORT)
        assert outcome.kind == "failed"


@needs_walls
def test_an_examination_that_cannot_begin_is_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(trial, "_OVERHEAD", 0)
    with pytest.raises(SandboxError, match="did not begin"):
        try_program("", [Task("assert True")], limits=Limits(memory=1 << 20))


@needs_walls
@pytest.mark.filterwarnings("ignore:isolation")
def test_it_works_without_walls_when_told_to():
    outcomes = try_program(PROGRAM, [Task("assert double(2) == 4"), Task("fail()")], limits=SHORT, isolation="none")
    assert [outcome.kind for outcome in outcomes] == ["passed", "failed"]


# ------------------------------------------------------------------------------------------------------ input and output

SUMS = "for _ in range(int(input())):\n    print(sum(map(int, input().split())))"


@needs_walls
def test_whole_programs_are_judged_by_what_they_print():
    tests = [InputOutput("2\n1 2\n3 4\n", "3\n7\n"), InputOutput("1\n1 2\n", "4\n"), InputOutput("2\n1 2\n", "3\n")]
    wrong = "line 1 is '3' instead of '4'"
    passed, failed, ended = try_program(SUMS, tests, limits=SHORT)
    assert (passed, failed) == (Outcome("passed"), Outcome("failed", wrong))
    assert ended == Outcome("failed", "ended with status 1: EOFError: EOF when reading a line")


@needs_walls
def test_both_kinds_of_tests_keep_their_order():
    program = "def f(x):\n    return x + 1\nif __name__ == '__main__':\n    print(f(int(input())))"
    tests = [InputOutput("1", "2"), Task("assert f(1) == 2"), InputOutput("1", "3"), Task("assert f(1) == 3")]
    assert [outcome.kind for outcome in try_program(program, tests, limits=SHORT)] == ["passed", "passed", "failed", "failed"]


@needs_walls
@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("while True: pass", "stopped at its limit of cpu"),
        ("print('3')\nraise SystemExit(1)", "ended with status 1: it printed nothing"),
        ("import os\nprint('3', flush=True)\nos.abort()", "ended with status -6: it printed nothing"),
        ("while True: print('3' * 1000)", "stopped at its limit of output"),
        ("open('/scratch/out', 'w').write('3')", "0 lines instead of 1"),
    ],
)
def test_a_program_that_does_not_end_well_fails_whatever_it_printed(program: str, why: str):
    limits = Limits(seconds=60.0, cpu_seconds=1.0)
    assert try_program(program, [InputOutput("", "3")], limits=limits) == [Outcome("failed", why)]


@pytest.mark.parametrize(
    ("printed", "wanted", "tolerance", "passes"),
    [
        ("3", "3\n", 0, True),
        ("3  \n\n\n", "3", 0, True),
        ("a\r\nb", "a\nb", 0, True),
        ("1 2", "1  2", 0, True),
        ("1\n2", "1 2", 0, False),
        ("\n3", "3", 0, False),
        ("3.0", "3", 0, True),
        ("1e2", "100", 0, True),
        ("0.30000000000000004", "0.3", 0, False),
        ("0.30000000000000004", "0.3", 1e-9, True),
        ("1000000.4", "1000000", 1e-6, True),
        ("1.4", "1", 1e-6, False),
        ("nan", "nan", 0, True),
        ("nan", "1", 0.5, False),
        ("Yes", "YES", 0, False),
        ("", "3", 0, False),
        ("3\n4", "3", 0, False),
        ("1e999999999999", "3", 0, False),
        ("٣", "3", 0, False),
        ("-0", "0", 0, True),
        ("12345678901234567890123", "12345678901234567890124", 0, False),
    ],
)
def test_output_is_right_by_words_and_numbers(printed: str, wanted: str, tolerance: float, passes: bool):
    assert (trial.difference(printed, InputOutput("", wanted, tolerance)).kind == "passed") is passes


def test_a_tolerance_is_checked():
    for tolerance in (-1.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match=f"tolerance={tolerance}"):
            InputOutput("", "", tolerance)
