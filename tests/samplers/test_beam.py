"""Beam search keeps the best drafts it drew, says that it has no target, and never passes for a sampler with weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import exptilt as xt
from exptilt.core import Target
from exptilt.draft import Draft
from exptilt.engines.table import TableEngine
from exptilt.errors import AllWeightsZero, CapabilityError, TargetError
from exptilt.keys import Key
from exptilt.names import known_samplers
from exptilt.populations.population import Population
from exptilt.report import write_report
from exptilt.running.lines import stored_population
from exptilt.running.store import read_store
from exptilt.running.traces import stored_trace
from exptilt.samplers import SMC, Beam, Metropolised
from exptilt.samplers.trace import Beams
from exptilt.testing.samplers import check_sampler
from exptilt.testing.toys import autoregressive, masked, random_table, reward_of

ENGINE = TableEngine(random_table(3, 3), 5, 2, symbols=("a", "b\n", ""))


def ones(prompt: str, drafts: list[Draft]) -> list[float]:
    return [float(sum(token == 1 for token in draft.tokens)) for draft in drafts]


def run(sampler: Beam, reward: Any = ones, seed: int = 0, engine: Any = ENGINE) -> Population:
    [population] = sampler(Target(engine, reward, 1.0), "x", Key(seed))
    return population


def searched(beams: int, score: Any) -> list[tuple[int, ...]]:
    """Beam search over all next tokens of the table, by the book."""
    kept: list[tuple[int, ...]] = [()]
    while any(ENGINE._finish(tokens) is None for tokens in kept):
        grown = [(*tokens, token) for tokens in kept if ENGINE._finish(tokens) is None for token in range(3)]
        kept = sorted(grown + [tokens for tokens in kept if ENGINE._finish(tokens)], key=score, reverse=True)[:beams]
    return kept


def log_p(tokens: tuple[int, ...]) -> float:
    return float(ENGINE.score([Draft("x", tokens)])[0].sum())


@pytest.mark.parametrize("beams", [1, 2, 4, 7])
@pytest.mark.parametrize("per_token", [False, True])
def test_with_enough_candidates_it_is_beam_search_over_all_tokens(beams: int, per_token: bool) -> None:
    """200 draws of a table of three tokens meet each of them."""
    wanted = searched(beams, lambda tokens: log_p(tokens) / (len(tokens) if per_token else 1))
    population = run(Beam(beams, 200, 1, per_token=per_token))
    assert [draft.tokens for draft in population.drafts] == wanted


def test_a_value_ranks_beginnings_and_the_reward_ranks_ends() -> None:
    def guess(prompt: str, drafts: list[Draft]) -> list[float]:
        return [reward_of(1, draft.tokens) for draft in drafts]

    def reward(prompt: str, drafts: list[Draft]) -> list[float]:
        return [reward_of(2, draft.tokens) for draft in drafts]

    wanted = searched(3, lambda tokens: reward_of(2 if ENGINE._finish(tokens) else 1, tokens))
    assert [draft.tokens for draft in run(Beam(3, 300, 1, value=guess), reward).drafts] == wanted


def test_steps_end_at_lines() -> None:
    trace = run(Beam(3, 6, "\n"), seed=4).trace
    assert isinstance(trace, Beams)
    for generation in trace.generations:
        for text in generation.texts:
            assert text.endswith("b\n") or "b\n" not in text.rpartition("b\n")[2]
    assert len(trace.generations) < 5


def test_it_passes_the_contract_of_samplers() -> None:
    """Equal keys give equal populations, and no stream serves twice."""
    assert check_sampler(Beam(2, 2, 1)) >= 3
    assert check_sampler(Beam(2, 3, 1, value=ones)) >= 3


def test_it_is_marked_as_having_no_target_and_no_weights(tmp_path: Path) -> None:
    """In the population, the result's warnings, the results file and its report."""
    target = Target(ENGINE, ones, 1.0)
    sampler, file = Beam(3, 4, 1), tmp_path / "beams.jsonl"
    assert not sampler.weighted
    [result] = xt.run(target, ["x"], sampler, select=xt.vote(str.strip), store=file)
    assert isinstance(result, xt.Result)
    assert result.log_z is None
    assert not result.population.proper
    np.testing.assert_allclose(result.population.weights, 1 / len(result.population))
    [said] = [warning for warning in result.warnings if "no target" in warning]
    assert "a vote counts beams" in said
    _, lines = read_store(file)
    [line] = lines.values()
    again = stored_population(line)
    assert again is not None
    assert again.drafts == result.population.drafts
    assert stored_trace(line, {}) == result.population.trace
    write_report([file], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "Beam search has no target" in page
    assert "the best kept" in page
    with pytest.raises(ValueError, match="or a search"):
        Metropolised(sampler, 2)


def test_no_other_sampler_has_that_warning() -> None:
    result = xt.sample(Target(ENGINE, ones, 1.0), "x", SMC(3, 1))
    assert not [warning for warning in result.warnings if "no target" in warning]


def test_what_the_reward_excludes_is_not_kept() -> None:
    def no_ones(prompt: str, drafts: list[Draft]) -> list[float]:
        return [-math.inf if 1 in draft.tokens else 0.0 for draft in drafts]

    population = run(Beam(3, 20, 1, value=lambda prompt, drafts: [-float(sum(draft.tokens)) for draft in drafts]), no_ones)
    assert all(1 not in draft.tokens for draft in population.drafts)
    by_likelihood = run(Beam(5, 20, 1), no_ones)
    assert all(
        weight == 0 for draft, weight in zip(by_likelihood.drafts, by_likelihood.weights, strict=True) if 1 in draft.tokens
    )
    with pytest.raises(AllWeightsZero, match="draw more candidates"):
        run(Beam(2, 3, 1, value=lambda prompt, drafts: [-math.inf] * len(drafts)))


def test_it_is_offered_by_name_with_its_settings() -> None:
    chosen = known_samplers()["beam"]
    assert not isinstance(chosen, Exception)
    assert chosen.make({"block": r"\n", "beams": "2"}) == Beam(2, 4, "\n")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Beam(0, 2), "beams=0"),
        (lambda: Beam(2, 0), "candidates=0"),
        (lambda: Beam(2, 2, ""), "block"),
        (lambda: Beam(2, 2, value=ones, per_token=True), "leave one of the two out"),
    ],
)
def test_bad_parameters_are_refused(make: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


def test_targets_it_cannot_serve_are_refused() -> None:
    with pytest.raises(TargetError, match="takes no proposal"):
        Beam(2, 2).needs(autoregressive(1, proposal=True).target)
    with pytest.raises(CapabilityError, match="steps"):
        xt.sample(masked(1).target, "x", Beam(2, 2, "\n"))
