"""What k of n samples would have achieved: exact against all subsets, unbiased against fresh draws."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from exptilt.draft import Draft
from exptilt.evaluation.pools import best_at_k, pass_at_k, vote_at_k
from exptilt.keys import Key
from exptilt.populations.population import Population
from exptilt.populations.select import best, vote

RIGHT = [1, 0, 0, 1, 0, 0]
REWARDS = [0.2, 0.9, 0.5, 0.7, 0.1, 0.3]
ANSWERS = ["7", "5", "5", "7", None, "6"]


def population(rows: tuple[int, ...]) -> Population:
    drafts = [Draft("q", (row,), None, str(ANSWERS[row]), "stop") for row in rows]
    rewards = np.array([REWARDS[row] for row in rows])
    return Population(drafts, rewards - np.log(len(rows)), rewards)


@pytest.mark.parametrize("k", range(1, 7))
def test_pass_and_best_are_means_over_all_subsets(k: int) -> None:
    """best@k is what the select `best` gives on each subset; pass@k whether any sample of it is right."""
    subsets = list(combinations(range(6), k))
    assert pass_at_k(RIGHT, k) == pytest.approx(np.mean([any(RIGHT[row] for row in rows) for rows in subsets]))
    picked = [RIGHT[best(population(rows), Key(0)).tokens[0]] for rows in subsets]
    assert best_at_k(RIGHT, REWARDS, k) == pytest.approx(np.mean(picked))


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("k", [1, 3, 6])
def test_votes_are_means_of_the_select(k: int, weighted: bool) -> None:
    """maj@k against the select `vote` on every subset; ties are decided by a key there, so over many keys."""
    select = vote(lambda text: None if text == "None" else text, weighted=weighted)
    weights = np.exp(REWARDS) if weighted else None
    found = []
    for rows in combinations(range(6), k):
        found += [RIGHT[select(population(rows), Key(key, "tie")).tokens[0]] for key in range(200)]
    slack = 5 * np.std(found) / np.sqrt(200)  # the keys of one subset are independent, and only ties need them
    assert vote_at_k(ANSWERS, RIGHT, k, weights=weights, subsets=1000) == pytest.approx(np.mean(found), abs=slack + 1e-12)


def test_equal_rewards_are_as_likely_as_each_other() -> None:
    assert best_at_k([1, 0, 0, 0], [1.0, 1.0, 0.0, 0.0], 4) == pytest.approx(0.5)
    assert best_at_k([1, 0], [-np.inf, -np.inf], 1) == pytest.approx(0.5)


def test_pass_at_k_is_unbiased() -> None:
    """The estimate from 12 samples, averaged over pools, is 1 - (1 - p)^k; with c/n put into that formula it is not."""
    generator, p, k = Key(3, "pools").rng(), 0.2, 4
    pools = (generator.random((4000, 12)) < p).astype(float)
    estimates = np.array([pass_at_k(pool, k) for pool in pools])
    truth, error = 1 - (1 - p) ** k, estimates.std() / np.sqrt(len(estimates))
    assert abs(estimates.mean() - truth) < 5 * error
    assert abs(np.mean(1 - (1 - pools.mean(axis=1)) ** k) - truth) > 5 * error


def test_many_subsets_are_drawn_at_random() -> None:
    """Of C(40, 10) subsets 200 are averaged over: half the samples right, all answers different, so half the votes are."""
    right = [row % 2 for row in range(40)]
    drawn = vote_at_k([str(row) for row in range(40)], right, 10, subsets=200)
    # Each subset's winner is right with its share of right samples, whose variance is that of a hypergeometric draw.
    assert abs(drawn - 0.5) < 5 * np.sqrt(0.25 / 10 * (30 / 39) / 200)


def test_votes_without_answers_or_weight() -> None:
    assert vote_at_k([None, None], [1, 0], 2) == pytest.approx(0.5)
    assert vote_at_k(["1", "2"], [1, 0], 2, weights=[0.0, 1.0]) == 0.0
    assert vote_at_k(["1", "2"], [1, 0], 2, weights=[0.0, 0.0]) == pytest.approx(0.5)


@pytest.mark.parametrize("k", [0, 4])
def test_k_must_lie_within_the_pool(k: int) -> None:
    with pytest.raises(ValueError, match="from 1 to 3"):
        pass_at_k([1, 0, 0], k)
