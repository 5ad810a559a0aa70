"""The methods that the tables compare: the beam finds the mode, the raw chain is ETS's own, finished plans are not run again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import exptilt as xt
from exptilt.draft import Draft
from exptilt.evaluation.cost import Parameters
from exptilt.evaluation.tasks import Task
from exptilt.running.result import Outcome
from exptilt.testing.toys import autoregressive
from reproduce.methods import (
    METHODS,
    Beam,
    Plan,
    Results,
    Sizes,
    ets_chain,
    guided,
    nothing,
    plain_mbr,
    table,
    true_reward,
    unguided,
)

TASK = Task("toy", ("one", "two"), ("0", "1"), lambda text: text[:1] or None, str.startswith, max_tokens=4)


def toy_target() -> xt.Target:
    return autoregressive(3, symbols=3, cap=4, proposal=True).target


@pytest.mark.parametrize("seed", range(10))
def test_a_wide_beam_finds_the_most_probable_response(seed: int) -> None:
    """Wide enough for every draft, with so many children that every token is drawn at every step."""
    target = replace(autoregressive(seed, symbols=3, cap=3).target, reward=nothing)
    law = target.engine.enumerate()  # type: ignore[attr-defined]
    found = xt.sample(target, "x", Beam(width=16, children=400, block=1)).draft
    assert found.tokens == max(law, key=law.__getitem__)


def test_a_narrow_beam_of_one_child_is_a_draw() -> None:
    target = replace(toy_target(), proposal=None)
    texts = {xt.sample(target, "x", Beam(1, 1, 2), seed=seed).text for seed in range(20)}
    assert len(texts) > 1


@pytest.mark.parametrize("seed", range(20))
def test_the_raw_chain_of_a_run_with_all_rollouts_is_that_of_the_published_ets(seed: int) -> None:
    target = replace(toy_target(), proposal=None)
    both = xt.sample(target, "x", xt.ETS(3, 1, 2), select=ets_chain, seed=seed).text
    assert both == xt.sample(target, "x", xt.ETS(3, 1, 2, returns="chain"), seed=seed).text


def test_mbr_sees_no_weights() -> None:
    drafts = [Draft("x", text=text) for text in ("a b c", "a b d", "z")]
    population = xt.Population(drafts, [-9.0, -9.0, 0.0], [0.0, 0.0, 9.0])  # type: ignore[arg-type]
    assert plain_mbr(population, xt.Key(0)).text in ("a b c", "a b d")


def first_token(prompt: str, drafts: Sequence[Draft]) -> list[float]:
    return [float(draft.tokens[0]) for draft in drafts]


def all_plans() -> list[Plan]:
    base = toy_target()
    assert base.proposal is not None
    alone = replace(base, reward=first_token, proposal=None)
    return [*unguided(base.engine, TASK, 4, 2), *guided(alone, TASK, Sizes.reckoned(4, 2.0), 2, base.proposal)]


def run_all(results: Results, task: Task) -> int:
    """Run every plan; how many problems were run in fact."""
    fresh: list[Outcome] = []
    for plan in all_plans():
        results.measure("all", plan, task, 0, concurrency=2, progress=lambda done, total, outcome: fresh.append(outcome))
    return len(fresh)


def test_every_method_has_a_plan_and_every_plan_is_run_once(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    assert run_all(Results(file), TASK) == 2 * len(all_plans())
    results = Results(file)
    assert run_all(results, TASK) == 0
    scores = results.scores("all")
    assert set(scores) == set(METHODS)
    for score in scores.values():
        assert len(score.right) == 2
        assert score.tokens > 0
    spread = results.spread("all")
    assert spread["plain sampling"] == pytest.approx(spread["majority vote"] / 4)  # one of its four samples
    lines = table({name: scores[name] for name in METHODS}, Parameters(1e6, 1e6), spread)
    assert len(lines) == 2 + len(METHODS)
    assert {line.count("|") for line in lines} == {8}  # one seed, so no column for seeds


def test_the_standard_error_of_tokens(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.json")
    results.measure("all", unguided(toy_target().engine, TASK, 4, 2)[0], TASK, 0, concurrency=2)
    (plan,) = results.groups["all"].values()
    one, other = plan["tokens"]
    assert results.scores("all")["majority vote"].tokens == pytest.approx((one + other) / 2)
    assert results.spread("all")["majority vote"] == pytest.approx(abs(one - other) / 2 / 2**0.5)
    del plan["tokens"]
    assert np.isnan(results.spread("all")["majority vote"])


def test_more_problems_replace_fewer(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.json")
    run_all(results, TASK)
    run_all(results, replace(TASK, prompts=(*TASK.prompts, "three"), references=("0", "1", "0")))
    assert {len(score.right) for score in results.scores("all").values()} == {3}


def test_other_sizes_replace_what_the_same_methods_scored(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.json")
    run_all(results, TASK)
    before = results.scores("all")
    chain = all_plans()[3]
    longer = replace(chain, sampler=xt.SuffixMCMC(12))
    results.measure("all", longer, TASK, 0, concurrency=2)
    after = results.scores("all")
    assert list(chain.selects) == ["QAlign"]
    assert len(after["QAlign"].right) == 2
    assert after["QAlign"].tokens > before["QAlign"].tokens
    assert {name: score.tokens for name, score in after.items() if name != "QAlign"} == {
        name: score.tokens for name, score in before.items() if name != "QAlign"
    }


def test_seeds_are_pooled(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.json")
    plan = unguided(toy_target().engine, TASK, 4, 2)[0]
    for seed in range(3):
        results.measure("all", plan, TASK, seed, concurrency=2)
    for score in results.scores("all").values():
        assert len(score.right) == 6
        assert len(score.seeds) == 3
        assert score.accuracy == pytest.approx(sum(score.seeds) / 3)


def test_the_true_reward_knows_the_references() -> None:
    reward = true_reward(TASK)
    assert reward("two", [Draft("two", text="1 0"), Draft("two", text="0")]) == [1.0, 0.0]
