"""Examinations: every way to be right passes, no way to cheat does, and one task does not take the others along."""

from __future__ import annotations

import math
import socket
from collections import Counter
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from exptilt import sandbox
from exptilt.sandbox import Limits, Outcome, SandboxError, Task, trial, try_program
from exptilt.sandbox.examiner import canonical
from exptilt.sandbox.plain import NotPlain, decode, encode, receive, send
from tests.hostile.cheats import CHEATS
from tests.sandbox.walls import needs_walls

SHORT = Limits(seconds=8.0, cpu_seconds=2.0, memory=128 << 20, processes=12)


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
    "raise SystemExit(0)",
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
    assert kinds(CHEATS[cheat], *tests, limits=Limits(seconds=4.0, cpu_seconds=2.0)) == ["failed"] * len(tests)


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
    limits = Limits(seconds=4.0, cpu_seconds=0.5, memory=128 << 20, processes=12)
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
def test_a_test_that_passes_a_function_is_broken_and_no_failure():
    (outcome,) = try_program(PROGRAM, [Task("try:\n    same(lambda: 1)\nexcept Exception:\n    pass")], limits=SHORT)
    assert outcome == Outcome("broken", "the test passes a function to the program; only plain values can be passed")


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


# ------------------------------------------------------------------------------------------------------- plain values


def refuse(value: Any) -> int:
    raise NotPlain(f"{value!r}")


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -(10**500),
        1.5,
        -math.inf,
        2j,
        "é\ud800",
        b"\x00",
        bytearray(b"x"),
        Fraction(1, 3),
        Decimal("0.10"),
        (1, [2]),
        {"a": {1, 2}, (1,): frozenset("b")},
        [],
        {},
    ],
    ids=repr,
)
def test_plain_values_arrive_as_they_were(value: Any):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        send(ours, encode(value, refuse))
        arrived = decode(receive(theirs), refuse)
    assert arrived == value
    assert type(arrived) is type(value)


@pytest.mark.parametrize(
    ("value", "plain"),
    [(Counter("aa"), {"a": 2}), (np.int64(3), 3), (np.float32(0.5), 0.5), (np.bool_(True), True), (np.str_("a"), "a")],
    ids=repr,
)
def test_relatives_of_plain_values_arrive_as_plain(value: Any, plain: Any):
    arrived = decode(encode(value, refuse), refuse)
    assert arrived == plain
    assert type(arrived) is type(plain)


def test_equal_values_have_equal_canonical_forms():
    assert canonical({"b": 1, "a": {2, 1}}) == canonical({"a": {1, 2}, "b": 1})
    assert canonical(0.1 + 0.2) == canonical(0.3) != canonical(0.3000001)
    assert len({canonical(value) for value in (1, 1.0, True, "1", [1], (1,), {1}, None)}) == 7


def test_a_message_that_is_too_long_or_none_is_refused():
    for content in (b"\xff" * 8, (3).to_bytes(4, "big") + b"{{{"):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.sendall(content)
            with pytest.raises(NotPlain):
                receive(theirs)
