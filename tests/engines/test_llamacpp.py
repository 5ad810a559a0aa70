"""The engine of GGUF models in llama.cpp, held against transformers on the same float32 weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llama_cpp")
pytest.importorskip("gguf")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from exptilt.core import Engine  # noqa: E402
from exptilt.draft import MASK, Draft  # noqa: E402
from exptilt.engines import distribution_numpy  # noqa: E402
from exptilt.engines.distribution_torch import Laws  # noqa: E402
from exptilt.engines.distribution_torch import log_probability as hf_log_probability  # noqa: E402
from exptilt.engines.language import LanguageEngine  # noqa: E402
from exptilt.engines.llamacpp import network  # noqa: E402
from exptilt.engines.llamacpp.loading import read_weights  # noqa: E402
from exptilt.engines.loading import load  # noqa: E402
from exptilt.engines.sampling import Sampling  # noqa: E402
from exptilt.errors import ModelError, PromptError  # noqa: E402
from exptilt.keys import Key  # noqa: E402
from exptilt.serve.room import Room, room_of  # noqa: E402
from exptilt.usage import Work  # noqa: E402

from .gguf_tiny import TINY, tiny_gguf, write_gguf  # noqa: E402
from .laws import agree, check_law, prefixes  # noqa: E402

QUESTIONS = [
    "Tom has 3 apples and buys 4 more. How many apples does Tom have?",
    "Anna had 12 pens. She gave 5 to Ben and lost 2. How many pens are left?",
    "A box holds 6 eggs. How many eggs are in 3 boxes?",
]
PROMPTS = ["one", "the second prompt is longer", "a third", "and the fourth prompt, which is the longest of them all"]
MEMORY = 2**24  # bytes


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="module")
def tiny(tiny_file: Path) -> Iterator[LanguageEngine[Any]]:
    made = load(f"llamacpp:{tiny_file}", tokenizer=TINY, max_tokens=48, memory=MEMORY, threads=1)
    assert isinstance(made, LanguageEngine)
    yield made
    made.backend.close()


@pytest.fixture(scope="module")
def reference() -> LanguageEngine[Any]:
    made = load("tiny", max_tokens=48)
    assert isinstance(made, LanguageEngine)
    return made


@pytest.fixture(scope="module")
def file(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights and a byte-level vocabulary, which llama.cpp can tokenize itself."""
    return write_gguf(model_folder, tmp_path_factory.mktemp("gguf") / "random.gguf")


@pytest.fixture
def fresh(file: Path) -> Iterator[LanguageEngine[Any]]:
    """An engine with nothing known yet."""
    weights = read_weights(file, name="fresh", memory=MEMORY, threads=1)
    yield LanguageEngine(weights, Sampling(max_tokens=24))
    weights.close()


def keys(count: int, seed: int = 0) -> list[Key]:
    return [Key(seed, i) for i in range(count)]


def logq(draft: Draft) -> np.ndarray:
    assert draft.logq is not None
    return np.array(draft.logq)


# ------------------------------------------------------------------------------------------------------------ the law


def test_it_is_an_engine(tiny: LanguageEngine[Any]):
    assert isinstance(tiny, Engine)
    assert tiny.can == {"continue", "steps", "logq", "score", "certainty"}
    assert tiny.settings["engine"] == "llamacpp"


LAWS = [{}, {"temperature": 0.7}, {"top_k": 5}, {"top_p": 0.8}, {"temperature": 1.3, "top_k": 40, "top_p": 0.9}]


@pytest.mark.parametrize("sampling", LAWS)
def test_draws_and_log_probabilities_are_those_of_transformers(
    tiny: LanguageEngine[Any], reference: LanguageEngine[Any], sampling: dict[str, Any]
):
    """The same seeds give the same drafts, and each log-probability agrees with the score and with the other engine."""
    ours, theirs = tiny.with_sampling(**sampling), reference.with_sampling(**sampling)
    drafts = ours.extend([ours.start(QUESTIONS[i % 3]) for i in range(12)], keys(12))
    assert drafts == [
        replace(draft, logq=found.logq)
        for draft, found in zip(theirs.extend([theirs.start(QUESTIONS[i % 3]) for i in range(12)], keys(12)), drafts, strict=True)
    ]
    for draft, scores, others in zip(drafts, ours.score(drafts), theirs.score(drafts), strict=True):
        np.testing.assert_allclose(logq(draft), scores, atol=1e-5)
        np.testing.assert_allclose(scores, others, atol=1e-4)


def test_certainty_is_that_of_transformers(tiny: LanguageEngine[Any], reference: LanguageEngine[Any]):
    drafts = tiny.extend([tiny.start(question) for question in QUESTIONS], keys(3))
    for one, other in zip(tiny.certainty(drafts), reference.certainty(drafts), strict=True):
        np.testing.assert_allclose(one.entropy, other.entropy, atol=1e-4)
        np.testing.assert_allclose(one.kl_to_uniform, other.kl_to_uniform, atol=1e-4)
        np.testing.assert_allclose(one.kl_from_uniform, other.kl_from_uniform, atol=1e-4)


def test_penalties_and_bias_are_those_of_transformers(tiny: LanguageEngine[Any], reference: LanguageEngine[Any]):
    """Drawn in blocks, so that penalties count tokens of earlier calls, and rated in parts that begin anywhere."""
    law = {"repetition_penalty": 1.3, "frequency_penalty": 0.4, "presence_penalty": 0.2, "logit_bias": {30: 2.0}, "min_p": 0.01}
    one, other = tiny.with_sampling(**law), reference.with_sampling(**law)
    drafts = one.extend([one.start(question) for question in QUESTIONS], keys(3), 5)
    drafts = one.extend(drafts, keys(3, 1))
    for draft, score, wanted in zip(drafts, one.score(drafts), other.score(drafts), strict=True):
        np.testing.assert_allclose(draft.logq or (), score, atol=1e-3)
        np.testing.assert_allclose(score, wanted, atol=1e-3)
    with pytest.raises(ValueError, match="logit_bias names the token"):
        tiny.with_sampling(logit_bias={10**7: 1.0})


@pytest.mark.parametrize("sampling", [*LAWS[2:], {"top_k": 1}, {"top_p": 1e-9}, {"temperature": 9.0, "top_p": 0.97}])
def test_the_law_in_numpy_is_the_law_in_torch(sampling: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(distribution_numpy, "FIRST_LOOK", 8)
    logits = np.random.default_rng(0).normal(0, 3, (2, 300)).round(1).astype(np.float32)  # with ties
    parameters = Sampling(**sampling)
    for row in logits:
        laws = Laws.of([parameters] * 300, 300, torch.device("cpu"))
        expected = hf_log_probability(torch.tensor(row).expand(300, 300), laws, torch.arange(300)).numpy()
        found = distribution_numpy.log_probability(np.broadcast_to(row, (300, 300)), range(300), parameters)[:, 0]
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert np.exp(found).sum() == pytest.approx(1.0)
        uniforms = np.linspace(0, 1, 500, endpoint=False).tolist()
        tokens, values = distribution_numpy.draw(np.broadcast_to(row, (500, 300)), [parameters] * 500, uniforms)
        assert distribution_numpy.draw_several(row[None], [parameters], [uniforms]) == [[*zip(tokens, values, strict=True)]]
        np.testing.assert_allclose(values, found[tokens])
        assert tokens == np.minimum(np.searchsorted(np.exp(found).cumsum(), uniforms, side="right"), max(tokens)).tolist()


def test_logits_that_are_nan_are_an_error():
    with pytest.raises(ModelError, match="NaN"):
        distribution_numpy.draw(np.full((1, 4), np.nan, dtype=np.float32), [Sampling()], [0.5])


def test_continuations_follow_the_models_distribution(fresh: LanguageEngine[Any], model_folder: Path):
    """Three tokens under top_k=3: each outcome within 5 standard errors of its probability by the other engine."""
    ours, count = fresh.with_sampling(top_k=3, max_tokens=3), 1000
    drafts = ours.extend([ours.start("one")] * count, keys(count, seed=2))
    outcomes = list(dict.fromkeys(drafts))
    scores = load(f"hf:{model_folder}", top_k=3, max_tokens=3).score(outcomes)
    law = {draft.tokens: math.exp(score.sum()) for draft, score in zip(outcomes, scores, strict=True)}
    check_law(drafts, law, lambda draft: draft.tokens)
    assert sum(law.values()) > 1 - 40 / count, "what never came is improbable"
    assert len(outcomes) > 15


# -------------------------------------------------------------------------------------------------- batches and seeds


def test_a_batch_gives_what_single_calls_give(fresh: LanguageEngine[Any]):
    started = [fresh.start(PROMPTS[i % 4]) for i in range(16)]
    together = fresh.extend(started, keys(16))
    alone = [fresh.extend([draft], [key])[0] for draft, key in zip(started, keys(16), strict=True)]
    for one, other in zip(together, alone, strict=True):
        assert (one.tokens, one.text, one.finish) == (other.tokens, other.text, other.finish)
        np.testing.assert_allclose(logq(one), logq(other), atol=2e-5)
    assert len({draft.tokens for draft in fresh.extend([fresh.start("one")] * 16, keys(16))}) == 16, "other keys, other drafts"


def test_seeds_give_the_same_drafts_among_threads(fresh: LanguageEngine[Any]):
    def draw(i: int) -> list[tuple[tuple[int, ...], list[float]]]:
        law = fresh.with_sampling(temperature=0.5 + i % 3)
        drafts = law.extend([law.start(PROMPTS[(i + j) % 4]) for j in range(3)], [Key(7, i, j) for j in range(3)])
        return [(draft.tokens, score.round(3).tolist()) for draft, score in zip(drafts, law.score(drafts), strict=True)]

    alone = [draw(i) for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(draw, range(8)))
    assert [[tokens for tokens, _ in drafts] for drafts in together] == [[tokens for tokens, _ in drafts] for drafts in alone]


@pytest.mark.parametrize(("max_rows", "cells"), [(3, 200), (64, 130)])
def test_rows_wait_for_room_and_never_fail(fresh: LanguageEngine[Any], file: Path, max_rows: int, cells: int):
    """Few rows at once, or memory for two or three of them: the same drafts and scores come, later."""
    per_cell = MEMORY // fresh.backend.network.cells
    small = LanguageEngine(
        read_weights(file, name="small", memory=cells * per_cell, max_rows=max_rows, threads=1), fresh.sampling
    )
    assert small.backend.network.cells == cells
    started = [fresh.start(PROMPTS[i % 4]) for i in range(12)]
    wide, narrow = fresh.extend(started, keys(12)), small.extend(started, keys(12))
    assert [draft.tokens for draft in wide] == [draft.tokens for draft in narrow]
    with ThreadPoolExecutor(2) as pool:
        scored, drawn = pool.submit(small.score, narrow), pool.submit(small.extend, started, keys(12))
        for scores, draft in zip(scored.result(), narrow, strict=True):
            np.testing.assert_allclose(scores, logq(draft), atol=2e-5)
        assert [draft.tokens for draft in drawn.result()] == [draft.tokens for draft in narrow]
    decoder: Any = small.backend.scheduler.batch
    assert not decoder.branches
    assert not decoder.waiting
    while decoder.memory.kept:
        decoder.memory._evict()
    assert decoder.memory.free == cells, "every cell comes back"
    small.backend.close()


def test_an_error_of_llamacpp_reaches_the_caller_and_leaves_room(fresh: LanguageEngine[Any], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(network.llama_cpp, "llama_decode", lambda *_: -3)
    with pytest.raises(ModelError, match=r"llama.cpp failed to evaluate .* \(code -3\)"):
        fresh.extend([fresh.start("one")] * 3, keys(3))
    with pytest.raises(ModelError, match="code -3"):
        fresh.score([Draft("one", (40, 41), None)])
    monkeypatch.undo()
    decoder: Any = fresh.backend.scheduler.batch
    [draft] = fresh.extend([fresh.start("one")], keys(1))
    np.testing.assert_allclose(fresh.score([draft])[0], logq(draft), atol=1e-5)
    assert not decoder.branches


# ----------------------------------------------------------------------------------------------------------- branches


@pytest.mark.parametrize("prompt", [PROMPTS[0], PROMPTS[3]])
def test_equal_rows_are_one_forward_and_draw_as_if_alone(fresh: LanguageEngine[Any], prompt: str):
    """Evaluated twice, or parted late, they would cost more than their distinct prefixes; parted wrongly, scores would differ."""
    law = fresh.with_sampling(top_k=3, max_tokens=8)
    work = Work()
    together = law.metered(work).extend([law.start(prompt)] * 24, keys(24))
    assert work.forwards == 1 + prefixes(together) < work.generated, "and one to read the prompt"
    agree(law, together, [law.extend([law.start(prompt)], [key])[0] for key in keys(24)], atol=2e-5)


def test_rows_of_several_candidates_laws_and_prompts_share_no_branch_they_should_not(fresh: LanguageEngine[Any]):
    """Rollouts go on from their candidates; some end inside of a branch that others go on with, and are found again."""
    law, warm = fresh.with_sampling(top_k=3, max_tokens=9), fresh.with_sampling(temperature=3.0, top_k=3, max_tokens=9)
    starts = [law.start(PROMPTS[i % 2]) for i in range(8)]
    begun = law.extend(starts, keys(8), 3)
    going = [draft for draft in begun if draft.finish is None for _ in range(5)]
    seeds = [Key(1, i) for i in range(len(going))]
    work = Work()
    rolled = law.metered(work).extend(going, seeds)
    assert work.forwards == prefixes(rolled, start=3) < work.generated, "their beginnings are known"
    agree(law, rolled, [law.extend([draft], [key])[0] for draft, key in zip(going, seeds, strict=True)], atol=2e-5)
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(each.extend, starts, keys(8)) for each in (law, warm)]
        cold, hot = (each.result() for each in both)
    assert cold != hot
    agree(warm, hot, [warm.extend([start], [key])[0] for start, key in zip(starts, keys(8), strict=True)], atol=2e-5)


def test_a_branch_loses_the_rows_that_are_given_up(fresh: LanguageEngine[Any]):
    """The rows that stay go on in the branch; its cells come back with the last of them."""
    decoder: Any = fresh.backend.scheduler.batch
    law, context = fresh.sampling, fresh.prompt_tokens(PROMPTS[3])
    rows = [fresh.backend.layout.row(fresh.start(PROMPTS[3]), context, law, key, None) for key in keys(6)]
    decoder.join(rows)
    assert (len(decoder.branches), decoder.rows) == (1, rows)
    decoder.leave(rows[:5])
    while decoder.rows:
        decoder.step()
    assert (rows[5].tokens,) == tuple(list(each.tokens) for each in fresh.extend([fresh.start(PROMPTS[3])], keys(6)[5:]))
    decoder.join(again := [fresh.backend.layout.row(fresh.start(PROMPTS[3]), context, law, key, None) for key in keys(6)])
    decoder.leave(again)
    while decoder.memory.kept:
        decoder.memory._evict()
    assert decoder.memory.free == fresh.backend.network.cells


# ------------------------------------------------------------------------------------------------------------ endings


def test_the_cap_is_an_outcome_and_an_end_drawn_last_is_a_stop(fresh: LanguageEngine[Any]):
    law = fresh.with_sampling(max_tokens=3)
    [end] = fresh.backend.text.ends
    drafts = law.extend([law.start("one")] * 300, keys(300))
    for draft in drafts:
        assert draft.finish == ("stop" if draft.tokens[-1] == end else "length")
        assert len(draft.tokens) == 3 or draft.tokens[-1] == end
        assert end not in draft.tokens[:-1]
        assert "<end>" not in draft.text
    assert any(draft.finish == "stop" for draft in drafts)


def test_stop_strings_end_rows_while_they_decode(tiny: LanguageEngine[Any]):
    """A stop string that straddles tokens: the text ends before it, and what follows is never drawn."""
    law = tiny.with_sampling(stop=["= ", "\n"])
    plain = tiny.extend([tiny.start(question) for question in QUESTIONS * 3], keys(9))
    stopped = law.extend([law.start(question) for question in QUESTIONS * 3], keys(9))
    assert any("= " in draft.text for draft in plain)
    for long, short in zip(plain, stopped, strict=True):
        assert short.text == law.sampling.before_stop(long.text)
        assert short.tokens == long.tokens[: len(short.tokens)]
        if short.text != long.text:
            assert short.finish == "stop"
            assert len(short.tokens) < len(long.tokens)


# ------------------------------------------------------------------------------------------- prefixes and their cost


def test_a_prompt_is_evaluated_once_for_all_its_rows(fresh: LanguageEngine[Any]):
    work = Work()
    law = fresh.metered(work)
    length = len(law.prompt_tokens(PROMPTS[1])) - 1
    begun = law.extend([law.start(PROMPTS[1])] * 8, keys(8), tokens=4)
    assert (work.prompt, work.cached) == (length, 7 * length)
    assert work.generated == sum(len(draft.tokens) for draft in begun)
    assert work.forwards == prefixes(begun) + 1
    assert work.scored == 0


def test_rollouts_of_candidates_evaluate_nothing_again(fresh: LanguageEngine[Any]):
    begun = [draft for draft in fresh.extend([fresh.start("one")] * 4, keys(4), tokens=6) if draft.finish is None]
    work = Work()
    rolled = fresh.metered(work).extend([draft for draft in begun for _ in range(3)], keys(3 * len(begun), seed=1))
    assert work.prompt == 0
    assert work.cached == 3 * sum(len(fresh.prompt_tokens("one")) + len(d.tokens) - 1 for d in begun)
    work = Work()
    scored = fresh.metered(work).score(rolled, [6] * len(rolled))
    assert work.prompt == 0, "the candidates are known"
    assert work.scored == sum(len(scores) for scores in scored)
    for draft, scores in zip(rolled, scored, strict=True):
        np.testing.assert_allclose(logq(draft)[6:], scores, atol=1e-5)


def test_redrawing_from_a_finished_draft_evaluates_nothing_again(fresh: LanguageEngine[Any]):
    [draft] = fresh.extend([fresh.start("one")], keys(1))
    work = Work()
    [redrawn] = fresh.metered(work).extend([draft.cut(len(draft.tokens) // 2)], keys(1, seed=1))
    assert work.prompt == 0
    np.testing.assert_allclose(logq(redrawn), fresh.score([redrawn])[0], atol=1e-5)


def test_what_several_rows_share_is_evaluated_once(fresh: LanguageEngine[Any], file: Path):
    """Drafts of another engine over the same weights: nothing is known; prompt, stem and branches count once each."""
    other = LanguageEngine(read_weights(file, name="other", memory=MEMORY, threads=1), fresh.sampling)
    [stem] = other.extend([other.start(PROMPTS[3])], [Key(5)], tokens=6)
    grown = [draft for draft in other.extend([stem] * 6, keys(6), tokens=5) if draft.finish is None]
    other.backend.close()
    work = Work()
    fresh.metered(work).extend(grown, keys(len(grown)), tokens=2)
    prompt = fresh.prompt_tokens(PROMPTS[3])
    prefixes = {(*prompt, *draft.tokens[:-1])[:length] for draft in grown for length in range(1, len(prompt) + 11)}
    assert work.prompt == len(prefixes), "one evaluation for each distinct beginning"
    assert work.prompt + work.cached == len(grown) * (len(prompt) + 10)


def test_scores_from_some_token_on_are_the_end_of_the_whole_score(fresh: LanguageEngine[Any]):
    drafts = fresh.extend([fresh.start(prompt) for prompt in PROMPTS], keys(4))
    starts = [len(drafts[0].tokens), 1, 2, 0]
    for whole, part, start in zip(fresh.score(drafts), fresh.score(drafts, starts), starts, strict=True):
        np.testing.assert_allclose(part, whole[start:], atol=1e-5)
    assert fresh.score([]) == []


def test_long_drafts_are_rated_in_parts(fresh: LanguageEngine[Any], monkeypatch: pytest.MonkeyPatch):
    drafts = fresh.extend([fresh.start(prompt) for prompt in PROMPTS], keys(4))
    whole = fresh.score(drafts)
    monkeypatch.setattr("exptilt.engines.llamacpp.decode.OUTPUTS", 7)
    monkeypatch.setattr("exptilt.engines.llamacpp.decode.BATCH_TOKENS", 5)
    for one, other in zip(whole, fresh.score(drafts), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


# ------------------------------------------------------------------------------------------------- drafts in and out


def test_finished_empty_and_foreign_drafts(fresh: LanguageEngine[Any]):
    [done] = fresh.extend([fresh.start("one")], keys(1))
    drafts = fresh.extend([done, fresh.start("a third"), done], keys(3), tokens=0)
    assert drafts == [done, fresh.start("a third"), done]
    assert fresh.extend([], []) == []
    assert fresh.score([fresh.start("one")])[0].shape == (0,)
    [draft] = fresh.extend([Draft("one", (40, 41), None)], keys(1), tokens=2)
    assert draft.logq is None
    with pytest.raises(ValueError, match="tokens=-1"):
        fresh.extend([draft], keys(1), tokens=-1)
    for tokens in ((5, 100_000), (5, MASK)):
        with pytest.raises(ValueError, match="same alphabet"):
            fresh.score([Draft("one", tokens, None)])
    with pytest.raises(PromptError, match="the context of fresh has 256"):
        fresh.start("far too long " * 40)
    with pytest.raises(PromptError, match="is empty"):
        fresh.start(" ")


# ---------------------------------------------------------------------------------------- tokenizer, template, loading


@pytest.mark.parametrize("folder", ["model_folder", "chat_folder"])
def test_prompts_texts_and_alphabet_are_those_of_transformers(folder: str, request: pytest.FixtureRequest, tmp_path: Path):
    theirs = load(f"hf:{request.getfixturevalue(folder)}", max_tokens=8)
    ours = load(f"llamacpp:{write_gguf(request.getfixturevalue(folder), tmp_path / 'm.gguf')}", max_tokens=8, memory=MEMORY)
    assert isinstance(theirs, LanguageEngine)
    assert isinstance(ours, LanguageEngine)
    assert ours.alphabet == theirs.alphabet
    assert {2} <= ours.backend.text.ends <= theirs.backend.text.ends
    for prompt in ["hello", "naïve 思考\n\n  and <end> 1234 ", "<bos>twice"]:
        for system, template in [(None, True), (None, False), ("be brief", True)][: 3 if folder == "chat_folder" else 2]:
            ids = replace(theirs, system=system, template=template).prompt_tokens(prompt)
            assert replace(ours, system=system, template=template).prompt_tokens(prompt) == ids
            assert ours.backend.text.decode([ids, ids[:-3]]) == theirs.backend.text.decode([ids, ids[:-3]])
    if folder == "model_folder":
        with pytest.raises(ValueError, match="chat template"):
            replace(ours, system="be brief")
    ours.backend.close()


def test_a_template_that_refuses_is_a_prompt_error(fresh: LanguageEngine[Any], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fresh.backend.text.tokenizer, "chat_template", "{{ raise_exception('no system turn here') }}")
    with pytest.raises(PromptError, match="no system turn here"):
        fresh.start("one")


def test_what_cannot_be_loaded_says_why(tmp_path: Path, file: Path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"not a model")
    with pytest.raises(ModelError, match=r"cannot be read by llama.cpp: .*whole GGUF file"):
        load(f"llamacpp:{broken}")
    with pytest.raises(ModelError, match="there is no file"):
        load("llamacpp:/no/such/file.gguf")
    with pytest.raises(ModelError, match="cannot be read by transformers"):
        load(f"llamacpp:{file}", tokenizer=str(tmp_path))
    with pytest.raises(ModelError, match=r"has 768 tokens and the model .* 260"):
        load(f"llamacpp:{file}", tokenizer=TINY, max_tokens=8)
    for options, message in [
        ({"dtype": "bfloat16"}, "dtype='bfloat16'"),
        ({"device": "tpu"}, "device='tpu'"),
        ({"max_rows": 500}, "max_rows=500"),
        ({"memory": 10}, "memory=10 bytes hold no token"),
        ({"max_tokens": 256}, "max_tokens=256 leaves no room"),
    ]:
        with pytest.raises(ValueError, match=message):
            load(f"llamacpp:{file}", **{"max_tokens": 8, **options})


def test_a_closed_engine_says_so(file: Path):
    engine = load(f"llamacpp:{file}", max_tokens=8, memory=MEMORY)
    assert isinstance(engine, LanguageEngine)
    engine.backend.close()
    with pytest.raises(ModelError, match="is closed"):
        engine.extend([Draft("one")], keys(1))


def test_a_server_gives_out_the_tokens_that_llamacpp_has_cells_for(tiny: LanguageEngine[Any]) -> None:
    assert room_of([tiny]) == Room(tokens=tiny.backend.network.cells)
