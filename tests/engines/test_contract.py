"""What every engine promises, asked of each in turn. A test that an engine cannot take, by its own `can`, is skipped."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

import exptilt as xt
from exptilt.core import Engine
from exptilt.draft import Draft
from exptilt.engines.certainty import CertainEngine
from exptilt.errors import CapabilityError
from exptilt.keys import Floats, Key
from exptilt.usage import Work
from tests.engines.fake_server import MODEL as SERVED
from tests.engines.fake_server import Fake, serving
from tests.toys import random_fill, random_table

PROMPTS = [  # nothing that the bundled models know, so they are not sure of what follows
    "The sea is wide and nobody has counted its birds, said the old captain.",
    "Green ideas sleep furiously in the colourless house of the town mayor.",
    "Write a poem about rain on the roofs of a city at night, please.",
    "Of all the roads that lead to the mill, which one did the miller take?",
]
LAW: dict[str, Any] = {"max_tokens": 12, "temperature": 1.3, "top_k": 4}


@dataclass(frozen=True)
class Case:
    """An engine, and what is known of it beyond its protocol.

    tolerance: nats between a recorded log-probability and its score. singles: how many drafts are drawn one by one, to
    be held against batches. draws: how many the tests of the law may take.
    caches: whether it reuses what it has computed of a prefix. stops: whether it takes stop strings.
    """

    engine: Engine
    prompts: Sequence[str] = ("a prompt", "another", "a third one", "and the last")
    tolerance: float = 1e-9
    singles: int = 100
    draws: int = 6000
    caches: bool = True
    stops: bool = True

    def start(self, count: int) -> list[Draft]:
        return [self.engine.start(self.prompts[i % len(self.prompts)]) for i in range(count)]

    def needs(self, *abilities: str) -> None:
        if missing := set(abilities) - self.engine.can:
            pytest.skip(f"{self.engine.name} does not claim {', '.join(sorted(missing))}")


def table(_: pytest.FixtureRequest, __: ExitStack) -> Case:
    return Case(xt.engines.TableEngine(random_table(1, 3), 6, 2, symbols="ab#"), stops=False)


def masked_table(_: pytest.FixtureRequest, __: ExitStack) -> Case:
    """From left to right, so that the probability of an order is one and a score is the whole law."""
    return Case(xt.engines.MaskedTableEngine(random_fill(1, 3), 5, "left", symbols="abc"), stops=False)


def hf(_: pytest.FixtureRequest, __: ExitStack) -> Case:
    pytest.importorskip("transformers")
    return Case(xt.load("tiny", **LAW), PROMPTS, tolerance=1e-5, draws=1000)


def diffusion(_: pytest.FixtureRequest, __: ExitStack) -> Case:
    pytest.importorskip("transformers")
    engine = xt.load("tiny-mdlm", **LAW, block=6, per_step=2)
    return Case(engine, PROMPTS, tolerance=1e-5, singles=40, draws=600, caches=False, stops=False)


def openai(_: pytest.FixtureRequest, stack: ExitStack) -> Case:
    return _served(stack, processed=True)


def openai_chat(_: pytest.FixtureRequest, stack: ExitStack) -> Case:
    return _served(stack, completions=False)


def _served(stack: ExitStack, **habits: Any) -> Case:
    pytest.importorskip("httpx2")
    law = xt.engines.TableEngine(random_table(1, 3), 6, 2, symbols="ab#")
    url = stack.enter_context(serving(Fake(law, **habits)))
    return Case(xt.load(f"openai:{SERVED}", base_url=url, max_tokens=6, backoff=0.01), singles=60, draws=300)


def llamacpp(request: pytest.FixtureRequest, _: ExitStack) -> Case:
    pytest.importorskip("llama_cpp")
    pytest.importorskip("gguf")
    from tests.engines.gguf_tiny import TINY, tiny_gguf

    file = tiny_gguf(request.getfixturevalue("tmp_path_factory").mktemp("gguf") / "tiny.gguf")
    engine = xt.load(f"llamacpp:{file}", tokenizer=TINY, threads=1, memory=2**24, **LAW)
    return Case(engine, PROMPTS, tolerance=1e-3, singles=40, draws=600)


def vllm(_: pytest.FixtureRequest, stack: ExitStack) -> Case:
    from tests.servers.conftest import FOR_VLLM, MODEL

    stack.enter_context(patch.dict(os.environ, FOR_VLLM))
    pytest.importorskip("vllm")
    engine: Any = xt.load(f"vllm:{MODEL}", max_rows=64, block_size=32, enforce_eager=True, **LAW)
    stack.callback(engine.model.close)
    return Case(engine, PROMPTS, tolerance=1e-3, singles=40, draws=600)


BUILDERS = [table, masked_table, hf, diffusion, openai, openai_chat, llamacpp, pytest.param(vllm, marks=pytest.mark.servers)]


@pytest.fixture(scope="session", params=BUILDERS, ids=lambda build: build.__name__)
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    with ExitStack() as stack:
        yield request.param(request, stack)


@pytest.fixture(scope="session")
def alone(case: Case) -> list[Draft]:
    """Finished drafts, each of a call of its own."""
    drafts = zip(case.start(case.singles), keys(case.singles), strict=True)
    return [case.engine.extend([draft], [key])[0] for draft, key in drafts]


def keys(count: int, seed: int = 0) -> list[Key]:
    return [Key(seed, i) for i in range(count)]


def grown(stem: Draft, draft: Draft) -> tuple[int, ...]:
    """The tokens decided after the stem, in the order of their decisions."""
    order = range(draft.decided) if draft.order is None else draft.order
    return tuple(draft.tokens[place] for place in order[stem.decided :])


def logq(draft: Draft) -> np.ndarray:
    assert draft.logq is not None
    return np.array(draft.logq)


# ------------------------------------------------------------------------------------------------------------- the law


def assert_same(score: Floats, draft: Draft, tolerance: float) -> None:
    """Relative as well: that of an improbable token is a difference of large logits, and rounding grows with them."""
    np.testing.assert_allclose(score, logq(draft), atol=tolerance, rtol=tolerance)


def test_recorded_log_probabilities_are_the_scores(case: Case, alone: list[Draft]) -> None:
    case.needs("logq", "score")
    for draft, score in zip(alone[:32], case.engine.score(alone[:32]), strict=True):
        assert len(score) == draft.decided
        assert_same(score, draft, case.tolerance)


def test_a_score_from_some_decision_on_is_the_end_of_the_whole_score(case: Case, alone: list[Draft]) -> None:
    case.needs("score")
    drafts = alone[:24]
    starts = [i % (draft.decided + 1) for i, draft in enumerate(drafts)]
    for whole, part, start in zip(case.engine.score(drafts), case.engine.score(drafts, starts), starts, strict=True):
        assert len(part) == len(whole) - start
        np.testing.assert_allclose(part, whole[start:], atol=case.tolerance)


def check_continuations(case: Case, stem: Draft, tokens: int) -> None:
    """Continuations drawn from a stem come as often as their scores say, within five standard errors.

    The outcomes looked at are the most frequent of other draws; what else may come is lumped together.
    """
    found = case.engine.extend([stem] * case.draws, keys(case.draws, 1), tokens)
    examples = {grown(stem, draft): draft for draft in found}
    common = [name for name, times in Counter(grown(stem, draft) for draft in found).most_common(12) if times >= 30]
    scores = case.engine.score([examples[name] for name in common], [stem.decided] * len(common))
    law = {name: math.exp(score.sum()) for name, score in zip(common, scores, strict=True)}
    assert len(law) > 1
    drawn = case.engine.extend([stem] * case.draws, keys(case.draws, 2), tokens)
    counts = Counter(name if name in law else () for name in (grown(stem, draft) for draft in drawn))
    for name, p in {**law, (): 1 - sum(law.values())}.items():
        slack = 5 * math.sqrt(max(p * (1 - p), 1 / case.draws) / case.draws)
        assert abs(counts[name] / case.draws - p) < slack, (name, counts[name], p)


def test_continuations_of_three_tokens_follow_the_law(case: Case) -> None:
    case.needs("continue", "score")
    check_continuations(case, case.start(1)[0], 3)


def test_what_follows_a_cut_follows_the_conditional_law(case: Case, alone: list[Draft]) -> None:
    case.needs("continue", "score")
    stem = next(draft for draft in alone if draft.decided > 3).cut(2)
    assert (stem.decided, stem.finish) == (2, None)
    check_continuations(case, stem, 2)


# ------------------------------------------------------------------------------------------ keys, batches and threads


def check_same(case: Case, drafts: Sequence[Draft], alone: Sequence[Draft]) -> None:
    """All but one have the same tokens, and those nearly the same log-probabilities: rounding hangs on the batch."""
    same = [(one, other) for one, other in zip(drafts, alone, strict=True) if one.tokens == other.tokens]
    assert len(same) >= len(alone) - 1
    for one, other in same:
        assert (one.prompt, one.text, one.finish, one.order) == (other.prompt, other.text, other.finish, other.order)
        if one.logq is not None:
            np.testing.assert_allclose(logq(one), logq(other), atol=1e-4)


def test_a_batch_gives_what_single_calls_give_in_their_order(case: Case, alone: list[Draft]) -> None:
    case.needs("seed")
    check_same(case, case.engine.extend(case.start(len(alone)), keys(len(alone))), alone)


def test_sixteen_threads_at_once_get_what_single_calls_give(case: Case, alone: list[Draft]) -> None:
    case.needs("seed")
    jobs = list(zip(case.start(len(alone)), keys(len(alone)), strict=True))
    with ThreadPoolExecutor(16) as pool:
        drafts = list(pool.map(lambda job: case.engine.extend([job[0]], [job[1]])[0], jobs))
    check_same(case, drafts, alone)


def test_copies_of_one_draft_differ_by_their_keys(case: Case) -> None:
    drafts = case.engine.extend([case.start(1)[0]] * 32, keys(32))
    assert len({draft.tokens for draft in drafts}) > 8


# ----------------------------------------------------------------------------------------------------- drafts and ends


def test_the_cap_holds_and_ends_are_told(case: Case, alone: list[Draft]) -> None:
    cap = case.engine.max_tokens
    assert {draft.finish for draft in alone} <= {"stop", "length"}
    assert all(draft.decided <= cap for draft in alone)
    if "continue" in case.engine.can:  # else a response may be one piece
        assert all(draft.decided == cap for draft in alone if draft.finish == "length")
    assert any(draft.text for draft in alone)


def test_a_call_decides_as_many_tokens_as_it_is_asked_for(case: Case) -> None:
    case.needs("continue")
    half = case.engine.extend(case.start(20), keys(20), 2)
    assert all(draft.decided == 2 for draft in half if draft.finish is None)
    assert all(draft.decided <= 2 for draft in half if case.stops)
    whole = case.engine.extend(half, keys(20, 1))
    assert all(draft.finish is not None for draft in whole)
    for stem, draft in zip(half, whole, strict=True):
        assert draft.cut(stem.decided).tokens == stem.cut(stem.decided).tokens
        assert draft.logq is None or logq(draft)[: stem.decided].tolist() == list(stem.logq or ())
    if {"logq", "score"} <= case.engine.can:
        for draft, score in zip(whole, case.engine.score(whole), strict=True):
            assert_same(score, draft, case.tolerance)


def test_a_stop_string_ends_the_text_before_it(case: Case, alone: list[Draft]) -> None:
    if not case.stops:
        pytest.skip(f"{case.engine.name} takes no stop strings")
    case.needs("seed")
    letter = Counter(letter for draft in alone for letter in set(draft.text)).most_common(1)[0][0]
    stopping = case.engine.with_sampling(stop=[letter])
    drafts = stopping.extend(case.start(len(alone)), keys(len(alone)))
    expected = [draft.text.partition(letter)[0] for draft in alone]
    assert sum(draft.text == text for draft, text in zip(drafts, expected, strict=True)) >= len(alone) - 1
    stopped = [draft for draft, before in zip(drafts, alone, strict=True) if letter in before.text]
    assert len(stopped) > 20
    assert sum(draft.finish == "stop" for draft in stopped) >= len(stopped) - 1


def test_finished_drafts_come_back_unchanged_and_in_their_places(case: Case, alone: list[Draft]) -> None:
    new = case.start(2)[1]
    mixed = case.engine.extend([alone[0], new, alone[2], new], keys(4, 3))
    assert (mixed[0], mixed[2]) == (alone[0], alone[2])
    assert all(draft.prompt == new.prompt and draft.finish is not None for draft in (mixed[1], mixed[3]))
    assert case.engine.extend([], []) == []
    assert "score" not in case.engine.can or case.engine.score([]) == []


# ------------------------------------------------------------------------------------------------- work, views, claims


def test_a_meter_counts_what_its_own_engine_does(case: Case) -> None:
    work, other = Work(), Work()
    engine, silent = case.engine.metered(work), case.engine.metered(other)
    drafts = engine.extend(case.start(6), keys(6, 5))
    if "continue" in engine.can:  # else a response may be one piece
        assert work.generated == sum(draft.decided for draft in drafts)
    assert work.generated > 0
    assert work.forwards > 0
    assert work.scored == 0
    if "score" in engine.can:
        engine.score(drafts)
        assert work.scored == sum(draft.decided for draft in drafts)
    assert other == Work()
    assert silent.settings == engine.settings


def test_tokens_whose_cache_was_reused_are_counted(case: Case) -> None:
    case.needs("continue")
    work = Work()
    law = case.engine.metered(work)
    stems = law.extend([case.start(1)[0]] * 8, keys(8, 6), 2)
    stem = next(draft for draft in stems if draft.finish is None)
    before = work.cached
    law.extend([stem] * 4, keys(4, 7), 2)
    assert (work.cached > before) == case.caches


def test_a_view_has_another_law_over_the_same_tokens(case: Case, alone: list[Draft]) -> None:
    engine = case.engine
    settings = dict(engine.settings)
    heat = settings["temperature"]
    hot = engine.with_sampling(temperature=1.5 * heat)
    assert (hot.name, hot.alphabet, hot.max_tokens) == (engine.name, engine.alphabet, engine.max_tokens)
    assert dict(hot.settings) == settings | {"temperature": 1.5 * heat}
    assert dict(engine.settings) == settings
    assert dict(hot.with_sampling(temperature=heat).settings) == settings
    drafts = hot.extend(case.start(24), keys(24))
    if {"logq", "score"} <= hot.can:
        for draft, score in zip(drafts, hot.score(drafts), strict=True):
            assert_same(score, draft, case.tolerance)
    if "score" in engine.can:
        cold = np.mean(np.concatenate(engine.score(alone[:24])))
        assert np.mean(np.concatenate(engine.score(drafts))) < cold, "hotter draws are less likely"


def test_an_engine_can_what_it_claims_and_refuses_the_rest(case: Case) -> None:
    engine = case.engine
    drafts = engine.extend(case.start(4), keys(4, 8))
    assert all((draft.logq is not None) == ("logq" in engine.can) for draft in drafts)
    assert all(draft.logq is None or len(draft.logq) == draft.decided for draft in drafts)
    attempts: dict[str, Callable[[], Any]] = {
        "continue": lambda: engine.extend([engine.extend(case.start(1), keys(1), 1)[0]], keys(1), 1),
        "score": lambda: engine.score(drafts),
    }
    for ability, attempt in attempts.items():
        if ability in engine.can:
            attempt()
        else:
            with pytest.raises(CapabilityError):
                attempt()
    if "seed" in engine.can:
        assert [draft.tokens for draft in engine.extend(case.start(4), keys(4, 8))] == [draft.tokens for draft in drafts]
    assert ("certainty" in engine.can) == isinstance(engine, CertainEngine)
    if isinstance(engine, CertainEngine):
        assert [len(sure.entropy) for sure in engine.certainty(drafts)] == [draft.decided for draft in drafts]
