"""Rewards for programs: shares by hand, frozen once bound, errors that are not scores."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from exptilt import answers
from exptilt.core import Target
from exptilt.draft import Draft
from exptilt.engines.table import TableEngine
from exptilt.errors import RewardError, SandboxError
from exptilt.keys import Key
from exptilt.rewards import CallsLike, OutputAgreement, UnitTests
from exptilt.samplers.independent import Independent
from exptilt.sandbox import InputOutput, Limits
from tests.sandbox.walls import needs_walls

SHORT = Limits(seconds=60.0, cpu_seconds=10.0, memory=128 << 20, processes=12)
TESTS = [
    "assert add(1, 2) == 3",
    "assert add(0, 0) == 0",
    "assert add(-1, 1) == 0",
    "import math\nassert math.isnan(add(math.nan, 1))",
]


def fenced(body: str) -> str:
    return f"Here it is:\n```python\ndef add(a, b):\n    {body}\n```\nDone."


def drafts(*texts: str, prompt: str = "x") -> list[Draft]:
    return [Draft(prompt, (), None, text, "stop") for text in texts]


@needs_walls
def test_the_reward_is_the_share_of_tests_passed():
    reward = UnitTests(TESTS, limits=SHORT)
    texts = [fenced("return a + b"), fenced("return a - b"), fenced("return a * b"), fenced("return"), "no program at all"]
    assert reward("x", drafts(*texts)) == [1.0, 0.5, 0.5, 0.0, 0.0]


@needs_walls
def test_tests_go_by_prompt_and_a_response_may_continue_it():
    tests = {"def one():\n": ["assert one() == 1"], "def two():\n": ["assert two() == 2", "assert one() == 1"]}
    reward = UnitTests(tests, extract=str, continues=True, limits=SHORT)
    for prompt, body, share in (("def one():\n", "    return 1", 1.0), ("def two():\n", "    return 2", 0.5)):
        assert reward(prompt, drafts(body, prompt=prompt)) == [share]
    with pytest.raises(RewardError, match="no tests or inputs for the prompt 'def three"):
        reward("def three():\n", drafts("    return 3"))
    computed = UnitTests(lambda prompt: [f"assert f() == {len(prompt)}"], extract=str, limits=SHORT)
    assert computed("abc", drafts("def f(): return 3", "def f(): return 4")) == [1.0, 0.0]


@needs_walls
def test_equal_programs_run_once(monkeypatch: pytest.MonkeyPatch):
    ran = []
    real = sys.modules["exptilt.rewards.code"].try_program
    monkeypatch.setattr("exptilt.rewards.code.try_program", lambda *a, **k: ran.append(a[0]) or real(*a, **k))
    reward = UnitTests(TESTS[:1], limits=SHORT)
    once, other = fenced("return a + b"), fenced("return a + b  # the same")
    assert reward("x", drafts(once, other, once)) == [1.0, 1.0, 1.0]
    assert reward("x", drafts(other)) == [1.0]
    assert ran == [answers.code(once)]


def test_a_sandbox_that_cannot_be_built_is_an_error_and_no_score(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    target = Target(table(), UnitTests(TESTS, limits=SHORT), beta=1.0)
    with pytest.raises(SandboxError, match="this is darwin"):
        target.rate("x", drafts(fenced("return a + b")))


@needs_walls
def test_a_test_that_no_program_can_be_put_to_is_an_error():
    reward = UnitTests(["add(object(), 2)"], limits=SHORT)
    with pytest.raises(RewardError, match=r"'add\(object\(\), 2\)' cannot be carried out: .* passes a value of type object"):
        reward("x", drafts(fenced("return a")))


@needs_walls
def test_a_program_that_cannot_be_judged_gets_nothing_and_a_warning():
    """One odd draft fails neither its prompt nor the others, and does not score 0 without a word."""
    reward = UnitTests(["assert add(1, 2) == 3"], limits=SHORT)
    odd = "```python\nclass add:\n    def __init__(s, a, b): s.c = a + b\n    def __eq__(s, o): return s.c == o\n```"
    with pytest.warns(UserWarning, match=r"'assert add\(1, 2\) == 3' could not be carried out on a program.*compares an object"):
        assert reward("x", drafts(odd, fenced("return a + b"))) == [0.0, 1.0]


@needs_walls
def test_tests_may_be_inputs_with_outputs():
    reward = UnitTests([InputOutput("1 2", "3"), InputOutput("0 0", "0")], limits=SHORT)
    texts = ["```python\na, b = map(int, input().split())\nprint(a + b)\n```", "```python\nprint(0)\n```", "nothing"]
    assert reward("x", drafts(*texts)) == [1.0, 0.5, 0.0]


@pytest.mark.parametrize(
    ("tests", "message"),
    [
        ([], "sequence of one text or more"),
        ("assert True", "sequence of one text"),
        (["assert ("], "is not Python"),
        (["def test_add():\n    assert add(1, 2) == 3"], "nothing can fail in the test"),
        (["# nothing"], "nothing can fail in the test"),
        (InputOutput("", ""), "sequence of one text"),
        ({"p": []}, "'p' has"),
    ],
)
def test_tests_are_checked_at_construction(tests: Any, message: str):
    with pytest.raises(ValueError, match=message):
        UnitTests(tests)


@pytest.mark.parametrize("bad", [{"pilot": 0}, {"kind": "mean"}, {"workers": 0}])
def test_numbers_are_checked(bad: dict[str, Any]):
    with pytest.raises(ValueError, match=f"{next(iter(bad))}="):
        OutputAgreement(["f(1)"], **bad)


# ------------------------------------------------------------------------------------------------------------ agreement

BODIES = ("return a + b", "return a - b", "return a / 0", "return a + abs(b)")
LAW = (0.4, 0.2, 0.2, 0.2, 0.0)  # the last token ends, and is never drawn
INPUTS = ["add(1, 2)", "add(1, -2)", "add(3, 0)"]
# Outputs by hand: 3 -1 3, -1 3 3, none, 3 3 3.
OUTPUTS = (("3", "-1", "3"), ("-1", "3", "3"), (None, None, None), ("3", "3", "3"))


def table() -> TableEngine:
    """One token, one of four programs."""
    return TableEngine(lambda prefix: LAW, 1, 4, symbols=(*map(fenced, BODIES), ""))


@needs_walls
@pytest.mark.parametrize("kind", ["share", "all"])
def test_agreement_is_the_share_of_a_frozen_pilot(kind: Any):
    engine, key = table(), Key(1)
    reward = OutputAgreement(INPUTS, pilot=12, kind=kind, limits=SHORT).bind(engine, "x", key)
    pilot = engine.extend([engine.start("x")] * 12, [key.child("pilot", number) for number in range(12)])
    drawn = [OUTPUTS[draft.tokens[0]] for draft in pilot]
    assert len(set(drawn)) == 4
    expected = []
    for mine in OUTPUTS:
        agreeing = [[a == b and a is not None for a, b in zip(mine, theirs, strict=True)] for theirs in drawn]
        whole = [all(row) for row in agreeing] if kind == "all" else [sum(row) / 3 for row in agreeing]
        expected.append(sum(whole) / 12)
    rated = reward("x", drafts(*map(fenced, BODIES)))
    assert rated == pytest.approx(expected)
    assert rated[2] == 0.0
    assert reward("x", drafts(*map(fenced, BODIES))) == rated
    assert reward("x", drafts("no program")) == [0.0]


@needs_walls
def test_agreement_has_a_target_and_a_sampler_can_use_it():
    target = Target(table(), OutputAgreement(INPUTS[:1], pilot=3, limits=SHORT), beta=0.5)
    assert target.fixed
    *_, population = Independent(4)(target.bind("x", Key(0)), "x", Key(1))
    assert len(population) == 4
    assert all(0.0 <= reward <= 1.0 for reward in population.rewards)


@needs_walls
def test_a_pilot_without_programs_rewards_nothing():
    engine = TableEngine(lambda prefix: (1.0, 0.0), 1, 1, symbols=("no program", ""))
    reward = OutputAgreement(INPUTS[:1], pilot=2, limits=SHORT).bind(engine, "x", Key(0))
    assert reward("x", drafts(fenced("return a + b"))) == [0.0]


def test_an_input_must_be_an_expression():
    with pytest.raises(ValueError, match="is not Python"):
        OutputAgreement(["x = 1"]).bind(table(), "x", Key(0))


# --------------------------------------------------------------------------------------------------------------- inputs

PROMPT = '''
def below(numbers: list, limit: int) -> bool:
    """Whether all are below.
    >>> below([1, 2, 4], 3)
    False
    >>> below([], 10)
    True
    >>> print(unknown)
    """
'''


def test_calls_are_the_examples_and_variations_of_the_same_types():
    calls = CallsLike(count=12, seed=1)(PROMPT)
    assert calls[:2] == ["below([1, 2, 4], 3)", "below([], 10)"]
    assert len(set(calls)) == 12
    for call in calls:
        numbers, limit = eval(call, {"below": lambda *arguments: arguments})
        assert isinstance(numbers, list)
        assert all(type(value) is int for value in [*numbers, limit])
    assert CallsLike(count=12, seed=1)(PROMPT) == calls != CallsLike(count=12, seed=2)(PROMPT)


def test_calls_of_every_plain_type_and_of_asserted_examples():
    prompt = "assert f('ab', 1.5, (True, None), {'k': {1, 2}}) == 3"
    calls = CallsLike(count=40)(prompt)
    kinds = {tuple(type(value) for value in eval(call, {"f": lambda *arguments: arguments})) for call in calls}
    assert kinds == {(str, float, tuple, dict)}
    assert len(calls) == 40


def test_where_nothing_varies_fewer_calls_come_and_none_is_an_error():
    assert CallsLike(count=5)(">>> f()\n1") == ["f()"]
    with pytest.raises(RewardError, match="no example call"):
        CallsLike()("Write a function.")
    with pytest.raises(ValueError, match="count=0"):
        CallsLike(count=0)
