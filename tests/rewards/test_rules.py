"""Rules, one's own functions, and sums of rewards."""

from __future__ import annotations

import math

import pytest

from exptilt.answers import choice, number
from exptilt.core import Engine, PromptReward, Target
from exptilt.draft import Draft
from exptilt.engines.table import TableEngine
from exptilt.errors import RewardError
from exptilt.keys import Key
from exptilt.rating import rate
from exptilt.rewards import Agreement, Each, Format, LogProb, Matches, RunningMajority, Sum
from exptilt.rewards.rules import BoundSum


def drafts(*texts: str) -> list[Draft]:
    return [Draft("x", (), None, text, "stop") for text in texts]


def table() -> TableEngine:
    return TableEngine(lambda prefix: [0.25, 0.25, 0.5], 3, 2, symbols=("0", "1", ""))


def test_matches_compares_canonical_answers():
    reward = Matches(number, "$42")
    assert reward("x", drafts("#### 42.0", "it is 42", "43", "none")) == [1.0, 1.0, 0.0, 0.0]
    assert Matches(choice, "B")("x", drafts("The answer is (B)", "(A)")) == [1.0, 0.0]


def test_matches_with_one_reference_per_prompt():
    reward = Matches(number, {"1 + 1": "2", "2 + 2": "4"})
    assert reward("1 + 1", drafts("2", "4")) == [1.0, 0.0]
    assert reward("2 + 2", drafts("2", "4")) == [0.0, 1.0]
    with pytest.raises(RewardError, match="no reference for the prompt '3 \\+ 3'"):
        rate(reward, "3 + 3", drafts("6"))


def test_matches_refuses_a_reference_without_an_answer():
    with pytest.raises(ValueError, match="number finds no answer in the reference 'unknown'"):
        Matches(number, "unknown")


def test_format():
    assert Format(r"#### \d+")("x", drafts("so\n#### 4 cats", "#### x")) == [1.0, 0.0]
    assert Format(r"a+", full=True)("x", drafts("aaa", "aab")) == [1.0, 0.0]
    with pytest.raises(ValueError, match="not a regular expression"):
        Format("(")


def test_each_takes_text_or_prompt_and_text():
    assert list(rate(Each(len), "x", drafts("abc", ""))) == [3.0, 0.0]
    assert Each(lambda prompt, text: float(prompt == text))("a", drafts("a", "b")) == [1.0, 0.0]
    assert Each(lambda text, scale=2.0: scale * len(text))("a", drafts("ab")) == [4.0]


def broken(text: str) -> float:
    raise OSError("disk full")


def test_each_names_the_function_in_errors():
    with pytest.raises(RewardError, match=r"reward Each\(broken\) raised OSError: disk full"):
        rate(Each(broken), "x", drafts("a"))
    with pytest.raises(RewardError, match="returned nan"):
        rate(Each(lambda text: math.nan), "x", drafts("a"))


@pytest.mark.parametrize("function", [lambda: 1.0, lambda a, b, c: 1.0, lambda *texts: 1.0])
def test_each_refuses_functions_of_other_shapes(function):
    with pytest.raises(ValueError, match=r"give a function \(text\) -> float"):
        Each(function)


def test_each_refuses_what_is_no_function():
    with pytest.raises(ValueError, match="not callable"):
        Each(3.0)  # pyright: ignore[reportArgumentType]


def test_sum_weighs_its_parts():
    reward = Sum([(2.0, Format("a")), (-0.5, Each(len))]).bind(table(), "x", Key(0))
    assert list(rate(reward, "x", drafts("abc", "bb"))) == [0.5, -1.0]


def test_sum_binds_the_parts_that_need_it_each_with_its_own_key():
    seen: list[Key] = []

    class Spy:
        fixed = True

        def needs(self) -> frozenset[str]:
            return frozenset({"score"})

        def bind(self, engine: Engine, prompt: str, key: Key) -> Format:
            seen.append(key)
            return Format(prompt)

    reward = Sum([(1.0, Spy()), (10.0, Format("b")), (100.0, Spy())])
    assert isinstance(reward, PromptReward)
    assert reward.needs() == {"score"}
    target = Target(table(), reward, 1.0).bind("a", Key(0))
    assert isinstance(target.reward, BoundSum)
    assert list(target.rate("a", drafts("a", "b"))) == [101.0, 10.0]
    assert len(set(seen)) == 2


def test_sum_is_fixed_where_its_parts_are():
    assert Sum([(1.0, Agreement(number)), (1.0, Format("a"))]).fixed
    assert not Sum([(1.0, RunningMajority(number)), (1.0, Agreement(number)), (1.0, Format("a"))]).fixed
    assert Sum([(1.0, Agreement(number)), (1.0, LogProb())]).needs() == {"score"}


def test_sum_excludes_what_a_part_excludes_and_names_the_part_at_fault():
    never = Each(lambda text: -math.inf if text == "a" else 1.0)
    bound = Sum([(2.0, never), (1.0, Format("a"))]).bind(table(), "x", Key(0))
    assert list(rate(bound, "x", drafts("a", "b"))) == [-math.inf, 2.0]
    with pytest.raises(RewardError, match=r"Each\(broken\)"):
        rate(Sum([(1.0, Each(broken))]).bind(table(), "x", Key(0)), "x", drafts("a"))


def test_sum_checks_its_parts():
    with pytest.raises(ValueError, match="no parts"):
        Sum([])
    with pytest.raises(ValueError, match="weight 0 for Format"):
        Sum([(0, Format("a"))])
