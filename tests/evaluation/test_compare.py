"""A sampler against the baselines at equal tokens: the price is equal, pools are shared, files resume, seeds are pooled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import exptilt as xt
from exptilt.engines import TableEngine
from exptilt.evaluation.compare import compare, curve, head
from exptilt.evaluation.cost import Cost, Load, Parameters
from exptilt.evaluation.evaluate import Score
from exptilt.evaluation.tasks import Task
from exptilt.populations.utilities import PairUtility
from exptilt.testing.toys import random_table


def first(text: str) -> str | None:
    return text[:1] or None


def target(seed: int = 5, **law: float) -> xt.Target:
    engine = TableEngine(random_table(seed, 3), 4, 2, **law)  # type: ignore[arg-type]
    return xt.Target(engine, lambda prompt, drafts: [float(draft.tokens[0]) for draft in drafts], beta=0.5)


TASK = Task(
    "toy",
    tuple(f"question {number}" for number in range(30)),
    ("1",) * 30,
    first,
    lambda text, reference: text[:1] == reference,
    4,
)


def by_name(scores: tuple[Score, ...], start: str) -> Score:
    return next(score for score in scores if score.name.startswith(start))


def test_methods_cost_the_same() -> None:
    """Every method but plain sampling spends the tokens of ETS, to within half a draw."""
    comparison = compare(target(), TASK, xt.ETS(4, 2, 2))
    price = by_name(comparison.scores, "ETS").tokens
    length = by_name(comparison.scores, "plain").tokens
    names = [score.name for score in comparison.scores]
    assert names[0] == "plain sampling"
    assert names[-1] == "ETS, vote"
    assert names[1] == f"majority of {comparison.draws}"
    for score in comparison.scores[1:]:
        assert abs(score.tokens - price) < 0.6 * length + 0.1 * price  # lengths of a random model spread
    assert by_name(comparison.scores, "majority").cost.reward_calls == 0  # type: ignore[union-attr]


def test_methods_without_a_reward_do_not_see_it() -> None:
    """The vote and MBR choose the same under any reward, one that excludes drafts included, and pay for draws alone."""

    def exclusive(prompt: str, drafts: Sequence[xt.Draft]) -> list[float]:
        return [-math.inf if draft.tokens[0] == 1 else 0.0 for draft in drafts]

    one = compare(target(seed=7), TASK, xt.Independent(8))
    other = compare(replace(target(seed=7), reward=exclusive), TASK, xt.Independent(8))
    for name in ("plain", "majority of 8", "MBR of 8"):
        assert by_name(one.scores, name).right.tolist() == by_name(other.scores, name).right.tolist()
        assert by_name(one.scores, name).cost == by_name(other.scores, name).cost
    assert by_name(one.scores, "MBR").cost == by_name(one.scores, "majority").cost
    assert by_name(one.scores, "best-of").accuracy > 0
    assert by_name(other.scores, "best-of").accuracy == 0


def test_mbr_uses_the_utility_of_the_task() -> None:
    """With one that likes right texts best, MBR is right wherever a draw is; with its opposite, only where all of them are."""
    for sign, wanted in ((1, any), (-1, all)):
        task = replace(TASK, utility=PairUtility(lambda candidate, reference, sign=sign: sign * float(candidate[:1] == "1")))
        comparison = compare(target(seed=7), task, xt.Independent(2))
        firsts = [[draft.text[:1] == "1" for draft in result.population.drafts] for result in comparison.pools[0]]
        assert by_name(comparison.scores, "MBR").right.tolist() == [wanted(row) for row in firsts]
        assert 0 < by_name(comparison.scores, "MBR").accuracy < 1


def test_the_pilot_of_a_reward_is_paid_for() -> None:
    """With an agreement reward the methods that use it get fewer draws than the plain majority, at the same tokens."""
    reward = xt.rewards.Agreement(first, pilot=8)
    comparison = compare(replace(target(), reward=reward), TASK, xt.Independent(24))
    majority, best = by_name(comparison.scores, "majority"), by_name(comparison.scores, "best-of")
    assert majority.name == "majority of 24"
    assert best.name == "best-of-16"
    assert best.tokens == pytest.approx(majority.tokens, rel=0.05)


def test_seeds_are_pooled_by_problem() -> None:
    comparison = compare(target(), TASK, xt.Independent(6), seeds=(0, 1, 2))
    singles = [compare(target(), TASK, xt.Independent(6), seeds=(seed,)) for seed in (0, 1, 2)]
    for row, score in enumerate(comparison.scores):
        parts = [single.scores[row] for single in singles]
        assert score.seeds == tuple(part.accuracy for part in parts)
        assert score.right == pytest.approx(np.mean([part.right for part in parts], axis=0))
        assert score.tokens == pytest.approx(np.mean([part.tokens for part in parts]))


def test_a_stopped_comparison_goes_on(tmp_path: Path) -> None:
    """With a file cut off after ten problems and another one gone, the same call gives the same scores and files."""
    whole = compare(target(), TASK, xt.ETS(3, 1, 2), seeds=(0, 1), store=tmp_path)
    files = sorted(tmp_path.glob("*.jsonl"))
    assert [file.name.split("-")[0] for file in files] == ["ETS", "ETS", "Independent", "Independent"]
    kept = [file.read_text().splitlines() for file in files]
    files[0].write_text("\n".join(kept[0][:11]) + "\n")
    files[3].unlink()
    again = compare(target(), TASK, xt.ETS(3, 1, 2), seeds=(0, 1), store=tmp_path)
    assert files[0].read_text().splitlines()[:11] == kept[0][:11]
    assert [len(file.read_text().splitlines()) for file in files] == [1 + len(TASK)] * 4
    assert [score.right.tolist() for score in again.scores] == [score.right.tolist() for score in whole.scores]
    assert [score.cost for score in again.scores] == [score.cost for score in whole.scores]
    with pytest.raises(xt.StoreError, match="temperature"):
        compare(target(temperature=0.5), TASK, xt.ETS(3, 1, 2), store=tmp_path)


def test_a_stop_rule_ends_the_compared_sampler_alone(tmp_path: Path) -> None:
    """`eval` had no stop rules: what first success costs could not be set against best-of-n. The pool is not stopped, since a
    draw too many or too few would make it a selection."""
    sampler, rule = xt.Independent(16, batch=1), xt.until.reward(2.0)
    comparison = compare(target(), TASK, sampler, until=rule, store=tmp_path)
    stopped = xt.run(target(), TASK.prompts, sampler, until=rule)
    assert {result.stopped for result in stopped if isinstance(result, xt.Result)} == {"until"}
    spent = float(np.mean([result.usage.tokens for result in stopped if isinstance(result, xt.Result)]))
    guided = comparison.scores[-3:]
    assert [score.name for score in guided] == [f"Independent until, {select}" for select in ("draw", "vote", "best")]
    assert all(score.tokens == pytest.approx(spent) for score in guided)
    assert {len(result.population) for result in comparison.pools[0]} == {comparison.draws}
    assert comparison.draws < 16
    picked = [xt.best(result.population, xt.Key(0)).text for result in stopped if isinstance(result, xt.Result)]
    assert guided[-1].right.tolist() == [float(text[:1] == "1") for text in picked]


def test_results_of_a_stop_rule_have_a_file_of_their_own(tmp_path: Path) -> None:
    """One file for both would be refused as that of other settings, or worse, resumed."""
    sampler = xt.Rejection(1, 64, 2.0)
    with_rule = compare(target(), TASK, sampler, until=xt.until.reward(2.0), store=tmp_path)
    compare(target(), TASK, sampler, store=tmp_path)
    assert len([*tmp_path.glob("Rejection-*.jsonl")]) == 2
    again = compare(target(), TASK, sampler, until=xt.until.reward(2.0), store=tmp_path)
    assert [score.right.tolist() for score in again.scores] == [score.right.tolist() for score in with_rule.scores]


def test_distinct_weights_are_not_taken_for_the_pool() -> None:
    """Independent(6, weights="distinct") was the pool itself: its weights were never used, and six plain draws were shown."""
    comparison = compare(target(), TASK, xt.Independent(6, weights="distinct"))
    assert [score.name for score in comparison.scores[-3:]] == [f"Independent, {select}" for select in ("draw", "vote", "best")]
    ((_, voted, _), pool) = comparison.scores[-3:], comparison.pools[0]
    direct = xt.run(target(), TASK.prompts, xt.Independent(6, weights="distinct"), select=xt.vote(first))
    assert voted.right.tolist() == [float(result.text[:1] == "1") for result in direct if isinstance(result, xt.Result)]
    assert all(len(result.population) == comparison.draws for result in pool)


def test_the_curve_ends_where_the_scores_are() -> None:
    """At k = n there is one subset, so the curve must give the accuracy of the methods themselves, up to ties."""
    comparison = compare(target(), TASK, xt.Independent(8))
    points = curve(comparison, TASK)
    assert [point.k for point in points] == [1, 2, 4, 8]
    assert points[0].majority == pytest.approx(points[0].passed)
    assert points[0].passed == pytest.approx(by_name(comparison.scores, "plain").accuracy)
    assert points[-1].weighted == pytest.approx(by_name(comparison.scores, "weighted").accuracy)
    assert points[-1].best == pytest.approx(by_name(comparison.scores, "best-of").accuracy)
    assert [point.passed for point in points] == sorted(point.passed for point in points)
    assert points[-1].tokens == pytest.approx(by_name(comparison.scores, "majority").tokens)


def test_baselines_do_not_draw_from_the_proposal() -> None:
    proposal = TableEngine(random_table(6, 3), 4, 2)
    comparison = compare(replace(target(), proposal=proposal), TASK, xt.ETS(4, 2, 2))
    assert by_name(comparison.scores, "majority").cost.proposal == Load()  # type: ignore[union-attr]
    assert by_name(comparison.scores, "ETS").cost.proposal.generated > 0  # type: ignore[union-attr]


def test_head_keeps_log_z_unbiased() -> None:
    """The first m of n draws weigh 1/m each: log Ẑ of the head is that of a run of m."""
    result = xt.sample(target(), "question", xt.Independent(8), seed=1)
    alone = xt.sample(target(), "question", xt.Independent(3), seed=1)
    assert head(result.population, 3).log_z == pytest.approx(alone.log_z)
    excluded = xt.Population(result.population.drafts, np.array([-math.inf] * 7 + [0.0]), result.population.rewards)
    assert not head(excluded, 3).proper


def test_flops_are_two_per_parameter_and_token() -> None:
    cost = Cost(Load(10, 20, 5, 25), Load(0, 7, 0, 7), reward_calls=2, rated=4, reward_tokens=80)
    assert cost.flops(Parameters(1e6, 1e3, 10)) == (2e6 * 35, 2e3 * 7, 2 * 10 * 80)
    assert cost.tokens == 32
    assert cost.forwards == 32
    assert cost.share(0.5) == Cost(Load(10, 10, 2.5, 12.5), Load(0, 3.5, 0, 3.5), 1, 2, 40)
    assert cost.draws_alone(40) == Cost(Load(10, 40, 0, 50))
