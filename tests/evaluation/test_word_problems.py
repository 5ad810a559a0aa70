"""The word-problem generator: right solutions, separate splits, the same problems everywhere."""

from __future__ import annotations

import subprocess
import sys

import pytest

from exptilt.evaluation.tasks.word_problems import LIMIT, Problem, split_of, word_problems

OPERATIONS = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a // b if a % b == 0 else None,
}


@pytest.fixture(scope="module")
def problems() -> list[Problem]:
    return word_problems("train", 2000, seed=0)


def test_every_equation_holds_and_the_last_result_is_the_answer(problems):
    for problem in problems:
        *equations, final = problem.solution.split("\n")
        for equation in equations:
            left, sign, right, equals, result = equation.split(" ")
            assert equals == "="
            assert OPERATIONS[sign](int(left), int(right)) == int(result)
            assert 0 <= int(result) <= LIMIT
        assert final == f"#### {problem.answer}"
        assert equations[-1].endswith(f"= {problem.answer}")


def test_steps_counts_the_equations_and_covers_two_to_five(problems):
    assert {problem.steps for problem in problems} == {2, 3, 4, 5}
    assert all(problem.steps == problem.solution.count("=") for problem in problems)


def test_all_four_operations_occur(problems):
    for sign in OPERATIONS:
        assert any(f" {sign} " in problem.solution for problem in problems)


def test_operands_come_from_the_question_or_from_earlier_results(problems):
    for problem in problems:
        words = problem.question.replace(".", " ").replace(",", " ").split()
        known = {word for word in words if word.isdigit()}
        for equation in problem.solution.split("\n")[:-1]:
            left, _, right, _, result = equation.split(" ")
            assert {left, right} <= known, problem
            known.add(result)


def test_questions_are_filled_in_and_start_sentences_with_capitals(problems):
    for problem in problems:
        assert "{" not in problem.question
        assert problem.question.endswith("?")
        assert all(not sentence[0].islower() for sentence in problem.question.split(". "))


def test_questions_within_a_call_differ(problems):
    assert len({problem.question for problem in problems}) == len(problems)


def test_the_splits_are_disjoint_and_follow_the_hash(problems):
    test = word_problems("test", 500, seed=0)
    assert {problem.question for problem in problems}.isdisjoint(problem.question for problem in test)
    assert all(split_of(problem.question) == "train" for problem in problems)
    assert all(split_of(problem.question) == "test" for problem in test)


def test_the_seed_decides_the_problems():
    assert word_problems("test", 20, seed=3) == word_problems("test", 20, seed=3)
    assert word_problems("test", 20, seed=3) != word_problems("test", 20, seed=4)


def test_a_longer_call_begins_with_the_shorter_one():
    assert word_problems("train", 50, seed=1)[:10] == word_problems("train", 10, seed=1)


def test_another_process_gets_the_same_problems():
    program = "from exptilt.evaluation.tasks.word_problems import word_problems; print(word_problems('test', 5, 7))"
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert output.strip() == repr(word_problems("test", 5, seed=7))


def test_no_problems_are_asked_for():
    assert word_problems("train", 0, seed=0) == []
