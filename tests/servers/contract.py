"""What an engine that runs vLLM owes, held against transformers on the same weights. Test files take these tests over by
name and give the fixture `engine`; `reference` is the law from transformers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from exptilt.core import Engine, Target
from exptilt.draft import Draft
from exptilt.evaluation.tasks.word_problems import word_problems
from exptilt.keys import Key
from exptilt.running.run import sample
from exptilt.samplers import ETS, SuffixMCMC
from exptilt.usage import Work
from tests.engines.laws import check_law

QUESTIONS = [problem.question for problem in word_problems("test", 4, seed=21)]
ROUNDING = 1e-5  # nats, of one engine in float32
BETWEEN = 5e-5  # nats, of two implementations of the network in float32
COUNT = 32


def keys(count: int, *path: int) -> list[Key]:
    return [Key(0, *path, i) for i in range(count)]


def draw(engine: Engine, count: int = COUNT, question: str = QUESTIONS[0]) -> list[Draft]:
    return engine.extend([engine.start(question)] * count, keys(count))


def logq(draft: Draft) -> np.ndarray:
    assert draft.logq is not None
    return np.array(draft.logq)


def check_logq(drafts: Sequence[Draft], scores: Sequence[np.ndarray], tolerance: float) -> None:
    for draft, score in zip(drafts, scores, strict=True):
        np.testing.assert_allclose(score, logq(draft), atol=tolerance, rtol=0)


def test_it_can_all_that_samplers_need(engine: Engine) -> None:
    assert engine.can >= {"continue", "logq", "score"}


def test_recorded_log_probabilities_are_its_scores_and_those_of_transformers(engine: Engine, reference: Engine) -> None:
    drafts = [draft for question in QUESTIONS for draft in draw(engine, 8, question)]
    check_logq(drafts, engine.score(drafts), ROUNDING)
    check_logq(drafts, reference.score(drafts), BETWEEN)
    starts = [i % (len(draft.tokens) + 1) for i, draft in enumerate(drafts)]
    for draft, part, start in zip(drafts, engine.score(drafts, starts), starts, strict=True):
        np.testing.assert_allclose(part, logq(draft)[start:], atol=ROUNDING, rtol=0)


@pytest.mark.parametrize("changes", [{"temperature": 0.7}, {"top_k": 5}, {"top_p": 0.8, "temperature": 1.5}], ids=str)
def test_other_laws_record_their_own_log_probabilities(engine: Engine, reference: Engine, changes: dict[str, Any]) -> None:
    other = engine.with_sampling(**changes)
    assert "logq" in other.can
    drafts = draw(other)
    check_logq(drafts, reference.with_sampling(**changes).score(drafts), BETWEEN)


def test_three_tokens_follow_the_law_of_transformers(engine: Engine, reference: Engine) -> None:
    """Within five standard errors, for the outcomes that transformers draws most often and for the rest together."""
    count, warm = 1000, {"temperature": 1.5}
    stem = reference.start(QUESTIONS[1])
    found = reference.with_sampling(**warm).extend([stem] * count, keys(count, 1), 3)
    common = {draft.tokens: draft for draft in found}
    names = [name for name, _ in Counter(draft.tokens for draft in found).most_common(12)]
    scores = reference.with_sampling(**warm).score([common[name] for name in names])
    law: dict[Any, float] = {name: float(np.exp(score.sum())) for name, score in zip(names, scores, strict=True)}
    law["another"] = 1 - sum(law.values())
    drafts = engine.with_sampling(**warm).extend([stem] * count, keys(count, 2), 3)
    check_law(drafts, law, lambda draft: draft.tokens if draft.tokens in law else "another")


def test_seeds_repeat_copies_differ_and_a_batch_gives_what_single_calls_give(engine: Engine) -> None:
    drafts = draw(engine.with_sampling(temperature=2.0))
    assert len({draft.tokens for draft in drafts}) > COUNT // 2
    again = draw(engine.with_sampling(temperature=2.0))
    warm = engine.with_sampling(temperature=2.0)
    single = [warm.extend([warm.start(QUESTIONS[0])], [key])[0] for key in keys(COUNT)]
    for others in (again, single):  # up to a draw in hundreds that rounding turns
        same = [(one, other) for one, other in zip(drafts, others, strict=True) if one.tokens == other.tokens]
        assert len(same) >= COUNT - 1
        for one, other in same:
            assert (one.text, one.finish) == (other.text, other.finish)
            np.testing.assert_allclose(logq(one), logq(other), atol=BETWEEN, rtol=0)


def test_caps_stops_and_blocks(engine: Engine, reference: Any) -> None:
    stopping = engine.with_sampling(stop=["= 1", " apples"], temperature=1.5)
    for block in (1, 5, None):
        drafts = [stopping.start(QUESTIONS[0])] * COUNT
        for step in range(stopping.max_tokens):
            drafts = stopping.extend(drafts, keys(COUNT, step), block)
        wholes = reference.backend.text.decode([draft.tokens for draft in drafts])
        befores = reference.backend.text.decode([draft.tokens[:-1] for draft in drafts])
        for draft, whole, before in zip(drafts, wholes, befores, strict=True):
            assert not any(stop in before for stop in stopping.sampling.stop)  # pyright: ignore[reportAttributeAccessIssue]
            assert draft.text == stopping.sampling.before_stop(whole)  # pyright: ignore[reportAttributeAccessIssue]
            assert draft.finish == "stop" or len(draft.tokens) == engine.max_tokens
            assert len(logq(draft)) == len(draft.tokens) <= engine.max_tokens
        assert any(draft.text != whole for draft, whole in zip(drafts, wholes, strict=True))
    assert stopping.extend(drafts, keys(COUNT)) == drafts, "finished drafts come back unchanged"


def test_prefixes_are_reused_and_work_is_counted(engine: Engine) -> None:
    work, again = Work(), Work()
    prompt = " ".join(QUESTIONS[:2])
    drafts = draw(engine.metered(work), 4, prompt)
    draw(engine.metered(again), 4, prompt)
    assert work.generated == sum(len(draft.tokens) for draft in drafts)
    assert again.cached > work.cached
    assert again.cached + again.prompt == work.cached + work.prompt
    engine.metered(again).score(drafts)
    assert again.scored == work.generated


def test_guided_search_and_the_markov_chain_run_and_repeat(engine: Engine) -> None:
    target = Target(engine, lambda _, drafts: [float("#" in draft.text) for draft in drafts], 0.5)
    for sampler in (ETS(candidates=3, rollouts=2, block=8), SuffixMCMC(steps=6, chains=2)):
        first, again = (sample(target, QUESTIONS[2], sampler, seed=1) for _ in range(2))
        assert [draft.tokens for draft in first.population.drafts] == [draft.tokens for draft in again.population.drafts]
        assert first.draft.tokens == again.draft.tokens
        assert first.usage.reference.generated > 0
        assert first.draft.finish is not None
