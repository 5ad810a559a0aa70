"""Allocation: tokens go where they gain, by earlier rounds alone; log Ẑ is unbiased or None; killed runs decide the same."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import exptilt as xt
from exptilt.core import Engine
from exptilt.engines import TableEngine
from exptilt.errors import StoreError, TargetError
from exptilt.populations.leading import leads
from exptilt.running import rounds
from exptilt.running.allocation import Allocation, Candidate, choose, expected_lead, of_accuracy, of_log_z
from exptilt.running.ledger import Outcomes
from exptilt.running.places import Finished
from exptilt.running.request import Job, Request
from exptilt.testing.enumeration import paths
from exptilt.testing.toys import random_table

PROMPTS = [f"question {number}" for number in range(12)]
BUDGET = xt.Budget(total_tokens=600)


def first(text: str) -> str | None:
    return text[:1] or None


def target(engine: Engine | None = None, beta: float = 0.5) -> xt.Target:
    table = TableEngine(random_table(5, 3), 4, 2) if engine is None else engine
    return xt.Target(table, lambda prompt, drafts: [float(draft.tokens[0]) for draft in drafts], beta)


def allocated(by: Any = "accuracy", prompts: Sequence[str] = PROMPTS, **more: Any) -> list[xt.Result]:
    given: dict[str, Any] = {"select": xt.vote(first), "budget": BUDGET, "allocate": by} | more
    outcomes = xt.run(target(), prompts, xt.Independent(4), **given)
    return [outcome for outcome in outcomes if isinstance(outcome, xt.Result)]


def told(results: Sequence[xt.Result]) -> list[tuple[Any, ...]]:
    """What of results must be equal."""
    return [
        (result.text, result.population.log_w.tolist(), result.usage.tokens, result.warnings, result.posterior, result.log_z)
        for result in results
    ]


# ------------------------------------------------------------------------------------------------------------- log Ẑ


def coin(excluded: bool) -> xt.Target:
    """p(0) = 0.3, whose reward is 1; the other one's is 0, or excludes it."""
    lost = -math.inf if excluded else 0.0
    engine = TableEngine(lambda prefix: np.array([0.3, 0.7]), 1, 1)
    return xt.Target(engine, lambda prompt, drafts: [1.0 if draft.tokens == (0,) else lost for draft in drafts], beta=0.5)


@dataclass(frozen=True)
class Inline:
    """Does jobs one after the other in this thread, which is a hundred times faster where all that they do is to draw a coin."""

    request: Request

    @property
    def settings(self) -> Mapping[str, Any]:
        return {}

    def check(self, jobs: Sequence[Job]) -> None: ...

    def finish(self, jobs: Sequence[Job], *, stop: bool) -> Generator[Finished]:
        for job in jobs:
            yield [(job, self.request.outcome(job))]


def expected(monkeypatch: pytest.MonkeyPatch, excluded: bool) -> list[float]:
    """E[Ẑ] of two prompts that share out ten tokens by log_z, over all random paths of the run."""
    allocation, budget = Allocation("log_z", 10, "a, b"), xt.Budget(total_tokens=10)
    request = Request(coin(excluded), xt.Independent(2), xt.best, 0, budget, allocation=allocation)

    def run(key: xt.Key) -> list[float]:
        monkeypatch.setattr(Job, "key", lambda self, seed: key)
        ledger = Outcomes({}, None, population=True)
        parts = rounds.run_rounds(request, [Job("a", 0), Job("b", 0)], Inline(request), ledger, stop=False)
        outcomes = [rounds.pooled(request, each) for each in parts]
        alive = [outcome.log_z if isinstance(outcome, xt.Result) else -math.inf for outcome in outcomes]
        assert None not in alive
        return [math.exp(value) for value in alive if value is not None]

    return np.sum([probability * np.array(found) for probability, found in paths(run)], axis=0).tolist()


@pytest.mark.parametrize("excluded", [False, True])
def test_shares_fixed_beforehand_keep_log_z_unbiased(excluded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By enumeration of all paths of the whole run, those on which parts have weight zero included."""
    z = 0.3 * math.exp(2) + (0.0 if excluded else 0.7)
    assert expected(monkeypatch, excluded) == pytest.approx([z, z], rel=1e-12)


def test_the_mean_over_all_parts_would_be_biased(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many parts a prompt gets depends on its first one, so their plain mean is off: this is why shares are fixed."""

    def mean(each: rounds.Parts) -> xt.Population:
        return xt.Population.merge([result.population for result in each.results], each.dead)

    monkeypatch.setattr(rounds, "_by_rounds", mean)
    z = 0.3 * math.exp(2) + 0.7
    assert all(abs(found / z - 1) > 1e-3 for found in expected(monkeypatch, False))


def test_what_was_decided_by_accuracy_has_no_log_z() -> None:
    """A prompt that looked doubtful was drawn more often."""
    results = allocated()
    assert {result.log_z for result in results} == {None}
    assert len({len(result.population) for result in results}) > 1
    assert all("depends on them" in result.warnings[0] for result in results)


def test_a_budget_that_ends_after_the_first_round_leaves_no_log_z() -> None:
    """Its shares were fixed for two rounds, and whether there is a second depends on what was drawn."""
    results = allocated("log_z", budget=xt.Budget(total_tokens=1))
    plain = xt.run(target(), PROMPTS, xt.Independent(4), select=xt.vote(first))
    assert {result.log_z for result in results} == {None}
    assert [result.text for result in results] == [result.text for result in plain if isinstance(result, xt.Result)]


# -------------------------------------------------------------------------------------------------------------- runs


@pytest.mark.parametrize("by", ["accuracy", "log_z"])
def test_a_killed_run_decides_the_same(by: str, tmp_path: Path) -> None:
    """Killed after any number of parts, with half a line written, and while the results themselves are written."""
    whole = told(allocated(by, store=tmp_path / "run.jsonl"))
    assert told(allocated(by)) == whole
    lines = (tmp_path / "run.parts.jsonl").read_bytes().splitlines(keepends=True)
    assert len(lines) > 30
    for kept in (1, 5, 13, 20, len(lines) - 1):
        (tmp_path / "killed.parts.jsonl").write_bytes(b"".join(lines[:kept]) + lines[kept][: len(lines[kept]) // 2])
        assert told(allocated(by, store=tmp_path / "killed.jsonl")) == whole
        assert (tmp_path / "killed.parts.jsonl").read_bytes().count(b"\n") == len(lines)
        (tmp_path / "killed.jsonl").unlink()
    done = (tmp_path / "run.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "run.jsonl").write_bytes(b"".join(done[:4]))
    assert told(allocated(by, store=tmp_path / "run.jsonl")) == whole
    assert len((tmp_path / "run.parts.jsonl").read_bytes().splitlines()) == len(lines)


def test_a_killed_run_of_chains_decides_the_same(tmp_path: Path) -> None:
    """A chain repeats its states. The file keeps equal ones once, and they must count for as many draws once they are read."""
    chain = {"select": xt.vote(first), "budget": xt.Budget(total_tokens=1500), "allocate": "accuracy"}
    run = lambda: xt.run(target(), PROMPTS, xt.SuffixMCMC(steps=6), store=tmp_path / "run.jsonl", **chain)  # noqa: E731
    whole = told([result for result in run() if isinstance(result, xt.Result)])
    lines = (tmp_path / "run.parts.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "run.parts.jsonl").write_bytes(b"".join(lines[:14]))
    (tmp_path / "run.jsonl").unlink()
    assert told([result for result in run() if isinstance(result, xt.Result)]) == whole
    assert len((tmp_path / "run.parts.jsonl").read_bytes().splitlines()) == len(lines) > 20


def test_parts_are_draws_of_their_own() -> None:
    """With the streams of the first part again, every further part would be the same draws, and all else would look well."""
    long = target(TableEngine(random_table(1, 8), 12, 7))
    results = xt.run(long, PROMPTS, xt.Independent(4), select=xt.best, budget=xt.Budget(total_tokens=3000), allocate="log_z")
    for result in results:
        assert isinstance(result, xt.Result)
        assert len({draft.tokens for draft in result.population.drafts}) > 0.7 * len(result.population) > 4


def test_a_finished_run_is_read_without_its_parts(tmp_path: Path) -> None:
    whole = told(allocated(store=tmp_path / "run.jsonl"))
    (tmp_path / "run.parts.jsonl").unlink()
    assert told(allocated(store=tmp_path / "run.jsonl")) == whole
    assert not (tmp_path / "run.parts.jsonl").exists()


def test_decisions_do_not_depend_on_how_many_run_at_once() -> None:
    """Parts that end early must not count before their round is over."""
    assert told(allocated(concurrency=1)) == told(allocated(concurrency=16))


def test_other_prompts_are_another_run(tmp_path: Path) -> None:
    """Elsewhere a list of prompts may grow between two runs; here every result depends on it."""
    allocated(store=tmp_path / "run.jsonl")
    with pytest.raises(StoreError, match=r"allocation\.prompts"):
        allocated(prompts=[*PROMPTS, "one more"], store=tmp_path / "run.jsonl")
    with pytest.raises(StoreError, match="total_tokens"):
        allocated(budget=xt.Budget(total_tokens=700), store=tmp_path / "run.jsonl")
    with pytest.raises(StoreError, match="allocation"):
        xt.run(target(), PROMPTS, xt.Independent(4), select=xt.vote(first), store=tmp_path / "run.jsonl")


def test_files_from_before_there_was_an_allocation_resume(tmp_path: Path) -> None:
    """The new field of Budget is in no file that was written before it."""
    xt.run(target(), PROMPTS, xt.Independent(4), budget=xt.Budget(tokens=100), store=tmp_path / "run.jsonl")
    assert "total_tokens" not in (tmp_path / "run.jsonl").read_text()


def test_the_tokens_are_about_those_that_were_given() -> None:
    """The last round is planned by mean costs, and nothing is spent on what cannot gain."""
    spent = sum(result.usage.tokens for result in allocated(budget=xt.Budget(total_tokens=900)))
    assert 600 < spent < 1000


def test_one_prompt_that_fails_does_not_hold_up_the_others() -> None:
    def reward(prompt: str, drafts: Sequence[xt.Draft]) -> list[float]:
        if prompt == PROMPTS[3]:
            raise ValueError("no idea")
        return [float(draft.tokens[0]) for draft in drafts]

    given = xt.Target(target().engine, reward, 0.5)
    outcomes = xt.run(given, PROMPTS, xt.Independent(4), select=xt.best, budget=BUDGET, allocate="accuracy")
    assert [number for number, outcome in enumerate(outcomes) if isinstance(outcome, xt.Failure)] == [3]
    assert sum(len(outcome.population) for outcome in outcomes if isinstance(outcome, xt.Result)) > 11 * 4


def test_parts_without_weight_are_not_the_end_of_a_prompt() -> None:
    """The first part of a prompt that seldom succeeds is dead: it gets more, and a result once one of them is not."""
    engine = TableEngine(lambda prefix: np.array([0.05, 0.95]), 1, 1)
    rare = xt.Target(engine, lambda prompt, drafts: [0.0 if draft.tokens == (0,) else -math.inf for draft in drafts], beta=1.0)
    alone = xt.run(rare, PROMPTS, xt.Independent(2), select=xt.best)
    shared = xt.run(rare, PROMPTS, xt.Independent(2), select=xt.best, budget=BUDGET, allocate="accuracy")
    assert sum(isinstance(outcome, xt.Result) for outcome in shared) >= 10 > sum(isinstance(each, xt.Result) for each in alone)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"allocate": "ess"}, 'give "accuracy" or "log_z"'),
        ({"budget": None}, "total_tokens=..."),
        ({"budget": xt.Budget(tokens=9)}, "total_tokens=..."),
        ({"budget": xt.Budget(tokens=9, total_tokens=90)}, "leave the limits of single prompts out"),
        ({"until": xt.until.ess(3)}, "give one of them"),
        ({"retry": True}, "begin a new file"),
        ({"select": xt.draw}, "give select=vote"),
        ({"allocate": None}, "needs allocate"),
    ],
)
def test_what_cannot_be_allocated_is_refused(more: dict[str, Any], said: str) -> None:
    with pytest.raises(TargetError, match=said):
        allocated(**more)


def test_a_single_prompt_has_nothing_to_share_out() -> None:
    with pytest.raises(TargetError, match="needs allocate"):
        xt.sample(target(), "x", xt.Independent(4), budget=BUDGET)


# -------------------------------------------------------------------------------------------------------------- gains


@pytest.mark.parametrize(("ahead", "behind"), [(0, 0), (1, 0), (3, 2), (9, 4), (2.5, 1.25)])
def test_the_expected_lead(ahead: float, behind: float) -> None:
    """Without more draws it is the present one; more draws never lower it, and for one more it is the sum over its two ends."""
    assert expected_lead(ahead, behind, 0) == pytest.approx(leads(ahead, behind), abs=1e-4)
    course = [expected_lead(ahead, behind, draws) for draws in (0, 1, 2, 4, 8, 16, 64)]
    assert all(after >= before - 1e-12 for before, after in pairwise(course))
    hit = (ahead + 1) / (ahead + behind + 2)
    other = leads(ahead, behind + 1) if ahead >= behind + 1 else 1 - leads(behind + 1, ahead)
    by_hand = hit * leads(ahead + 1, behind) + (1 - hit) * max(other, 1 - other)
    assert expected_lead(ahead, behind, 1) == pytest.approx(by_hand, abs=1e-4)


def test_a_settled_vote_gains_from_many_draws_only() -> None:
    assert expected_lead(4, 0, 1) == pytest.approx(expected_lead(4, 0, 0))
    assert expected_lead(4, 0, 8) > expected_lead(4, 0, 0) + 1e-4


def drafted(letters: str, rewards: Sequence[float] = (), **more: Any) -> xt.Population:
    drafts = [xt.Draft("x", (number,), None, letter, "stop") for number, letter in enumerate(letters)]
    return xt.Population(drafts, np.full(len(drafts), -math.log(len(drafts))), np.array(rewards or [0.0] * len(drafts)), **more)


def test_what_cannot_gain_gets_nothing() -> None:
    """A proved answer, and a reward at its upper bound."""
    close, clear = drafted("aabb"), drafted("aaaa")
    assert of_accuracy(xt.vote(first), [close], 0, True)(4) == of_accuracy(xt.vote(first), [close], 0, True)(0)
    solved = of_accuracy(xt.best, [drafted("ab", (0.0, 1.0), reward_max=1.0)], 0, False)
    assert solved(8) == solved(0)
    unsolved = of_accuracy(xt.best, [drafted("ab", (0.0, 0.5), reward_max=1.0)], 0, False)
    assert [unsolved(parts) for parts in (0, 1, 3)] == [0.0, 0.5, 0.75]
    values = [of_accuracy(xt.vote(first), [each], 0, False) for each in (close, clear)]
    assert choose([Candidate(value, 10.0) for value in values], 40.0, 0) == [4, 0]


def test_gains_count_per_token() -> None:
    """Of two prompts that gain the same, the cheaper one is served."""
    value = of_accuracy(xt.vote(first), [drafted("aabb")], 0, False)
    dear, cheap = choose([Candidate(value, 40.0), Candidate(value, 10.0)], 80.0, 0)
    assert cheap > 2 * dear


def test_log_z_draws_more_where_weights_vary() -> None:
    even, uneven = drafted("a" * 16), drafted("a" * 16)
    uneven = xt.Population(uneven.drafts, np.where(np.arange(16) < 2, 0.0, -6.0), uneven.rewards)
    few, many = choose([Candidate(value, 1.0) for value in of_log_z([even, uneven])], 40.0, 1)
    assert few >= 1
    assert many > 1.5 * few
    assert few + many == 40


def test_nothing_is_given_beyond_the_tokens() -> None:
    values = of_log_z([drafted("ab")] * 5)
    given = choose([Candidate(value, 7.0) for value in values], 100.0, 1)
    assert 100 - 7 < 7 * sum(given) <= 100
