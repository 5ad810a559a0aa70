"""Stop rules: when each is met, and the runs that they end."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import exptilt as xt
from exptilt.draft import Draft
from exptilt.errors import TargetError
from exptilt.populations.leading import leads
from exptilt.populations.population import Population
from exptilt.testing.toys import autoregressive

TARGET = autoregressive(3, symbols=3, cap=4).target


def population(*rows: tuple[str, float, float]) -> Population:
    """(text, weight, reward) of each draft."""
    drafts = [Draft("x", (number,), (-1.0,), text, "stop") for number, (text, _, _) in enumerate(rows)]
    with np.errstate(divide="ignore"):
        return Population(drafts, np.log([weight for _, weight, _ in rows]), np.array([reward for *_, reward in rows]))


def test_a_lead_is_that_of_a_beta_law() -> None:
    """For whole numbers P(θ > 1/2) = P(Binomial(a + b + 1, 1/2) ≤ a)."""
    for first in range(12):
        for second in range(9):
            trials = first + second + 1
            exact = sum(math.comb(trials, hits) for hits in range(first + 1)) / 2**trials
            assert leads(first, second) == pytest.approx(exact, abs=1e-6)
    assert leads(3000.0, 2900.5) == pytest.approx(0.9024, abs=1e-3)  # Φ(99.5/√5900.5), by the normal law
    assert leads(1e7, 1.0) == 1.0


def test_sure_counts_weights_and_not_heads() -> None:
    rule = xt.until.sure(xt.answers.number, 0.95)
    assert not rule(population(*[("7", 1.0, 0.0)] * 3))
    assert rule(population(*[("7", 1.0, 0.0)] * 4))
    assert not rule(population(("7", 1.0, 0.0), *[("7", 1e-9, 0.0)] * 9))  # the effective sample size is one
    assert not rule(population(*[("7", 1.0, 0.0)] * 6, *[("8", 1.0, 0.0)] * 5))
    assert rule(population(*[("7", 1.0, 0.0)] * 6, *[("8", 1e-12, 0.0)] * 5))
    assert not rule(population(*[("no number", 1.0, 0.0)] * 9))
    with pytest.raises(TargetError, match="reads text"):
        rule(Population([Draft("x", (1,), output=np.zeros(2), finish="stop")], np.zeros(1), np.zeros(1)))


def test_a_reward_counts_where_its_draft_has_a_weight() -> None:
    rule = xt.until.reward(1.0)
    assert rule(population(("a", 1.0, 0.5), ("b", 1e-9, 1.0)))
    assert not rule(population(("a", 1.0, 0.5), ("b", 0.0, 1.0)))


def test_certain_is_what_the_certificate_proves() -> None:
    rule = xt.until.certain(xt.answers.exact, beta=1.0, reward_max=0.0)
    likely = Draft("x", (1,), (math.log(0.9),), "yes", "stop")
    rare = Draft("x", (2,), (math.log(0.01),), "no", "stop")
    assert rule(Population([likely, rare], np.zeros(2), np.zeros(2)))
    assert not rule(Population([rare], np.zeros(1), np.zeros(1)))


@pytest.mark.parametrize("least", [2.0, 5.5])
def test_a_run_ends_at_the_first_population_that_meets_the_rule(least: float) -> None:
    result = xt.sample(TARGET, "x", xt.Independent(200, batch=1), until=xt.until.ess(least))
    assert result.stopped == "until"
    assert str(result.limit).startswith(f"effective sample size {least:g} reached: ")
    sizes = [entry["ess"] for entry in result.trace]
    assert sizes[-1] >= least
    assert max(sizes[:-1]) < least


def test_a_rule_is_described_in_a_results_file_without_addresses(tmp_path: Any) -> None:
    store, sampler = tmp_path / "a.jsonl", xt.Independent(50, batch=2)
    for _ in range(2):
        (result,) = xt.run(TARGET, ["x"], sampler, until=xt.until.sure(xt.answers.number), store=store)
        assert isinstance(result, xt.Result)
        assert str(result.limit).startswith("sure at 0.95: ")
    assert " at 0x" not in store.read_text()
    with pytest.raises(xt.StoreError, match=r"until\.level"):
        xt.run(TARGET, ["x"], sampler, until=xt.until.sure(xt.answers.number, 0.99), store=store)


def test_senseless_rules_are_refused() -> None:
    for make in (
        lambda: xt.until.sure(xt.answers.number, 0.5),
        lambda: xt.until.sure(xt.answers.number, 1.0),
        lambda: xt.until.reward(math.nan),
        lambda: xt.until.ess(0.5),
    ):
        with pytest.raises(ValueError, match="until"):
            make()
