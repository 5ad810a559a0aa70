"""The arithmetic checker: exact scores for right, wrong, malformed and unfinished drafts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest

from exptilt.evaluation.tasks.word_problems import word_problems
from exptilt.rewards.arithmetic import Arithmetic

Finish = Literal["stop", "length"] | None


@dataclass(frozen=True)
class Draft:
    """Only what the reward reads."""

    text: str
    finish: Finish


def score(text: str, finish: Finish = "stop", reward: Arithmetic | None = None) -> float:
    (value,) = (reward or Arithmetic())("any prompt", [Draft(text=text, finish=finish)])
    return value


def test_reference_solutions_get_the_full_score():
    drafts = [Draft(text=problem.solution, finish="stop") for problem in word_problems("test", 200, seed=0)]
    assert Arithmetic()("", drafts) == [1.0] * 200


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2 * 3 = 6\n6 + 1 = 7\n#### 7", 1.0),
        ("2 * 3 = 6\n6 + 1 = 8\n#### 8", 0.5),
        ("2 * 3 = 5\n5 + 1 = 7\n#### 7", 0.0),
        ("2 * 3 = 6\n6 + 1 = 7\n#### 8", 0.5),
        ("2 * 3 = 6\n6 + 1 = 7", 0.5),
        ("2 * 3 = 6\n6 + 1 = 7\n####", 0.5),
        ("2 * 3 = 6\n6 + 1 = 7\n#### seven", 0.5),
        ("2 * 3 = 6\n6 + = 7\n#### 6", 0.5),
        ("2 * 3 = 6\nso much\n#### 6", 0.5),
        ("2 * 3 = 6\n#### 6\nand more", 0.5),
        ("2 * 3 = 6\n#### 6\n#### 6", 0.5),
        ("#### 6", 0.0),
        ("", 0.0),
        ("\n \n2*3=6\n\n####6\n", 1.0),
        ("8 / 2 = 4\n#### 4", 1.0),
        ("9 / 2 = 4\n#### 4", 0.0),
        ("9 / 0 = 0\n#### 0", 0.0),
        ("2 - 5 = -3\n#### -3", 1.0),
        ("2 + 2 = 4 = 4\n#### 4", 0.0),
        ("x 2 + 2 = 4\n#### 4", 0.0),
    ],
)
def test_finished_drafts(text, expected):
    assert score(text) == expected


def test_the_length_limit_counts_as_finished():
    assert score("2 * 3 = 6\n6 + 1", finish="length") == 0.25


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 1.0),
        ("2 * 3", 1.0),
        ("2 * 3 = 5", 1.0),
        ("2 * 3 = 6\n", 1.0),
        ("2 * 3 = 5\n", 0.0),
        ("2 * 3 = 6\n1 + 1 = 3\n4 +", 0.5),
        ("2 * 3 = 6\n#### 6\n", 1.0),
        ("2 * 3 = 6\n#### 7\n", 0.5),
    ],
)
def test_unfinished_drafts_are_judged_on_their_complete_lines(text, expected):
    assert score(text, finish=None) == expected


def test_the_prompt_is_not_read():
    draft = Draft(text="1 + 1 = 2\n#### 2", finish="stop")
    assert Arithmetic()("anything", [draft]) == Arithmetic()("else", [draft]) == [1.0]


def test_the_discount_for_a_missing_final_line_can_be_set():
    assert score("1 + 1 = 2", reward=Arithmetic(without_final=0.0)) == 0.0
    assert score("1 + 1 = 2", reward=Arithmetic(without_final=0.25)) == 0.25
    with pytest.raises(ValueError, match="without_final"):
        Arithmetic(without_final=2.0)


def test_huge_numbers_are_malformed_not_slow():
    assert score(f"{'9' * 10_000} + 1 = 2\n#### 2") == 0.0


def test_no_drafts():
    assert Arithmetic()("", []) == []
