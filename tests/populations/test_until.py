"""Stop rules: what each is true of, what it refuses, what stopping does to a result, and the bias that it would have."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import exptilt as xt
from exptilt.core import Target
from exptilt.draft import Draft
from exptilt.errors import SelectError, TargetError
from exptilt.populations.leading import independent_draws, leads
from exptilt.populations.population import Population
from exptilt.running.request import Job, Request
from exptilt.testing.toys import autoregressive, reward_of
from tests.pages import run_page


def population(texts: str, log_w: list[float] | None = None, rewards: list[float] | None = None) -> Population:
    """A draft for each letter; "." has no answer."""
    drafts = [Draft("x", (ord(text),), (-1.0,), text, "stop") for text in texts]
    return Population(drafts, np.array(log_w or [0.0] * len(texts)), np.array(rewards or [0.0] * len(texts)))


def letter(text: str) -> str | None:
    return None if text == "." else text


def late(population: Population) -> bool:
    return len(population) >= 4


# ------------------------------------------------------------------------------------------------------------ rules


def test_a_reward_is_reached_by_drafts_that_have_a_weight() -> None:
    """A draft that was excluded, or that distinct weights do not hold, is not a success."""
    assert xt.until.reward(1.0)(population("ab", rewards=[0.0, 1.0]))
    assert not xt.until.reward(1.0)(population("ab", [0.0, -math.inf], [0.9, 1.0]))
    assert xt.until.reward(1.0).why(population("ab", rewards=[0.0, 1.5])) == "reward 1 reached: a draft has 1.5"


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (4, 0), (5, 2), (7, 7), (40, 30), (1000, 0), (900, 850)])
def test_the_probability_of_the_lead_is_the_beta_integral(first: int, second: int) -> None:
    """For whole counts it is a binomial tail: P(Beta(a, b) > 1/2) = P(Binomial(a+b-1, 1/2) < a)."""
    total = first + second + 1
    tail = sum(math.comb(total, k) for k in range(first + 1)) / 2**total
    assert leads(first, second) == pytest.approx(tail, abs=1e-12)


def test_the_probability_of_the_lead_for_parts_of_draws() -> None:
    """Weighted votes count parts of draws: against the integral on a fine grid."""
    x = (np.arange(2_000_000) + 0.5) / 2_000_000
    density = x**3.7 * (1 - x) ** 1.2
    assert leads(3.7, 1.2) == pytest.approx(density[x > 0.5].sum() / density.sum(), abs=1e-6)


def test_sure_of_the_leading_answer() -> None:
    rule = xt.until.sure(letter, 0.95)
    assert not rule(population("aaa"))  # 0.9375
    assert rule(population("aaaa"))
    assert (
        rule(
            population("aaaa" + ".." * 1),
        )
        is True
    )  # drafts without an answer say nothing about the lead
    assert not rule(population("aaaab"))
    assert not rule(population("...."))
    assert rule.why(population("aaaa")) == "sure at 0.95: 'a' leads by 4 draws to 0, probability 0.969"


def test_sure_counts_effective_draws() -> None:
    """Four drafts of which one has all the weight are one draw, not four."""
    lopsided = population("aaaa", [0.0, -20.0, -20.0, -20.0])
    assert not xt.until.sure(letter, 0.95)(lopsided)
    assert xt.until.sure(letter, 0.95, weighted=False)(lopsided)
    assert not xt.until.sure(letter, 0.95, weighted=False)(population("aaaa", [0.0, 0.0, 0.0, -math.inf]))


def test_the_repeats_of_a_chain_are_no_draws() -> None:
    """A chain that rejected ten moves holds one draft eleven times, and was taken for sure of it."""
    (draft,) = population("a").drafts
    stuck = Population.unweighted([draft] * 11, [0.0] * 11)
    assert independent_draws(stuck) == 1.0
    for rule in (xt.until.sure(letter, 0.8), xt.until.sure(letter, 0.8, weighted=False), xt.until.ess(2)):
        assert not rule(stuck)
    assert xt.until.ess(11)(population("a" * 11))  # equal texts of different draws


def test_the_standard_error_is_that_of_the_mean_weight() -> None:
    weights = np.random.default_rng(0).lognormal(size=40)
    drawn = population("a" * 40, np.log(weights / 40).tolist())
    error = float(np.std(weights, ddof=1) / math.sqrt(40) / np.mean(weights))
    assert xt.until.log_z_error(error * 1.001)(drawn)
    assert not xt.until.log_z_error(error * 0.999)(drawn)
    assert not xt.until.log_z_error(0.1)(population("a" * 15))  # no spread among so few says nothing


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: xt.until.reward(math.nan), "give a finite reward"),
        (lambda: xt.until.sure("number", 0.9), "cannot read answers"),  # pyright: ignore[reportArgumentType]
        (lambda: xt.until.sure(letter, 0.5), "above 0.5 and below 1"),
        (lambda: xt.until.certain(letter, beta=0.0), "a positive finite number"),
        (lambda: xt.until.certain(letter, reward_max=math.inf), "a finite upper bound"),
        (lambda: xt.until.ess(0), "1 or more"),
        (lambda: xt.until.log_z_error(0.0), "a positive number of nats"),
    ],
)
def test_rules_that_mean_nothing_are_refused(make: Callable[[], object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


# ------------------------------------------------------------------------------------------------------------ results

TOY = autoregressive(3)


@pytest.mark.parametrize(
    "sampler",
    [xt.Independent(64, batch=2), xt.Rejection(40, 400, 2.0), xt.SuffixMCMC(64), xt.Metropolised(xt.Independent(2), 64)],
    ids=lambda sampler: type(sampler).__name__,
)
def test_every_sampler_stops_at_its_next_population(sampler: xt.Independent) -> None:
    result = xt.sample(TOY.target, "x", sampler, until=late)
    assert (result.stopped, result.limit, result.log_z) == ("until", "late", None)
    assert 4 <= len(result.population) <= 5
    assert result.trace[-1]["log_z"] is None


def test_a_stopped_result_has_the_shares_but_no_estimate(tmp_path: Path) -> None:
    sampler, whole = xt.Independent(64, batch=4), xt.sample(TOY.target, "x", xt.Independent(8))
    rule = xt.until.ess(float(whole.population.ess))
    stopped, read = (xt.run(TOY.target, ["x"], sampler, until=rule, store=tmp_path / "a.jsonl")[0] for _ in range(2))
    assert isinstance(stopped, xt.Result)
    assert isinstance(read, xt.Result)
    for each in (stopped, read):
        assert (each.log_z, each.population.proper, each.stopped) == (None, False, "until")
        assert str(each.limit).startswith("effective sample size ")
        assert each.population.beta == TOY.target.beta
    assert len(stopped.population) in (4, 8)
    last = list(xt.stream(TOY.target, "x", sampler, until=rule))[-1]
    assert last.log_z is None  # the last partial result is the result


def test_a_run_that_its_rule_did_not_stop_says_what_its_estimate_is() -> None:
    result = xt.sample(TOY.target, "x", xt.Independent(6, batch=3), until=xt.until.reward(100.0))
    assert (result.stopped, result.log_z is not None) == ("done", True)
    assert any("are a selection, whose mean is biased" in sentence for sentence in result.warnings)


def test_a_rule_that_can_save_nothing_says_so() -> None:
    result = xt.sample(TOY.target, "x", xt.Independent(6), until=late)
    assert any("give it a batch" in sentence for sentence in result.warnings)
    assert not any("batch" in sentence for sentence in xt.sample(TOY.target, "x", xt.Independent(6)).warnings)


def test_a_rule_that_fails_fails_its_prompt() -> None:
    """It ended the whole run with a traceback, where a failing select costs one prompt."""

    def broken(population: Population) -> bool:
        raise KeyError("gold")

    def forgetful(population: Population) -> bool:
        return None  # pyright: ignore[reportReturnType]

    for rule, said in ((broken, "raised KeyError: 'gold'"), (forgetful, "returned None: return True")):
        with pytest.raises(SelectError, match=said):
            xt.sample(TOY.target, "x", xt.Independent(4), until=rule)
        (failure,) = xt.run(TOY.target, ["x"], xt.Independent(4), until=rule)
        assert isinstance(failure, xt.Failure)
        assert failure.error == "SelectError"
    numpys = lambda population: np.float64(1.0) < 2.0  # noqa: E731 - its own kind of True
    found = xt.sample(TOY.target, "x", xt.Independent(4), until=numpys)  # pyright: ignore[reportArgumentType]
    assert found.stopped == "until"


@pytest.mark.parametrize(
    ("rule", "sampler", "said"),
    [
        (xt.until.log_z_error(0.1), xt.SuffixMCMC(8), "needs independent draws, and those of SuffixMCMC"),
        (xt.until.log_z_error(0.1), xt.ETS(2, 1, 1), "independent draws"),
        (xt.until.log_z_error(0.1), xt.Independent(8, weights="distinct"), "independent draws"),
        (xt.until.certain(letter, beta=0.5, reward_max=9.0), xt.Independent(8), "is not the target's beta"),
        (xt.until.certain(letter), xt.Independent(8), "pass reward_max"),
    ],
)
def test_rules_that_could_not_be_right_are_refused(rule: xt.until.Until, sampler: xt.ETS, said: str) -> None:
    with pytest.raises(TargetError, match=said):
        xt.sample(TOY.target, "x", sampler, until=rule)


def test_certain_needs_the_drafts_own_probabilities() -> None:
    with pytest.raises(TargetError, match="the target has a proposal"):
        xt.sample(replace(TOY.target, proposal=TOY.target.engine), "x", xt.Independent(8), until=xt.until.certain(letter))
    with pytest.raises(TargetError, match="power"):
        xt.sample(TOY.target, "x", xt.SuffixMCMC(8, power=2.0), until=xt.until.certain(letter, reward_max=9.0))


def test_certain_stops_with_the_answer_that_is_the_mode() -> None:
    def first(text: str) -> str | None:
        return text[:1] or None

    def bounded(prompt: str, drafts: list[Draft]) -> list[float]:
        return [reward_of(1, draft.tokens) for draft in drafts]

    bounded.reward_max = 4.0  # pyright: ignore[reportFunctionMemberAccess]
    proofs = 0
    for seed in range(6):
        toy = autoregressive(seed, beta=2.0)
        target = Target(toy.target.engine, bounded, 2.0)
        shares: dict[str | None, float] = {}
        for draft in xt.sample(target, "x", xt.Independent(4000), seed=1).population.drafts:
            mass = math.exp(math.fsum(draft.logq or ()) + bounded("x", [draft])[0] / 2.0)
            shares.setdefault(first(draft.text), 0.0)
            shares[first(draft.text)] += mass / 4000 / math.exp(math.fsum(draft.logq or ()))
        result = xt.sample(target, "x", xt.Independent(400, batch=8), select=xt.vote(first), until=xt.until.certain(first))
        if result.stopped == "until":
            proofs += 1
            assert result.proved == max(shares, key=lambda name: shares[name])
            assert result.limit == f"proved: {result.proved!r} is the most probable answer"
    assert proofs >= 3


# ------------------------------------------------------------------------------------------------------------ bias


def test_the_estimate_that_a_stopped_result_does_not_give_is_biased() -> None:
    """Stop at the first draft of high reward: the mean of Σw over 4000 runs is far above Z, which is why log Ẑ is None."""
    rule = xt.until.reward(sorted(reward_of(3, tokens) for tokens in TOY.gamma)[-3])
    request = Request(TOY.target, xt.Independent(32, batch=1), xt.draw, 0, None, None, rule)
    sums = []
    for occurrence in range(4000):
        result = request.answer(Job("x", occurrence))
        sums.append(np.exp(result.population.log_w).sum())
    error = np.std(sums) / math.sqrt(len(sums))
    assert np.mean(sums) - TOY.z > 5 * error


def test_the_page_runs() -> None:
    space = run_page("stopping.md")
    assert space["number"](space["result"].text) == "49"
    assert 1.3 < np.mean(space["sums"]) / space["z"] < 1.7
