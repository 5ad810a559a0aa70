"""The engine of transformers models, held against the model itself on a network of random weights."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from exptilt.core import Engine  # noqa: E402
from exptilt.draft import MASK, Draft  # noqa: E402
from exptilt.engines.hf import Weights, network  # noqa: E402
from exptilt.engines.hf.loading import read_weights  # noqa: E402
from exptilt.engines.language import LanguageEngine  # noqa: E402
from exptilt.engines.loading import load  # noqa: E402
from exptilt.engines.sampling import Sampling  # noqa: E402
from exptilt.errors import ModelError, PromptError  # noqa: E402
from exptilt.keys import Key  # noqa: E402
from exptilt.usage import Work  # noqa: E402

END, OVER = 2, 3
SHORT = Sampling(max_tokens=24)
PROMPTS = ["one", "the second prompt is longer", "a third", "and the fourth prompt, which is the longest of them all"]


@pytest.fixture(scope="module")
def engine(model_folder: Path) -> LanguageEngine[Any]:
    made = load(f"hf:{model_folder}", max_tokens=24)
    assert isinstance(made, LanguageEngine)
    return made


@pytest.fixture
def fresh(model_folder: Path) -> LanguageEngine[Any]:
    """An engine with nothing cached yet, its Work its own."""
    return LanguageEngine(read_weights(model_folder, name="fresh"), SHORT)


def _nodes(node: Any) -> Iterator[Any]:
    """The nodes below one of a tree of prefixes."""
    for child in node.children.values():
        yield child
        yield from _nodes(child)


def keys(count: int, seed: int = 0) -> list[Key]:
    return [Key(seed, i) for i in range(count)]


def logq(draft: Draft) -> np.ndarray:
    assert draft.logq is not None
    return np.array(draft.logq)


def raw_logits(engine: LanguageEngine[Any], prompt: Any, tokens: Sequence[int]) -> np.ndarray:
    """Logits before each token of a response, from one plain pass of the model."""
    ids = [*engine.prompt_tokens(prompt), *tokens]
    with torch.inference_mode():
        logits = engine.backend.model(torch.tensor([ids])).logits[0].double().numpy()
    return logits[len(ids) - len(tokens) - 1 :]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def reference_law(logits: np.ndarray, temperature: float, top_k: int | None, top_p: float) -> np.ndarray:
    """Probabilities of one token by the book: temperature, then top_k, then top_p, then normalised."""
    p = np.exp(log_softmax(logits / temperature))
    if top_k is not None:
        p = np.where(p >= np.sort(p)[-top_k], p, 0.0)
        p = p / p.sum()
    order = np.argsort(-p)
    kept = np.concatenate([[0.0], np.cumsum(p[order])[:-1]]) < top_p
    p = np.where(np.isin(np.arange(len(p)), order[kept]), p, 0.0)
    return p / p.sum()


# ------------------------------------------------------------------------------------------------------------ the law


def test_it_is_an_engine(engine: LanguageEngine[Any]):
    assert isinstance(engine, Engine)
    assert engine.can == {"continue", "steps", "logq", "score", "certainty"}


@pytest.mark.parametrize(
    "sampling", [{}, {"temperature": 0.7}, {"top_k": 5}, {"top_p": 0.8}, {"temperature": 1.3, "top_k": 40, "top_p": 0.9}]
)
def test_recorded_and_scored_log_probabilities_agree_with_the_model(engine: LanguageEngine[Any], sampling: dict[str, Any]):
    law = engine.with_sampling(**sampling)
    drafts = law.extend([law.start(prompt) for prompt in PROMPTS], keys(4))
    for draft, scores in zip(drafts, law.score(drafts), strict=True):
        np.testing.assert_allclose(scores, logq(draft), atol=1e-5)
        logits = raw_logits(engine, draft.prompt, draft.tokens)
        options = {"temperature": 1.0, "top_k": None, "top_p": 1.0, **sampling}
        expected = [math.log(reference_law(row, **options)[token]) for row, token in zip(logits, draft.tokens, strict=False)]
        np.testing.assert_allclose(logq(draft), expected, atol=1e-5)


def test_scores_from_some_token_on_are_the_end_of_the_whole_score(engine: LanguageEngine[Any]):
    """What comes before is not evaluated again where its key-values are known, and not counted as scored."""
    law = engine.with_sampling(max_tokens=9)
    stems = law.extend([law.start("one"), law.start("two three")] * 2, keys(4), tokens=4)
    drafts = law.extend(stems, keys(4, 1))
    starts = [min(4, draft.decided) for draft in drafts]
    starts[0] = drafts[0].decided
    work = Work()
    parts = law.metered(work).score(drafts, starts)
    for whole, part, start in zip(law.score(drafts), parts, starts, strict=True):
        np.testing.assert_allclose(part, whole[start:], atol=1e-5)
    assert work.scored == sum(draft.decided - start for draft, start in zip(drafts, starts, strict=True))
    assert work.prompt == 0  # the stems were drawn just now
    assert law.score([], []) == []


def test_a_token_outside_the_support_scores_minus_infinity(engine: LanguageEngine[Any]):
    law = engine.with_sampling(top_k=3)
    draft = engine.extend([engine.start("one")], keys(1), tokens=6)[0]
    [scores] = law.score([draft])
    inside = [
        token in np.argsort(-row)[:3] for row, token in zip(raw_logits(engine, "one", draft.tokens), draft.tokens, strict=False)
    ]
    assert (scores > -math.inf).tolist() == inside
    assert not all(inside)


@pytest.mark.parametrize("sampling", [{"top_k": 3}, {"top_p": 0.5}, {"top_k": 20, "top_p": 0.6}])
def test_draws_stay_inside_the_support(engine: LanguageEngine[Any], sampling: dict[str, Any]):
    law = engine.with_sampling(**sampling)
    drafts = law.extend([law.start("one")] * 64, keys(64), tokens=1)
    options = {"temperature": 1.0, "top_k": None, "top_p": 1.0, **sampling}
    support = np.flatnonzero(reference_law(raw_logits(engine, "one", (5,))[0], **options))
    seen = {draft.tokens[0] for draft in drafts}
    assert seen <= set(support.tolist())
    assert len(seen) > 1


def test_top_p_that_needs_more_tokens_than_are_sorted_first(engine: LanguageEngine[Any], monkeypatch: pytest.MonkeyPatch):
    law = engine.with_sampling(temperature=5.0, top_p=0.95)
    drafts = law.extend([law.start("one")] * 8, keys(8), tokens=4)
    monkeypatch.setattr("exptilt.engines.distribution_torch.FIRST_LOOK", 4)
    for narrow, draft in zip(law.score(drafts), drafts, strict=True):
        np.testing.assert_allclose(narrow, logq(draft), atol=1e-5)


def test_continuations_follow_the_enumerated_law(engine: LanguageEngine[Any]):
    """Two tokens under top_k=4: 16 outcomes and the early ends, each within 5 standard errors of its probability."""
    law = engine.with_sampling(top_k=4, max_tokens=2, temperature=0.8)
    expected: dict[tuple[int, ...], float] = {}
    first = reference_law(raw_logits(engine, "one", (5,))[0], 0.8, 4, 1.0)
    for one in np.flatnonzero(first).tolist():
        second = reference_law(raw_logits(engine, "one", (one, 5))[1], 0.8, 4, 1.0)
        for two in np.flatnonzero(second).tolist():
            outcome = (one,) if one in (END, OVER) else (one, two)
            expected[outcome] = expected.get(outcome, 0.0) + first[one] * second[two]
    count = 4000
    drawn = Counter(draft.tokens for draft in law.extend([law.start("one")] * count, keys(count)))
    assert set(drawn) <= set(expected)
    for outcome, p in expected.items():
        assert abs(drawn[outcome] / count - p) < 5 * math.sqrt(p * (1 - p) / count), outcome


def test_a_law_with_one_token_has_log_probability_zero(engine: LanguageEngine[Any]):
    law = engine.with_sampling(top_k=1)
    [draft] = law.extend([law.start("one")], keys(1), tokens=5)
    assert draft.logq == (0.0,) * len(draft.tokens)


# -------------------------------------------------------------------------------------------------- batches and seeds


def test_seeds_give_the_same_drafts_among_16_threads(engine: LanguageEngine[Any]):
    def draw(i: int) -> list[Draft]:
        law = engine.with_sampling(temperature=0.5 + i % 3)
        return law.extend([law.start(PROMPTS[(i + j) % 4]) for j in range(3)], [Key(7, i, j) for j in range(3)])

    alone = [draw(i) for i in range(16)]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(draw, range(16)))
    assert [[d.tokens for d in drafts] for drafts in together] == [[d.tokens for d in drafts] for drafts in alone]


def test_few_places_and_little_memory_change_nothing(engine: LanguageEngine[Any], model_folder: Path):
    small = LanguageEngine(read_weights(model_folder, name="small", max_rows=3, memory=0), engine.sampling)
    started = [engine.start(PROMPTS[i % 4]) for i in range(12)]
    wide, narrow = engine.extend(started, keys(12)), small.extend(started, keys(12))
    assert [draft.tokens for draft in wide] == [draft.tokens for draft in narrow]


def test_uniforms_are_used_in_order(engine: LanguageEngine[Any]):
    [draft] = engine.extend([engine.start("one")], [Key(3)], tokens=4)
    uniforms = Key(3).rng().random(4)
    for u, token, row in zip(uniforms, draft.tokens, raw_logits(engine, "one", draft.tokens), strict=False):
        assert token == int(np.searchsorted(np.cumsum(np.exp(log_softmax(row))), u, side="right"))


# ------------------------------------------------------------------------------------------------------------ endings


def test_the_cap_is_an_outcome_and_an_end_drawn_last_is_a_stop(engine: LanguageEngine[Any]):
    law = engine.with_sampling(max_tokens=3)
    drafts = law.extend([law.start("one")] * 400, keys(400))
    for draft in drafts:
        ended = draft.tokens[-1] in (END, OVER)
        assert draft.finish == ("stop" if ended else "length")
        assert len(draft.tokens) == 3 or ended
        assert not set(draft.tokens[:-1]) & {END, OVER}
    assert any(draft.finish == "stop" and len(draft.tokens) == 3 for draft in drafts)
    assert {draft.tokens[-1] for draft in drafts if draft.finish == "stop"} == {END, OVER}, "every end of the model ends"
    assert all("<" not in draft.text or "<end>" not in draft.text for draft in drafts)


def test_the_end_of_text_is_scored(engine: LanguageEngine[Any]):
    drafts = engine.extend([engine.start("one")] * 64, keys(64))
    ended = next(draft for draft in drafts if draft.finish == "stop" and len(draft.tokens) > 1)
    [scores] = engine.score([ended])
    last = log_softmax(raw_logits(engine, "one", ended.tokens))[len(ended.tokens) - 1, ended.tokens[-1]]
    assert scores.shape == (len(ended.tokens),)
    assert scores[-1] == pytest.approx(last, abs=1e-5)


class Scripted(torch.nn.Module):
    """Wraps a model so that it writes a given text: the token after n tokens of response is the n-th of the script."""

    def __init__(self, model: Any, prompt: Sequence[int], script: Sequence[int]) -> None:
        torch.nn.Module.__init__(self)
        self.inner, self.config, self.generation_config = model, model.config, model.generation_config
        self.length, self.script, self._is_stateful, self._supports_attention_backend = len(prompt), script, False, False
        self.device, self.dtype = model.device, model.dtype

    def forward(self, input_ids: Any, position_ids: Any = None, logits_to_keep: Any = 0, **others: Any) -> Any:
        if position_ids is None:  # the whole text, read alone
            position_ids = torch.arange(input_ids.shape[1])[None]
        output = self.inner(input_ids=input_ids, position_ids=position_ids, logits_to_keep=logits_to_keep, **others)
        places = position_ids[:, -output.logits.shape[1] :] - self.length + 1
        for row, column in itertools.product(*map(range, places.shape)):
            place = min(max(int(places[row, column]), 0), len(self.script) - 1)
            output.logits[row, column] = (
                torch.nn.functional.one_hot(torch.tensor(self.script[place]), output.logits.shape[-1]) * 1e4
            )
        return output


def scripted(engine: LanguageEngine[Any], text: str, **sampling: Any) -> LanguageEngine[Any]:
    """An engine that answers "one" with `text` and an end."""
    tokenizer = engine.backend.text.tokenizer
    prompt = engine.prompt_tokens("one")
    model = Scripted(engine.backend.model, prompt, [*tokenizer(text, add_special_tokens=False).input_ids, END])
    weights = Weights(model, tokenizer, name="scripted")
    return LanguageEngine(weights, engine.with_sampling(max_tokens=64, **sampling).sampling)


def test_a_stop_string_that_straddles_tokens_ends_the_row(engine: LanguageEngine[Any]):
    law = scripted(engine, "first\n\nQ: next", stop=["\n\nQ:", "never"])
    [draft] = law.extend([law.start("one")], keys(1))
    assert draft.text == "first"
    assert draft.finish == "stop"
    assert bytes(engine.backend.text.tokenizer.decode(draft.tokens), "utf-8") == b"first\n\nQ:", "tokens keep what was drawn"


def test_a_stop_string_across_two_calls(engine: LanguageEngine[Any]):
    law = scripted(engine, "ab--cd", stop="--")
    [half] = law.extend([law.start("one")], keys(1), tokens=3)
    assert (half.text, half.finish) == ("ab-", None)
    [whole] = law.extend([half], keys(1))
    assert (whole.text, whole.finish, len(whole.tokens)) == ("ab", "stop", 4)


def test_characters_of_several_tokens_and_stops_that_end_in_one(engine: LanguageEngine[Any]):
    law = scripted(engine, "naïve 思考 done")
    [draft] = law.extend([law.start("one")], keys(1))
    assert draft.text == "naïve 思考 done"
    assert len(draft.tokens) == len("naïve 思考 done".encode()) + 1
    stopping = scripted(engine, "naïve 思考 done", stop="思")
    [draft] = stopping.extend([stopping.start("one")], keys(1))
    assert (draft.text, draft.finish, len(draft.tokens)) == ("naïve ", "stop", 10)


# ------------------------------------------------------------------------------------------- prefixes and their cost


def test_a_prompt_is_prefilled_once_for_all_its_rows(fresh: LanguageEngine[Any]):
    work = Work()
    law = fresh.metered(work)
    length = len(law.prompt_tokens("the second prompt is longer")) - 1
    begun = law.extend([law.start("the second prompt is longer")] * 8, keys(8), tokens=4)
    assert (work.prompt, work.cached) == (length, 7 * length)
    assert work.generated == sum(len(draft.tokens) for draft in begun)
    assert work.forwards == 1 + len({draft.tokens[:n] for draft in begun for n in range(len(draft.tokens))}), "equal rows once"
    assert work.scored == 0


def test_rollouts_of_candidates_prefill_nothing_again(fresh: LanguageEngine[Any]):
    begun = [draft for draft in fresh.extend([fresh.start("one")] * 4, keys(4), tokens=6) if draft.finish is None]
    work = Work()
    rolled = fresh.metered(work).extend([draft for draft in begun for _ in range(3)], keys(3 * len(begun), seed=1))
    assert work.prompt == 0
    assert work.cached == 3 * sum(len(fresh.prompt_tokens("one")) + len(d.tokens) - 1 for d in begun)
    for draft, scores in zip(rolled, fresh.score(rolled), strict=True):
        np.testing.assert_allclose(logq(draft), scores, atol=1e-5)


def test_redrawing_from_a_finished_draft_prefills_nothing_again(fresh: LanguageEngine[Any]):
    [draft] = fresh.extend([fresh.start("one")], keys(1))
    work = Work()
    [redrawn] = fresh.metered(work).extend([draft.cut(len(draft.tokens) // 2)], keys(1, seed=1))
    assert work.prompt == 0
    np.testing.assert_allclose(logq(redrawn), fresh.score([redrawn])[0], atol=1e-5)


def test_what_several_rows_share_is_prefilled_once(engine: LanguageEngine[Any], fresh: LanguageEngine[Any]):
    """Drafts of another engine over the same weights: nothing is cached, prompt and first tokens are shared."""
    [stem] = engine.extend([engine.start(PROMPTS[3])], [Key(5)], tokens=6)
    assert stem.finish is None
    grown = [draft for draft in engine.extend([stem] * 6, keys(6), tokens=5) if draft.finish is None]
    work = Work()
    fresh.metered(work).extend(grown, keys(len(grown)), tokens=2)
    common = len(fresh.prompt_tokens(PROMPTS[3])) + 6
    assert common + 4 * len(grown) >= work.prompt >= common
    assert work.prompt + work.cached == len(grown) * (common + 4)


def test_a_prefix_store_of_bounded_size(model_folder: Path):
    weights = read_weights(model_folder, name="small", memory=2**16)
    engine = LanguageEngine(weights, SHORT)
    engine.extend([engine.start(f"prompt number {i}") for i in range(50)], keys(50))
    store = weights.network.prefixes
    nodes = list(_nodes(store._root))
    assert 0 < store.used <= store.memory
    assert store.used == sum(node.bytes for node in nodes)
    assert {leaf for leaves in store._leaves.values() for leaf in leaves} == {node for node in nodes if not node.children}


def test_scoring_counts_its_work(fresh: LanguageEngine[Any]):
    drafts = fresh.extend([fresh.start("one")] * 3, keys(3))
    work = Work()
    fresh.metered(work).score([*drafts, fresh.start("one")])
    tokens = sum(len(draft.tokens) for draft in drafts)
    assert (work.scored, work.generated, work.prompt) == (tokens, 0, 0)
    assert work.forwards == 1, "one tree of what is alike"


def test_scoring_in_small_blocks_changes_nothing(engine: LanguageEngine[Any], monkeypatch: pytest.MonkeyPatch):
    drafts = engine.extend([engine.start(PROMPTS[i % 4]) for i in range(12)], keys(12))
    whole = engine.score(drafts)
    monkeypatch.setattr(network, "BLOCK_LOGITS", 2000)
    monkeypatch.setattr(network, "BLOCK_TOKENS", 60)
    for one, other in zip(whole, engine.score(drafts), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


# ------------------------------------------------------------------------------------------------- drafts in and out


def test_no_tokens_are_no_tokens(engine: LanguageEngine[Any]):
    [draft] = engine.extend([engine.start("one")], keys(1), tokens=0)
    assert draft == engine.start("one")
    assert engine.score([draft])[0].shape == (0,)
    with pytest.raises(ValueError, match="tokens=-1"):
        engine.extend([draft], keys(1), tokens=-1)


def test_a_draft_without_log_probabilities_stays_without(engine: LanguageEngine[Any]):
    [draft] = engine.extend([Draft("one", (40, 41), None)], keys(1), tokens=2)
    assert draft.logq is None
    assert draft.tokens[:2] == (40, 41)


def test_drafts_of_another_vocabulary_are_refused(engine: LanguageEngine[Any]):
    for tokens in ((5, 100_000), (5, MASK)):
        with pytest.raises(ValueError, match="same alphabet"):
            engine.extend([Draft("one", tokens, (-1.0, -1.0))], keys(1))
        with pytest.raises(ValueError, match="same alphabet"):
            engine.score([Draft("one", tokens, (-1.0, -1.0))])


def test_a_chat_template_is_used_where_there_is_one(chat_folder: Path):
    engine = load(f"hf:{chat_folder}", max_tokens=8)
    assert isinstance(engine, LanguageEngine)
    tokenizer = engine.backend.text.tokenizer

    def prompt(**options: Any) -> str:
        law = replace(engine, **options)
        return tokenizer.decode(law.prompt_tokens("hello"))

    assert prompt() == "<bos>u:hello;a:"
    assert prompt(system="be brief") == "<bos>s:be brief;u:hello;a:"
    assert prompt(template=False) == "<bos>hello"
    with pytest.raises(ValueError, match="chat template"):
        replace(engine, template=False, system="be brief")


def test_prompts_without_room_or_content_are_refused(engine: LanguageEngine[Any]):
    for empty in ("", " \n\t"):
        with pytest.raises(PromptError, match="empty"):
            engine.start(empty)
    with pytest.raises(PromptError, match=r"301 tokens and max_tokens is 24.* has 256: shorten the prompt or lower max_tokens"):
        engine.start("x" * 300)


# --------------------------------------------------------------------------------------------- settings and certainty


def test_settings_tell_laws_apart(engine: LanguageEngine[Any], chat_folder: Path):
    import json

    settings = json.loads(json.dumps(engine.settings))
    assert settings["max_tokens"] == 24
    assert settings["dtype"] == "float32"
    assert engine.with_sampling(temperature=0.5).settings != engine.settings
    assert engine.with_sampling(temperature=1.0).settings == engine.settings
    assert engine.alphabet == load(f"hf:{chat_folder}", max_tokens=8).alphabet


def test_views_share_weights(engine: LanguageEngine[Any]):
    view = engine.with_sampling(temperature=0.5).metered(Work())
    assert view.backend is engine.backend
    assert engine.sampling.temperature == 1.0


def test_certainty_is_of_the_law_before_truncation(engine: LanguageEngine[Any]):
    law = engine.with_sampling(temperature=0.7, top_k=5)
    drafts = law.extend([law.start(prompt) for prompt in PROMPTS[:2]], keys(2), tokens=6)
    for draft, sure in zip(drafts, law.certainty(drafts), strict=True):
        logs = log_softmax(raw_logits(engine, draft.prompt, draft.tokens)[: len(draft.tokens)] / 0.7)
        size = logs.shape[1]
        entropy = -(np.exp(logs) * logs).sum(axis=1)
        np.testing.assert_allclose(sure.entropy, entropy, atol=1e-5)
        np.testing.assert_allclose(sure.kl_to_uniform, math.log(size) - entropy, atol=1e-5)
        np.testing.assert_allclose(sure.kl_from_uniform, -math.log(size) - logs.mean(axis=1), atol=1e-5)


def test_a_failing_network_is_a_model_error(fresh: LanguageEngine[Any], monkeypatch: pytest.MonkeyPatch):
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of memory")

    started = [fresh.start("one")] * 2
    with monkeypatch.context() as patch:
        patch.setattr(fresh.backend.network, "feed", fail)
        with pytest.raises(ModelError, match="out of memory"):
            fresh.extend(started, keys(2))
    assert all(draft.finish for draft in fresh.extend(started, keys(2))), "the engine goes on afterwards"


SHAPE = {
    "vocab_size": 260, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.15, "head_dim": 8, "sliding_window": 8,
    "bos_token_id": 1, "eos_token_id": END, "pad_token_id": 0,
}  # fmt: skip
SMALL_GPT2 = {"vocab_size": 260, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "eos_token_id": END}
SMALL_BLOOM = {"vocab_size": 260, "hidden_size": 32, "n_layer": 2, "n_head": 4, "eos_token_id": END}


@pytest.mark.parametrize(
    ("kind", "shape"),
    [("Mistral", SHAPE), ("Gemma2", SHAPE), ("GPT2", SMALL_GPT2), ("Bloom", SMALL_BLOOM)],
    ids=["sliding window", "sliding and full", "learned positions", "ALiBi"],
)
def test_other_kinds_of_attention_and_positions(engine: LanguageEngine[Any], kind: str, shape: dict[str, Any]):
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**shape)
    model = getattr(transformers, "GPT2LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM")(config)
    law = LanguageEngine(Weights(model, engine.backend.text.tokenizer, name=kind), SHORT)
    begun = law.extend([law.start(PROMPTS[i % 4]) for i in range(8)], keys(8), tokens=7)
    for draft in law.extend(begun, keys(8, seed=1)):
        [scores] = law.score([draft])
        logs = log_softmax(raw_logits(law, draft.prompt, draft.tokens))
        expected = [row[token] for row, token in zip(logs, draft.tokens, strict=False)]
        np.testing.assert_allclose(logq(draft), expected, atol=1e-5)
        np.testing.assert_allclose(scores, expected, atol=1e-5)
