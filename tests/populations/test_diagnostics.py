"""Diagnostics against known laws, values of an independent implementation, and populations that deserve a warning."""

from __future__ import annotations

import math

import numpy as np
import pytest

from exptilt.draft import Draft
from exptilt.keys import Key
from exptilt.populations.diagnostics import chi_square, log_sum, log_z_error, pareto_k, r_hat
from exptilt.populations.population import Population
from exptilt.populations.warnings import warnings
from exptilt.samplers.trace import Generation, Generations, Step, Tree


def population(log_w, **fields) -> Population:
    log_w = np.asarray(log_w, dtype=np.float64)
    return Population([Draft("x", (i,), None, str(i), "stop") for i in range(len(log_w))], log_w, log_w, **fields)


# ------------------------------------------------------------------------------------------------------ weight tails


@pytest.mark.parametrize("shape", [0.2, 0.5, 0.9])
def test_pareto_k_finds_the_shape_of_pareto_weights(shape):
    """What exceeds a threshold of a generalised Pareto law has the same shape; the prior adds 10 values of 1/2 to M=300."""
    rng = Key(1, "pareto", str(shape)).rng()
    found = [pareto_k(np.log(((1 - rng.random(10_000)) ** -shape - 1) / shape)) for _ in range(60)]
    expected = (300 * shape + 10 * 0.5) / 310
    assert abs(np.mean(found) - expected) < 5 * np.std(found, ddof=1) / math.sqrt(60)
    assert np.std(found, ddof=1) / math.sqrt(60) < 0.03


@pytest.mark.parametrize(
    ("scale", "count", "expected"),
    [(0.8, 400, 0.7378791023306147), (0.3, 100, 0.3772698681657965), (2.0, 5000, 1.9036662852720143)],
)
def test_pareto_k_agrees_with_arviz_stats(scale, count, expected):
    """Values of arviz-stats 0.8.0 `psislw` on log-weights -scale·log(1 - (i + 1/2)/n)."""
    log_w = -scale * np.log1p(-(np.arange(count) + 0.5) / count)
    assert pareto_k(log_w) == pytest.approx(expected, abs=1e-9)


def test_pareto_k_ignores_scale_order_and_excluded_drafts_below_the_tail():
    log_w = Key(2, "normal").rng().normal(size=400)
    value = pareto_k(log_w)
    assert pareto_k(log_w[::-1] + 1e4) == pytest.approx(value, abs=1e-6)
    excluded = np.where(log_w < np.median(log_w), -math.inf, log_w)
    assert pareto_k(excluded) == value


def test_pareto_k_where_there_is_no_tail_to_fit():
    assert pareto_k(np.zeros(100)) == -math.inf
    assert pareto_k([3.0]) == -math.inf
    assert pareto_k([0.0] * 50 + [1.0] * 50) == -math.inf  # the threshold is the top itself
    assert pareto_k([0.0] * 97 + [1.0] * 3) == math.inf
    assert pareto_k(np.arange(24.0)) == math.inf
    assert math.isfinite(pareto_k(np.arange(25.0)))
    assert pareto_k([-math.inf] * 100 + [0.0]) == math.inf


def test_pareto_k_is_finite_and_low_for_two_levels_and_high_for_extreme_tails():
    assert pareto_k([0.0] * 180 + [5.0] * 20) < 0
    assert pareto_k([0.0] * 80 + [5.0] * 22) < 0.5
    assert pareto_k(np.linspace(-1e6, 0.0, 500)) == math.inf
    assert 0.7 < pareto_k(np.linspace(-1e4, 0.0, 500)) < math.inf


@pytest.mark.parametrize("log_w", [[], [math.nan, 0.0], [math.inf, 0.0]])
def test_pareto_k_refuses_what_are_not_weights(log_w):
    with pytest.raises(ValueError, match="give at least one"):
        pareto_k(log_w)


def test_log_sum():
    assert log_sum(np.log([1.0, 2.0, 3.0]) + 1000) == pytest.approx(math.log(6) + 1000)
    assert log_sum(np.array([])) == log_sum(np.array([-math.inf])) == -math.inf


def test_chi_square():
    assert chi_square(25.0, 100) == 3.0
    assert chi_square(100 * (1 + 1e-12), 100) == 0.0
    with pytest.raises(ValueError, match="between 1 and n"):
        chi_square(101.0, 100)


def test_log_z_error_by_hand_and_by_replication():
    """Ẑ of 1 and 3: mean 2, standard error 1, so the log is sure to 1/2. Then: 400 groups of 50 log-normal runs."""
    assert log_z_error([math.log(1), math.log(3)]) == pytest.approx(0.5)
    assert log_z_error([1000 + math.log(1), 1000 + math.log(3)]) == pytest.approx(0.5)
    assert log_z_error([-math.inf, 0.0]) == pytest.approx(1.0)  # Ẑ of 0 and 1: mean 1/2, standard error 1/2
    runs = Key(3, "log z").rng().normal(scale=0.5, size=(400, 50))
    log_means = [log_sum(row) - math.log(50) for row in runs]
    told = np.sqrt(np.mean([log_z_error(row) ** 2 for row in runs]))
    assert abs(np.std(log_means, ddof=1) / told - 1) < 5 / math.sqrt(2 * 400)
    for values in ([0.0], [-math.inf, -math.inf]):
        with pytest.raises(ValueError, match="two runs or more"):
            log_z_error(values)


# ------------------------------------------------------------------------------------------------------ Markov chains


def waves() -> np.ndarray:
    """Four chains of 51 steps: a wave each, the last shifted."""
    steps = np.arange(51)
    return np.array([np.sin(steps * (1 + 0.3 * chain)) + (0.8 if chain == 3 else 0.0) for chain in range(4)])


def test_r_hat_agrees_with_arviz_stats():
    """Values of arviz-stats 0.8.0 `rhat`, method "rank": location, scale, and ties."""
    assert r_hat(waves()) == pytest.approx(1.1125051971272628, abs=1e-9)
    assert r_hat(waves() * np.array([[1], [1], [1], [6]])) == pytest.approx(1.24953990625093, abs=1e-9)
    assert r_hat(waves().round()) == pytest.approx(1.1088084014074615, abs=1e-9)


def test_r_hat_where_nothing_or_everything_is_told():
    assert r_hat(np.arange(12.0).reshape(4, 3)) is None
    assert r_hat([[1.0, 2.0, 3.0]]) is None
    assert r_hat(np.full((4, 100), 2.0)) is None
    assert r_hat([[-math.inf] * 8]) is None
    assert r_hat([[0.0] * 8, [1.0] * 8]) == math.inf
    with pytest.raises(ValueError, match="without NaN"):
        r_hat([[0.0, math.nan, 1.0, 2.0]])


def test_r_hat_takes_an_excluded_state_for_the_lowest():
    start = [[-math.inf, 1.0, 2.0, 1.5, 1.2, 1.8, 1.1, 1.9]]
    assert r_hat(start) == r_hat([[0.0, *start[0][1:]]])


# ------------------------------------------------------------------------------------------------------ in plain words


def test_no_warning_where_all_is_well():
    assert warnings(population(Key(4, "flat").rng().normal(scale=0.3, size=200)), 1.0) == []
    even = [Draft("x", (token,)) for token in range(8)]
    assert warnings(Population(even, np.zeros(8), np.arange(8.0)), 1.0) == []
    assert warnings(population([0.0]), 1.0) == []
    assert warnings(Population.unweighted([Draft("x")], [0.0], {"acceptance": 0.4, "r_hat": 1.01}), 1.0) == []


def test_weight_warnings_name_the_number_and_the_cure():
    found = warnings(population(np.concatenate([[8.0], Key(5, "few").rng().normal(size=99)])), 0.25)
    assert [sentence.split(" ")[0] for sentence in found] == ["The", "One", "The"]
    assert "effective sample size is 1." in found[0]
    assert "of 100 drafts" in found[0]
    assert "% of the weight" in found[1]
    assert "k̂ = " in found[2]
    assert "limit 0.50" in found[2]
    assert all(sentence.endswith("raise beta=0.25.") for sentence in found)
    # Weights of few values have no tail to fit, which is not a reason for alarm.
    assert warnings(population([0.0] * 195 + [2.0] * 3 + [1.0]), 1.0) == []


def test_excluded_shares_are_told():
    """A run whose reward excludes nine drafts of ten looked like any other with one draft of ten."""
    drafts = [Draft("x", (token,)) for token in range(40)]
    rewards = np.where(np.arange(40) < 12, np.arange(40.0) / 100, -math.inf)
    few = Population(drafts, rewards, rewards)
    assert few.excluded == 0.7
    assert warnings(few, 1.0)[0].startswith("70% of the 40 drafts have weight zero (the reward excludes them)")
    half = np.where(np.arange(40) < 20, np.arange(40.0) / 100, -math.inf)
    assert warnings(Population(drafts, half, half), 1.0) == []
    chain = Population.unweighted(drafts, rewards, held=rewards > -math.inf)
    assert "have weight zero" in warnings(chain, 1.0)[0]


def test_energies_that_are_all_alike_are_told():
    """Guidance by a reward that says the same of every partial draft costs rollouts and gains nothing, in silence."""
    drafts, rewards = [Draft("x", (token,)) for token in range(20)], np.arange(20.0) / 100

    def found(trace):
        return [sentence for sentence in warnings(Population(drafts, rewards, rewards, trace=trace), 1.0) if "equal" in sentence]

    flat, steep, dead = (1.0, 1.0 + 1e-12, 1.0), (0.0, 1.0, 2.0), (-math.inf,) * 3
    for energies, share in (([flat, dead, steep], 2 / 3), ([flat, steep], 0.5), ([(1.0,)], None), ([], None)):
        tree = Tree(tuple(Step(("a",) * len(each), each, 0, 0.0) for each in energies))
        assert tree.alike == (None if share is None else pytest.approx(share))
        assert bool(found(tree)) == (share is not None and share > 0.5)
    particles = Generations(tuple(Generation(("a",) * 3, (0, 1, 2), each, each) for each in (flat, steep)))
    assert particles.alike == 1.0  # the last generation is not resampled
    assert found(particles)[0].startswith("At 100% of the steps all energies were equal or nearly so")
    assert "lower beta=1," in found(particles)[0]
    same = Population(drafts, rewards, np.zeros(20), trace=particles)
    assert [sentence.split(" ")[0] for sentence in warnings(same, 1.0)] == ["All"]  # said once


@pytest.mark.parametrize(("energies", "alike"), [((1.0, 1.05, 0.97), 1.0), ((1.0, 1.3, 0.9), 0.0), ((1.0, 1.0, 0.0), 0.0)])
def test_energies_that_are_nearly_alike_are_told(energies: tuple[float, ...], alike: float):
    """A reward of many values never gives two candidates quite the same energy: a collapse of energies was not seen."""
    logs = tuple(math.log(each) if each else -math.inf for each in energies)
    tree = Tree((Step(("a",) * 3, logs, 0, 0.0),))
    particles = Generations((Generation(("a",) * 3, (0, 1, 2), logs, logs),) * 2)
    assert (tree.alike, particles.alike) == (alike, alike)


def test_few_effective_candidates_are_told_where_one_draft_answers():
    """The least of the steps decides: (Σ Ê)²/Σ Ê² of energies 1, 1, 2 is 16/6, and of 1 and 3 it is 1.6."""
    wide, narrow = tuple(np.log([1.0, 1.0, 2.0])), (math.log(1.0), math.log(3.0), -math.inf)

    def tree(*energies):
        return Tree(tuple(Step(("a",) * len(each), each, 0, 0.0) for each in energies))

    assert tree(wide).effective == pytest.approx(16 / 6)
    assert tree(wide, narrow).effective == pytest.approx(1.6)
    assert tree((5.0,), (-math.inf,) * 2).effective is None
    one, two = [Draft("x", (0,))], [Draft("x", (0,)), Draft("x", (1,))]
    assert warnings(Population(one, np.zeros(1), np.zeros(1), trace=tree(wide)), 1.0) == []
    told = warnings(Population(one, np.zeros(1), np.zeros(1), trace=tree(wide, narrow)), 0.5)
    assert told[0].startswith("At one step only 1.6 candidates counted")
    assert not any("counted" in each for each in warnings(Population(two, np.zeros(2), np.arange(2.0), trace=tree(narrow)), 1.0))


def test_chain_warnings():
    stuck = Population.unweighted([Draft("x")] * 2, [0.0, 1.0], {"acceptance": 0.01, "r_hat": 1.3})
    found = warnings(stuck, 0.5)
    assert "accepted 1.0% of its moves" in found[0]
    assert "R̂ is 1.30" in found[1]
    assert all("raise beta=0.5" in sentence for sentence in found)
    assert warnings(Population.unweighted([Draft("x")] * 2, [0.0, 1.0], {"r_hat": None}), 0.5) == []


def test_warnings_refuse_a_beta_that_is_none():
    with pytest.raises(ValueError, match="beta=0"):
        warnings(population(np.zeros(3)), 0.0)


def test_a_reward_that_tells_nothing_apart_is_pointed_out():
    """A rule that no draft satisfies leaves weights perfectly even: every other diagnostic looks at its best."""
    drafts = [Draft("x", (token,)) for token in range(20)]
    flat = Population(drafts, np.full(20, -math.log(20)), np.zeros(20))
    assert [sentence[:39] for sentence in warnings(flat, 0.1)] == ["All 20 drafts have the reward 0, so it "]
    told = Population(drafts, np.full(20, -math.log(20)), np.eye(20)[0] * 1e-9)
    assert not warnings(told, 0.1)
