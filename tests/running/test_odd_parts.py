"""Selects and rewards that return odd things fail their prompt alone; where the first prompts all fail alike, the run ends."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import exptilt as xt
from exptilt.blocks import BlockSize
from exptilt.core import Target
from exptilt.draft import Draft
from exptilt.errors import AnswerError, PromptError, RewardError, SelectError, TargetError
from exptilt.running.ledger import ALIKE
from exptilt.running.result import Failure
from exptilt.testing.toys import random_table


async def later(drafts: Sequence[Draft]) -> list[float]:
    return [0.0] * len(drafts)


TABLE = xt.engines.TableEngine(random_table(3, 4), 5, 3)
TARGET = Target(TABLE, lambda prompt, drafts: [0.0] * len(drafts), beta=0.5)
PROMPTS = [f"prompt {number}" for number in range(4 * ALIKE)]
ODD_SELECTS: dict[str, tuple[Callable[[xt.Population], Any], str]] = {
    "None": (lambda population: None, "returned None: return one of population.drafts"),
    "text": (lambda population: population.drafts[0].text, "returned '"),
    "row": (lambda population: 0, "returned 0"),
    "pair": (lambda population: (population.drafts[0], 1.0), r"returned \(Draft"),
    "dict": (lambda population: {}, "returned {}"),
    "raises": (lambda population: {}["x"], "raised KeyError: 'x'"),
    "exits": (lambda population: sys.exit(3), "raised SystemExit: 3"),
}
ODD_REWARDS: dict[str, tuple[Callable[[Sequence[Draft]], Any], str]] = {
    "dict": (lambda drafts: {float(row): "x" for row in range(len(drafts))}, "returned a dict"),
    "set": (lambda drafts: set(range(len(drafts))), "returned a set"),
    "digits": (lambda drafts: "1" * len(drafts), "returned a str"),
    "None": (lambda drafts: None, "raised TypeError"),
    "number": (lambda drafts: 1.0, "raised TypeError"),
    "holes": (lambda drafts: [None] * len(drafts), "returned None for a draft"),
    "texts": (lambda drafts: ["1"] * len(drafts), "returned '1' for a draft"),
    "async": (lambda drafts: later(drafts), "is an async function"),
    "pairs": (lambda drafts: [(1.0, "why")] * len(drafts), "raised ValueError"),
    "dicts": (lambda drafts: [{"score": 1.0}] * len(drafts), "raised TypeError"),
}


@pytest.mark.parametrize("kind", ODD_SELECTS)
def test_an_odd_select_fails_its_prompt_alone(kind: str, tmp_path: Path) -> None:
    """A select that returned None ended as an AttributeError in the writing of the file, and the run with it."""
    choose, said = ODD_SELECTS[kind]

    def select(population: xt.Population, key: xt.Key) -> Draft:
        return choose(population) if population.drafts[0].prompt == "odd" else population.drafts[0]

    store = tmp_path / "a.jsonl"
    first, failure, last = xt.run(TARGET, ["one", "odd", "two"], xt.Independent(4), select=select, store=store)
    assert isinstance(failure, Failure)
    assert failure.error == "SelectError"
    with pytest.raises(SelectError, match=said):
        xt.sample(TARGET, "odd", xt.Independent(4), select=select)
    assert isinstance(first, xt.Result)
    assert isinstance(last, xt.Result)
    assert sum("error" in json.loads(line) for line in store.read_text().splitlines()) == 1


@pytest.mark.parametrize("kind", ODD_REWARDS)
def test_an_odd_reward_fails_its_prompt_alone(kind: str) -> None:
    """The keys of a dict were taken for its scores, and the digits of a text for numbers."""
    give, said = ODD_REWARDS[kind]
    target = replace(TARGET, reward=lambda prompt, drafts: give(drafts) if prompt == "odd" else [0.0] * len(drafts))
    outcomes = xt.run(target, ["one", "odd", "two"], xt.Independent(4))
    assert [isinstance(outcome, xt.Result) for outcome in outcomes] == [True, False, True]
    with pytest.raises(RewardError, match=said):
        xt.sample(target, "odd", xt.Independent(4))


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        ({"sampler": "ets"}, "the sampler 'ets' is not one"),
        ({"sampler": lambda target, prompt, key: []}, "is not one"),
        ({"seed": 1.5}, "seed=1.5 must be a whole number"),
        ({"seed": "x"}, "seed='x' must be a whole number"),
        ({"seed": True}, "seed=True must be a whole number"),
        ({"budget": 5}, "budget=5 is not a Budget"),
    ],
)
def test_odd_parts_of_a_request_are_refused_before_any_work(odd: dict[str, Any], said: str) -> None:
    """They were an AttributeError or a TypeError of the inside, or a seed that drew something all the same."""
    given: dict[str, Any] = {"sampler": xt.Independent(2), **odd}
    for ask in (xt.sample, xt.stream):
        with pytest.raises(TargetError, match=said):
            ask(TARGET, "x", given["sampler"], **{name: value for name, value in given.items() if name != "sampler"})


def test_numbers_of_numpy_are_numbers() -> None:
    target = replace(TARGET, beta=np.float32(0.5))
    asked = np.array(["a", "b"])
    for one, other in zip(xt.run(target, asked, xt.Independent(2), seed=np.int64(3)), "ab", strict=True):  # type: ignore[arg-type]
        assert isinstance(one, xt.Result)
        assert type(one.prompt) is str
        assert one.text == xt.sample(TARGET, other, xt.Independent(2), seed=3).text
    with pytest.raises(TargetError, match="beta=True"):
        replace(TARGET, beta=True)


def test_prompts_may_come_from_a_generator() -> None:
    """A run over a generator gave no results and no error: the look for a prompt alone had used it up."""
    results = xt.run(TARGET, (prompt for prompt in PROMPTS[:3]), xt.Independent(2))  # type: ignore[arg-type]
    assert [result.prompt for result in results] == PROMPTS[:3]
    with pytest.raises(TargetError, match="was given 7, which has none"):
        xt.run(TARGET, 7, xt.Independent(2))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"concurrency=2.5 must be a whole number"):
        xt.run(TARGET, PROMPTS, xt.Independent(2), concurrency=2.5)  # type: ignore[arg-type]


def test_a_table_gives_one_probability_for_each_token() -> None:
    """A row that was too short never drew the tokens that it left out, and without a word."""
    short = xt.engines.TableEngine(lambda prefix: [0.5, 0.25, 0.25] if not prefix else [0.5, 0.5], 5, 2)
    with pytest.raises(ValueError, match=r"gives 2 probabilities at \(\d,\) and 3 at its start"):
        xt.sample(xt.Target(short, TARGET.reward, 1.0), "x", xt.Independent(20))


def test_tuples_and_truth_values_are_scores() -> None:
    for scores in ((1.0, 0.0), [True, False], (value for value in (1, 0))):
        rated = replace(TARGET, reward=lambda prompt, drafts, scores=scores: scores).rate(
            "x", [Draft("x", (0,)), Draft("x", (1,))]
        )
        assert rated.tolist() == [1.0, 0.0]


# ---------------------------------------------------------------------------------------------- the first prompts


@dataclass(frozen=True)
class Odd(xt.engines.TableEngine):
    """A served model whose answers to some prompts cannot be used. bad: the prompts."""

    bad: frozenset[str] = frozenset()
    error: type[Exception] = AnswerError

    def extend(self, drafts: Sequence[Draft], keys: Sequence[xt.Key], tokens: BlockSize | None = None) -> list[Draft]:
        if drafts[0].prompt in self.bad:
            raise self.error("the answer cannot be used")
        return TABLE.extend(drafts, keys, tokens)

    def metered(self, work: Any) -> Odd:
        return self


def target(bad: Sequence[str], error: type[Exception] = AnswerError) -> Target:
    return Target(Odd(TABLE.next_probs, 5, 3, bad=frozenset(bad), error=error), TARGET.reward, 1.0)


def test_one_odd_answer_is_one_failure_that_can_be_run_again(tmp_path: Path) -> None:
    """It ended the run, and every run that was to go on from there ended at the same prompt."""
    store = tmp_path / "a.jsonl"
    outcomes = xt.run(target(PROMPTS[3:4]), PROMPTS, xt.Independent(2), store=store)
    assert [outcome.prompt for outcome in outcomes if isinstance(outcome, Failure)] == PROMPTS[3:4]
    kept = xt.run(target([]), PROMPTS, xt.Independent(2), store=store)
    assert sum(isinstance(outcome, Failure) for outcome in kept) == 1
    cured = xt.run(target([]), PROMPTS, xt.Independent(2), store=store, retry=True)
    assert all(isinstance(outcome, xt.Result) for outcome in cured)


def test_a_run_whose_first_prompts_all_fail_alike_ends(tmp_path: Path) -> None:
    """A wrong set-up would fail five thousand prompts one after another."""
    store = tmp_path / "a.jsonl"
    with pytest.raises(AnswerError, match=rf"the first {ALIKE} prompts all failed.*the answer cannot be used.*retry=True"):
        xt.run(target(PROMPTS), PROMPTS, xt.Independent(2), store=store, concurrency=1)
    assert len(store.read_text().splitlines()) == 1 + ALIKE
    cured = xt.run(target([]), PROMPTS, xt.Independent(2), store=store, retry=True)
    assert all(isinstance(outcome, xt.Result) for outcome in cured)


def test_a_reward_or_a_select_that_always_fails_ends_the_run() -> None:
    with pytest.raises(RewardError, match="all failed"):
        xt.run(replace(TARGET, reward=lambda prompt, drafts: [math.nan] * len(drafts)), PROMPTS, xt.Independent(2))
    with pytest.raises(SelectError, match="all failed"):
        xt.run(TARGET, PROMPTS, xt.Independent(2), select=lambda population, key: None)  # pyright: ignore


def test_a_run_that_works_goes_on_whatever_fails_later(tmp_path: Path) -> None:
    """Also where it goes on from a file: what a file has answered shows that the set-up works."""
    store = tmp_path / "a.jsonl"
    for bad in (PROMPTS[1:], PROMPTS[: ALIKE - 1]):
        outcomes = xt.run(target(bad), PROMPTS, xt.Independent(2), concurrency=1)
        assert sum(isinstance(outcome, Failure) for outcome in outcomes) == len(bad)
    for _ in range(2):
        xt.run(target(PROMPTS[1:]), PROMPTS, xt.Independent(2), concurrency=1, store=store, retry=True)
    assert len(store.read_text().splitlines()) == 1 + len(PROMPTS) + len(PROMPTS[1:])


def test_prompts_that_are_at_fault_themselves_do_not_end_a_run() -> None:
    outcomes = xt.run(target(PROMPTS, PromptError), PROMPTS, xt.Independent(2))
    assert all(isinstance(outcome, Failure) for outcome in outcomes)
