"""Distinct weights: each different response counts once, by the probability that n draws find it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import exptilt as xt
from exptilt.describe import describe
from exptilt.errors import CapabilityError, StoreError, TargetError
from exptilt.keys import Key
from exptilt.populations.distinct import log_found
from exptilt.samplers.independent import Independent
from exptilt.testing import autoregressive, check_sampler, constrained, distance, expected_weights, masked
from exptilt.testing.toys import random_table


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["autoregressive", "proposal", "masked", "masked, proposal", "constrained"])
def test_by_enumeration(kind: str, seed: int, n: int) -> None:
    toy = {
        "autoregressive": lambda: autoregressive(seed, cap=2),
        "proposal": lambda: autoregressive(seed, cap=2, proposal=True),
        "masked": lambda: masked(seed, length=2, order=("left", "confidence")[seed % 2]),
        "masked, proposal": lambda: masked(seed, length=2, order="left", proposal=True),
        "constrained": lambda: constrained(autoregressive(seed, cap=2), lambda tokens: tokens[-1] == 0),
    }[kind]()
    found = expected_weights(Independent(n, weights="distinct"), toy.target)
    assert distance(found, toy.gamma) < 1e-9


def test_the_contract() -> None:
    assert check_sampler(Independent(2, weights="distinct")) == 6  # all but the masked model with a random order
    assert check_sampler(Independent(3, batch=2, weights="distinct")) == 6


def test_a_random_order_is_refused() -> None:
    """Its drafts' log-probabilities are those of a path given its order: E[Ẑ] came out up to twice too small."""
    with pytest.raises(TargetError, match="in a random order, whose probability is not known"):
        Independent(2, weights="distinct").needs(masked(1, length=2, order="random").target)


def test_each_response_is_there_once() -> None:
    toy = autoregressive(1, cap=3)
    *_, population = Independent(64, weights="distinct")(toy.target, "x", Key(0))
    assert len({draft.tokens for draft in population.drafts}) == len(population) < 64
    *_, draws = Independent(64)(toy.target, "x", Key(0))
    assert {draft.tokens for draft in population.drafts} == {draft.tokens for draft in draws.drafts}


def test_without_repeats_the_weights_are_those_of_the_draws() -> None:
    """Where q is small, 1 - (1-q)^n is n·q, and each response weighs h/n as ever."""
    engine = xt.engines.TableEngine(random_table(1, 8), 12, 7)
    target = xt.Target(engine, lambda prompt, drafts: [0.1 * sum(draft.tokens) for draft in drafts], 1.0)
    *_, distinct = Independent(16, weights="distinct")(target, "x", Key(0))
    *_, draws = Independent(16)(target, "x", Key(0))
    small = [row for row, draft in enumerate(distinct.drafts) if math.fsum(draft.logq or ()) < -16]
    assert len(small) > 4
    by_tokens = {draft.tokens: float(log_w) for draft, log_w in zip(draws.drafts, draws.log_w, strict=True)}
    for row in small:
        assert distinct.log_w[row] == pytest.approx(by_tokens[distinct.drafts[row].tokens], abs=1e-5)


def test_the_probability_of_being_found_at_its_ends() -> None:
    """q = 1 is found for sure; a q too small for a float is found n times as likely as by one draw."""
    found = log_found(np.array([0.0, math.log(0.5), -800.0, -41.0, 1e-12]), 4)
    assert found[[0, 4]].tolist() == [0.0, 0.0]
    assert found[1] == pytest.approx(math.log(1 - 0.5**4))
    assert found[2:4] == pytest.approx([-800 + math.log(4), -41 + math.log(4)])
    near = log_found(np.array([-40.0 - 1e-9, -40.0 + 1e-9]), 10_000)
    assert near[0] == pytest.approx(near[1], abs=1e-8)


def test_votes_vary_less_where_responses_repeat() -> None:
    """Six responses and eight draws: the squared error of an answer's probability falls to less than half."""
    engine = xt.engines.TableEngine(random_table(3, 2), 3, 1)
    target = xt.Target(engine, lambda prompt, drafts: [0.0] * len(drafts), 1.0)
    p = {tokens: math.exp(value) for tokens, value in engine.enumerate().items()}
    truth = sum(value for tokens, value in p.items() if tokens[0] == 0)

    def error(weights: str) -> float:
        shares = []
        for seed in range(400):
            *_, population = Independent(8, weights=weights)(target, "x", Key(seed))  # type: ignore[arg-type]
            heads = np.array([draft.tokens[0] == 0 for draft in population.drafts])
            shares.append(float(population.weights @ heads))
        return float(np.mean((np.array(shares) - truth) ** 2))

    assert error("distinct") < 0.5 * error("draws")


def test_an_engine_without_log_probabilities_is_refused() -> None:
    class Silent(xt.engines.TableEngine):
        can = xt.engines.TableEngine.can - {"logq"}

    target = xt.Target(Silent(random_table(1, 2), 2, 1), lambda prompt, drafts: [0.0] * len(drafts), 1.0)
    with pytest.raises(CapabilityError, match="logq"):
        xt.sample(target, "x", Independent(2, weights="distinct"))


def test_a_field_that_came_later_does_not_part_old_files() -> None:
    """Settings of a run with the default are those that files hold which were written before the field existed."""
    assert describe(Independent(4)) == {"type": "Independent", "n": 4, "batch": None}
    assert describe(Independent(4, weights="distinct")) == {"type": "Independent", "n": 4, "batch": None, "weights": "distinct"}


# -------------------------------------------------------------------------------------------------------------- votes


def symbol(text: str) -> str | None:
    return text[:1] or None


TOY = autoregressive(4)
VOTE = xt.vote(symbol)
COUNTED = xt.vote(symbol, distinct=False)


def voted(n: int = 8, **more: Any) -> xt.Result:
    return xt.sample(TOY.target, "x", Independent(n), select=VOTE, **more)


def test_a_vote_counts_each_different_response_once() -> None:
    """It is the vote of these draws by distinct weights; the population, its log Ẑ and its warnings stay those of the draws."""
    for seed in range(20):
        plain, votes = voted(seed=seed), xt.sample(TOY.target, "x", Independent(8), select=COUNTED, seed=seed)
        weights = xt.sample(TOY.target, "x", Independent(8, weights="distinct"), select=COUNTED, seed=seed)
        assert plain.posterior == pytest.approx(weights.posterior)
        assert plain.text == weights.text
        assert (plain.log_z, plain.warnings) == (votes.log_z, votes.warnings)
        assert plain.population.log_w.tolist() == votes.population.log_w.tolist()


def test_a_vote_of_repeats_is_nearer_to_its_limit() -> None:
    """The squared error of the posterior of 12 draws over 200 seeds, against the exact probabilities of the answers."""
    toy = autoregressive(3)
    exact: dict[str | None, float] = {}
    for tokens, share in toy.pi.items():
        answer = symbol("".join(str(token) for token in tokens if token != 1))  # 1 ends a response
        exact[answer] = exact.get(answer, 0.0) + share
    drawn = [xt.sample(toy.target, "x", Independent(12), select=VOTE, seed=seed).population for seed in range(200)]
    once, every = (
        np.mean([(vote.posterior(each).get(answer, 0.0) - share) ** 2 for each in drawn for answer, share in exact.items()])
        for vote in (VOTE, COUNTED)
    )
    assert once < 0.4 * every


def test_no_vote_contradicts_a_proof() -> None:
    """Three draws find a of probability 0.51 and b twice, 0.24 each: rare finds weigh more, so b led by 0.86 to 0.58, while the
    probabilities seen prove a. Of 900 word problems three were answered against their own proof."""
    chances = {"a": 0.51, "b1": 0.24, "b2": 0.24}
    drafts = [xt.Draft("x", (n,), (math.log(p),), text, "stop") for n, (text, p) in enumerate(chances.items())]
    seen = xt.Population(drafts, np.full(3, -math.log(3)), np.zeros(3), beta=1.0, reward_max=0.0, independent=True)
    shares = VOTE.posterior(seen)
    assert shares["b"] > shares["a"]
    assert seen.proved(symbol) == "a" == VOTE(seen, Key(0)).text
    assert symbol(xt.vote(symbol, weighted=False)(seen, Key(0)).text) == "b"
    blind = xt.Population(drafts, seen.log_w, seen.rewards, independent=True)  # without β there is no proof
    assert symbol(VOTE(blind, Key(0)).text) == "b"


def test_a_majority_counts_heads() -> None:
    population = voted().population
    posterior = xt.vote(symbol, weighted=False).posterior(population)
    assert posterior == {answer: pytest.approx(share) for answer, share in posterior.items()}
    assert all(abs(8 * share - round(8 * share)) < 1e-9 for share in posterior.values())


def test_only_whole_sets_of_independent_draws_are_counted_so() -> None:
    """Resampled rows, chains and pools of unequal runs are not n draws; another β and pools of equal runs are."""
    population = voted().population
    assert population.independent
    assert population.at(0.3).independent
    assert not population.resample(xt.Key(0)).independent
    assert not population.distinct().independent
    assert not xt.sample(TOY.target, "x", xt.SuffixMCMC(4), select=VOTE).population.independent
    equal, unequal = ([voted(n, seed=seed).population for seed, n in enumerate(sizes)] for sizes in ((4, 4), (4, 6)))
    assert xt.Population.merge(equal).independent
    assert not xt.Population.merge(unequal).independent
    assert not xt.Population.merge(equal, dead=1).independent
    pooled = xt.Population.merge(equal).distinct()
    assert len(pooled) == len({draft.tokens for each in equal for draft in each.drafts})
    one = {draft.tokens: log_w for draft, log_w in zip(pooled.drafts, pooled.log_w, strict=True)}
    for tokens, log_w in one.items():
        log_q = math.fsum(next(each for each in pooled.drafts if each.tokens == tokens).logq or ())
        assert log_w == pytest.approx(math.log(TOY.gamma[tokens]) - log_found(np.array([log_q]), 8)[0])


def test_a_random_order_is_not_counted_so() -> None:
    """Its log-probabilities leave out how likely the order was."""
    for order in ("random", "left"):
        result = xt.sample(masked(1, length=2, order=order).target, "x", Independent(6), select=VOTE)
        assert result.population.independent == (order == "left")


def test_results_that_are_read_back_vote_the_same(tmp_path: Path) -> None:
    run = lambda select: xt.run(TOY.target, ["a", "b"], Independent(8), select=select, store=tmp_path / "a.jsonl")  # noqa: E731
    before, after = run(VOTE), run(VOTE)
    for one, other in zip(before, after, strict=True):
        assert isinstance(one, xt.Result)
        assert isinstance(other, xt.Result)
        assert VOTE.posterior(other.population) == one.posterior == other.posterior


def test_files_of_votes_that_counted_draws(tmp_path: Path) -> None:
    """They resume with distinct=False, and where no vote counts otherwise; else they are refused by the name of the setting."""

    def run(name: str, sampler: Any, select: Any) -> Any:
        return xt.run(TOY.target, ["a", "b"], sampler, select=select, store=tmp_path / name)

    run("old.jsonl", Independent(8), COUNTED)
    assert "independent" in (tmp_path / "old.jsonl").read_text()
    assert "distinct" not in (tmp_path / "old.jsonl").read_text()
    run("old.jsonl", Independent(8), COUNTED)
    with pytest.raises(StoreError, match=r"select\.distinct: \(not set\) → true"):
        run("old.jsonl", Independent(8), VOTE)
    for name, sampler in (("ets.jsonl", xt.ETS(2, 1, 1)), ("chain.jsonl", xt.SuffixMCMC(4))):
        run(name, sampler, COUNTED)
        run(name, sampler, VOTE)
