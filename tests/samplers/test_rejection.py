"""Rejection: exact draws, and weights that a stop at a success does not bias."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from exptilt.draft import Draft
from exptilt.errors import AllWeightsZero, RewardError, TargetError
from exptilt.keys import Key
from exptilt.samplers import Metropolised
from exptilt.samplers.lattice import Rule, first_share, log_weight
from exptilt.samplers.rejection import Rejection
from exptilt.testing import autoregressive, check_sampler, constrained, distance, draw_law, expected_weights, masked
from exptilt.testing.toys import Toy

CHANCES = [0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.75, 0.9, 0.98]


def top(toy: Toy) -> float:
    """The highest reward of a response."""
    drafts = [Draft("x", tokens, None, "", "stop") for tokens in toy.gamma]
    return float(toy.target.rate("x", drafts).max())


# ------------------------------------------------------------------------------------------------------------ lattice


def rules() -> dict[str, Rule]:
    """40 rules of every kind, and one that does not look: successes, failures, batches, shares, mixtures; all end by 24 draws."""
    found: dict[str, Rule] = {}

    def add(name: str, ends: Callable[[int, int], bool]) -> None:
        found[name] = lambda drawn, accepted: drawn == 24 or ends(drawn, accepted)

    for count in (2, 3, 4, 5, 6):
        add(f"{count} accepted", lambda t, k, n=count: k >= n)
        add(f"{count} rejected", lambda t, k, n=count: t - k >= n)
        for batch in (2, 3, 5):
            add(f"{count} accepted, batches of {batch}", lambda t, k, n=count, b=batch: k >= n and t % b == 0)
    for lead in (2, 3, 4):
        add(f"accepted lead by {lead}", lambda t, k, n=lead: 2 * k - t >= n)
        add(f"either leads by {lead}", lambda t, k, n=lead: abs(2 * k - t) >= n)
    for share in (0.5, 0.6, 0.75, 0.9):
        add(f"a share of {share} of six or more", lambda t, k, s=share: t >= 6 and k / t >= s)
    for most in (7, 12):
        add(f"two accepted after {most}", lambda t, k, n=most: t >= n and k >= 2)
    add("one accepted after three", lambda t, k: t >= 3 and k >= 1)
    add("an odd number accepted after five", lambda t, k: t > 5 and k % 2 == 1)
    add("two in the first four, or six", lambda t, k: (t == 4 and k >= 2) or k >= 6)
    add("never before the cap", lambda t, k: False)
    return found


def ends(rule: Rule, chance: float) -> dict[tuple[int, int], float]:
    """The probability of each end of a run, each draw accepted with the same chance."""
    alive, found = {(0, 0): 1.0}, {}
    for _ in range(24):
        grown: dict[tuple[int, int], float] = {}
        for (drawn, accepted), mass in alive.items():
            for step, share in ((1, chance), (0, 1 - chance)):
                point = (drawn + 1, accepted + step)
                grown[point] = grown.get(point, 0.0) + mass * share
        found |= {point: mass for point, mass in grown.items() if rule(*point)}
        alive = {point: mass for point, mass in grown.items() if not rule(*point)}
    assert not alive
    return found


@pytest.mark.parametrize("name", rules())
def test_no_rule_on_counts_biases_the_estimate(name: str) -> None:
    """The mean of N*/N over all ends of a run is the chance of acceptance; the plain share k/T is caught being off."""
    rule = rules()[name]
    naive = []
    for chance in CHANCES:
        found = ends(rule, chance)
        assert sum(found.values()) == pytest.approx(1.0, abs=1e-12)
        assert sum(mass * first_share(rule, *end) for end, mass in found.items()) == pytest.approx(chance, abs=1e-12)
        naive.append(sum(mass * k / t for (t, k), mass in found.items()) - chance)
    assert (max(map(abs, naive)) > 1e-4) == (name != "never before the cap")


def test_there_are_forty_rules() -> None:
    assert len(rules()) >= 41


@pytest.mark.parametrize("seed", range(10))
def test_ten_targets_under_forty_rules(seed: int) -> None:
    """Z by the weights of Rejection is exact under each rule; by the plain share of accepted draws it is off under each.

    The ends of a run are enumerated, so that a bias counts however small: 1e-7 where successes are as good as certain, a quarter
    of Z where they are rare. Only the rule that never looks is unbiased either way.
    """
    toy = autoregressive(seed)
    log_top = top(toy) / toy.target.beta
    for name, rule in rules().items():
        found = ends(rule, toy.z / math.exp(log_top))
        weighed = [mass * k * math.exp(log_weight(rule, t, k, log_top)) for (t, k), mass in found.items() if k]
        assert sum(weighed) == pytest.approx(toy.z, rel=1e-11), name
        plain = math.exp(log_top) * sum(mass * k / t for (t, k), mass in found.items())
        assert (abs(plain / toy.z - 1) > 1e-8) == (name != "never before the cap"), name


def test_closed_forms() -> None:
    """The k-th acceptance gives (k-1)/(k(T-1)); a cap at N draws without it 1/N; both of them one such weight for each."""
    rule: Rule = lambda drawn, accepted: accepted == 3 or drawn == 50  # noqa: E731
    assert math.exp(log_weight(rule, 20, 3, 0.0)) == pytest.approx(2 / (3 * 19))
    assert math.exp(log_weight(rule, 50, 2, 0.0)) == pytest.approx(1 / 50)
    assert log_weight(rule, 20, 3, 1.5) - log_weight(rule, 20, 3, 0.0) == pytest.approx(1.5)


def test_long_runs_stay_finite() -> None:
    """Counts of paths grow like 2^T."""
    rule: Rule = lambda drawn, accepted: accepted == 700 or drawn == 4000  # noqa: E731
    assert first_share(rule, 1500, 700) == pytest.approx(699 / 1499)


def test_ends_that_cannot_be_are_refused() -> None:
    rule: Rule = lambda drawn, accepted: accepted >= 1 or drawn == 5  # noqa: E731
    with pytest.raises(ValueError, match="does not end at 0 accepted of 2 drawn"):
        first_share(rule, 2, 0)
    with pytest.raises(ValueError, match="no run ends with 3 accepted of 4 drawn"):
        first_share(rule, 4, 3)


# ------------------------------------------------------------------------------------------------------------ sampler


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("draws", "limit", "batch"), [(2, 3, 1), (3, 4, 1), (2, 4, 2), (2, 4, 3)])
def test_weights_by_enumeration(seed: int, draws: int, limit: int, batch: int) -> None:
    toy = autoregressive(seed, cap=2) if seed % 2 else masked(seed, length=2, order="left")
    sampler = Rejection(draws, limit, top(toy) + 0.2, batch)
    assert distance(expected_weights(sampler, toy.target), toy.gamma) < 1e-9


def test_weights_by_enumeration_under_a_hard_constraint() -> None:
    toy = constrained(autoregressive(3, cap=2), lambda tokens: tokens[-1] == 0)
    assert distance(expected_weights(Rejection(2, 4, 3.0), toy.target), toy.gamma) < 1e-9


@pytest.mark.parametrize("draws", [1, 2])
def test_what_is_handed_out_is_an_exact_draw(draws: int) -> None:
    """Given that anything was accepted, a draft drawn from the population has the law π itself."""
    toy = autoregressive(4, cap=2)
    found = draw_law(Rejection(draws, 3, top(toy)), toy.target)
    mass = sum(found.values())
    assert distance({name: value / mass for name, value in found.items()}, toy.pi) < 1e-9


def test_the_contract() -> None:
    assert check_sampler(Rejection(2, 3, 4.0)) == 5  # proposals are refused


def test_one_accepted_draft_makes_no_estimate() -> None:
    toy = autoregressive(4)
    *_, population = Rejection(1, 500, top(toy))(toy.target, "x", Key(0))
    assert (len(population), population.log_z) == (1, None)
    with pytest.raises(TargetError, match="gives no estimate of Z"):
        list(Metropolised(Rejection(1, 500, top(toy)), 2)(toy.target, "x", Key(0)))


def test_populations_before_the_end_are_exact_draws_without_an_estimate() -> None:
    toy = autoregressive(4)
    *before, last = Rejection(40, 4000, top(toy), batch=8)(toy.target, "x", Key(0))
    assert len(before) > 3
    assert all(population.log_z is None for population in before)
    assert len(last) >= 40
    assert last.log_z == pytest.approx(math.log(toy.z), abs=1.0)
    assert np.ptp(last.log_w) == 0


def test_a_reward_above_the_bound_is_an_error() -> None:
    toy = autoregressive(4)
    with pytest.raises(RewardError, match="is above reward_max=-9"):
        list(Rejection(2, 50, -9.0)(toy.target, "x", Key(0)))


def test_nothing_accepted() -> None:
    toy = autoregressive(4)
    with pytest.raises(AllWeightsZero, match="none of 6 draws was accepted"):
        list(Rejection(2, 6, 500.0)(toy.target, "x", Key(0)))


def test_a_proposal_is_refused() -> None:
    toy = autoregressive(4, proposal=True)
    with pytest.raises(TargetError, match="takes no proposal"):
        Rejection(2, 6, 1.0).needs(toy.target)
    assert Rejection(2, 6, 1.0).needs(replace(toy.target, proposal=None)) == frozenset()


@pytest.mark.parametrize("wrong", [(0, 5, 1.0), (1, 0, 1.0), (1, 5, math.inf), (1, 5, math.nan)])
def test_what_cannot_be_is_refused(wrong: tuple[int, int, float]) -> None:
    with pytest.raises(ValueError, match="Rejection"):
        Rejection(*wrong)
