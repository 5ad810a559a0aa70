"""The chain generator, its checker against brute force, and the error that the bundled model makes a step."""

from __future__ import annotations

import itertools
import math
import random
import subprocess
import sys

import pytest

import exptilt as xt
from exptilt.draft import Draft
from exptilt.errors import RewardError
from exptilt.evaluation.tasks import chain_task, load_task
from exptilt.evaluation.tasks.chains import (
    HIGHEST,
    LONGEST,
    LOWEST,
    SHORTEST,
    Chain,
    ChainCheck,
    chains,
    compose,
    count_lines,
    read_chain,
)
from exptilt.evaluation.tasks.word_problems import split_of
from exptilt.keys import Key
from exptilt.testing import check_reward
from reproduce import chains as chains_script
from reproduce.chains_page import ABORT, BUDGET, BUDGETED, FILTERS, LAST, LINE, Ideal

CHAIN = Chain(37, (8, -5))
RIGHT = "1. +8=45\n2. -5=40\n#### 40"


def draft(text: str, finish: str | None = "stop") -> Draft:
    return Draft(CHAIN.question, (), None, text, finish)  # pyright: ignore[reportArgumentType]


# --------------------------------------------------------------------------------------------------------- generator


def test_a_chain_is_written_as_documented() -> None:
    assert CHAIN.question == "Start: 37\n1. +8\n2. -5\n#### ?"
    assert (CHAIN.solution, CHAIN.answer) == (RIGHT, "40")
    assert CHAIN.worked([1, 0]) == "1. +8=46\n2. -5=41\n#### 41"
    assert read_chain(CHAIN.question) == CHAIN


@pytest.mark.parametrize("steps", [SHORTEST, 17, LONGEST])
def test_every_line_of_a_solution_holds_and_takes_up_the_one_before(steps: int) -> None:
    for chain in chains("test", 30, seed=1, steps=steps):
        *lines, final = chain.solution.split("\n")
        first, *asked, last = chain.question.split("\n")
        assert (len(lines), first, last) == (steps, f"Start: {chain.start}", "#### ?")
        total = chain.start
        for number, (line, step) in enumerate(zip(lines, asked, strict=True), 1):
            written, result = line.split("=")
            assert written == step
            total += int(step.removeprefix(f"{number}. "))
            assert int(result) == total
            assert LOWEST <= total <= HIGHEST
        assert final == f"#### {chain.answer}" == f"#### {total}"


def test_lengths_are_mixed_splits_apart_and_chains_the_same_in_another_process() -> None:
    drawn = chains("test", 300, seed=2)
    assert {len(chain.changes) for chain in drawn} == set(range(SHORTEST, LONGEST + 1))
    assert len({chain.question for chain in drawn}) == 300
    assert {split_of(chain.question) for chain in drawn} == {"test"}
    code = "from exptilt.evaluation.tasks.chains import chains; print(chains('test', 300, seed=2)[-1].question)"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == drawn[-1].question


def test_changes_reach_both_ends_of_their_range() -> None:
    rng = random.Random(0)
    seen = {change for _ in range(200) for change in compose(rng, 20).changes}
    assert seen == {*range(-9, 10)} - {0}


def test_the_task_asks_chains_and_knows_their_answers() -> None:
    task = load_task("chains", problems=3, seed=4)
    drawn = chains("test", 3, seed=4)
    assert task.prompts == tuple(chain.question for chain in drawn)
    for chain, reference in zip(drawn, task.references, strict=True):
        assert task.correct(chain.solution, reference)
        assert not task.correct(chain.worked([1] + [0] * (len(chain.changes) - 1)), reference)
    assert all(len(read_chain(prompt).changes) == 24 for prompt in chain_task(5, 0, steps=24).prompts)


# ----------------------------------------------------------------------------------------------------------- checker


@pytest.mark.parametrize(
    ("text", "share"),
    [
        (RIGHT, 1.0),
        ("1. +8=46\n2. -5=41\n#### 41", 0.0),  # a slip, after which all is consistent
        ("1. +8=45\n2. -5=41\n#### 41", 1 / 3),
        ("1. +8=45\n2. -5=40\n#### 41", 2 / 3),
        ("1. +8=45\n2. +5=50\n#### 50", 1 / 3),  # true as an equation, but not what was asked
        ("1. +8=46\n2. -5=40\n#### 40", 0.0),  # two slips that cancel: the answer is right, the work is not
        ("1. +8=45\n#### 45", 1 / 3),
        (RIGHT + "\n", 3 / 4),
        (RIGHT + "\nmore", 3 / 4),
        ("1. +8=45\n2. -5=4", 1 / 3),  # cut at the cap
        ("", 0.0),
    ],
)
def test_scores_of_finished_drafts(text: str, share: float) -> None:
    assert ChainCheck()(CHAIN.question, [draft(text)]) == [float(text == RIGHT)]
    assert ChainCheck(graded=True)(CHAIN.question, [draft(text)]) == [pytest.approx(share)]


@pytest.mark.parametrize("graded", [False, True])
def test_the_bound_is_the_best_that_brute_force_finds(graded: bool) -> None:
    """Every text of up to five pieces of a small alphabet: the bound of a prefix is at least the best of its completions, and no
    more than that where the pieces left suffice."""
    chain, check = Chain(1, (1,)), ChainCheck(graded)
    pieces = ["1. +1=2", "1. +1=3", "\n", "#### 2", "#### 3"]
    finished = [combination for length in range(1, 6) for combination in itertools.product(pieces, repeat=length)]
    score = dict(zip(finished, check(chain.question, [draft("".join(each)) for each in finished]), strict=True))
    assert max(score.values()) == 1.0
    best: dict[tuple[str, ...], float] = {}
    for each, value in score.items():
        for cut in range(len(each)):
            best[each[:cut]] = max(best.get(each[:cut], 0.0), value)
    for prefix, most in best.items():
        told = check.bound(chain.question, [draft("".join(prefix), None)])[0]
        assert told >= most, prefix
        if len(prefix) <= 2:  # three pieces are left, which suffice to end as well as can be
            assert told == pytest.approx(most), prefix
        assert check(chain.question, [draft("".join(prefix), None)]) == [told]


def test_the_checker_keeps_the_contract_of_rewards() -> None:
    slips = [[0, 0], [1, 0], [0, 10], [-1, 1]]
    for graded in (False, True):
        check_reward(ChainCheck(graded), CHAIN.question, [CHAIN.worked(each) for each in slips])


def test_a_chat_of_one_turn_is_read_like_its_text() -> None:
    chat = xt.Chat.of([{"role": "user", "content": CHAIN.question}])
    assert ChainCheck()(chat, [draft(RIGHT)]) == [1.0]


@pytest.mark.parametrize(
    "prompt",
    [
        "How many?",
        "Start: 37\n#### ?",
        "Start: 37\n2. +8\n#### ?",
        "Start: 37\n1. +8\n3. -5\n#### ?",
        "Start: 37\n1. 8\n#### ?",
        "Start: 37\n1. +8",
    ],
)
def test_a_prompt_that_is_no_chain_is_refused(prompt: str) -> None:
    with pytest.raises(RewardError, match=r"is not a chain: write 'Start: 37'"):
        ChainCheck()(prompt, [draft(RIGHT)])


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        (RIGHT, (2, 0)),
        ("1. +8=46\n2. -5=41\n#### 41", (1, 1)),
        ("1. +8=45\n2. -5=41\n#### 41", (2, 1)),
        ("1. +8=45\n#### 45", (2, 1)),
        ("1. +8=45", (2, 1)),
        ("1. +8=45\n2. -5=40\n#### 41", (2, 0)),  # the final line is not a step
    ],
)
def test_lines_are_counted_to_the_first_wrong_one(text: str, counts: tuple[int, int]) -> None:
    assert count_lines(CHAIN, text) == counts


# ------------------------------------------------------------------------------------------------------------- model


STATED = 0.09  # errors a step, as docs/chains.md has it within a few tenths of a percent


@pytest.mark.parametrize(("steps", "count"), [(4, 200), (48, 60)])
def test_the_bundled_model_slips_as_often_as_stated_at_every_length(steps: int, count: int) -> None:
    """Within five standard errors; and what it writes are chains of the length that was asked for."""
    problems = chains("test", count, seed=9, steps=steps)
    engine = xt.load("tiny-chain", max_tokens=320)
    keys = [Key(9).child("chain", number) for number in range(count)]
    drafts = engine.extend([engine.start(problem.question) for problem in problems], keys)
    counts = [count_lines(problem, each.text) for problem, each in zip(problems, drafts, strict=True)]
    lines, wrong = (sum(column) for column in zip(*counts, strict=True))
    assert abs(wrong / lines - STATED) < 5 * math.sqrt(STATED * (1 - STATED) / lines)
    assert sum(each.finish == "stop" and each.text.count("\n") == steps for each in drafts) > 0.95 * count


# ------------------------------------------------------------------------------------------------------- ideal lines


@pytest.mark.parametrize(("steps", "best", "abort", "filtered"), [(12, 163, 25, 36), (24, 1071, 113, 71), (48, 23237, 1491, 141)])
def test_the_ideal_lines_are_those_of_a_simulation(steps: int, best: float, abort: float, filtered: float) -> None:
    """The simulated figures, with lines that are wrong one time in ten, are noisy by a few percent."""
    ideal = Ideal.of(0.1, steps)
    assert (ideal.best_of_n, ideal.abort, ideal.filter) == pytest.approx((best, abort, filtered), rel=0.05)


def test_a_filter_survives_as_often_as_the_ideal_says() -> None:
    """Three particles that are resampled among the survivors after each line, 20,000 times."""
    rng = random.Random(0)
    lost = sum(any(all(rng.random() < 0.1 for _ in range(3)) for _ in range(24)) for _ in range(20_000)) / 20_000
    truth = 1 - Ideal.of(0.1, 24).accuracy
    assert abs(lost - truth) < 5 * math.sqrt(truth / 20_000)


def test_the_page_shows_what_the_script_measures() -> None:
    assert {ABORT, *BUDGETED, *FILTERS} == {method.name for method in chains_script.METHODS}
    assert (LINE, LAST, BUDGET) == (chains_script.LINE, chains_script.LAST, chains_script.BUDGET)
