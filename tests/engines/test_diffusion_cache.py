"""Block caches: the laws of cached decoding against a second way to keep keys and values, and models that cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import exptilt as xt
from exptilt.core import Work
from exptilt.draft import MASK
from exptilt.errors import ModelError

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
import transformers

from exptilt.engines.diffusion import DiffusionSampling, MaskedWeights
from exptilt.engines.diffusion.network import MaskedNetwork
from exptilt.engines.language import LanguageEngine
from tests.engines.test_diffusion import (
    END,
    MASKED,
    WORDS,
    Oracle,
    check_law,
    draws,
    filler,
    keys,
    word_tokenizer,
)

SHAPE: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}
SPREAD = 0.3  # of the random weights: with more of it a few responses have all the mass


def network(kind: str, **config: Any) -> Any:
    """A small model of random weights, large enough that every position minds the others."""
    ids = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": END, "mask_token_id": MASKED}
    shape = {**SHAPE, "vocab_size": len(WORDS), **ids, **config}
    made = getattr(transformers, f"{kind}ForMaskedLM")(getattr(transformers, f"{kind}Config")(**shape))
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * SPREAD)
    return made.eval()


@pytest.fixture(scope="module")
def weights() -> dict[bool, MaskedWeights]:
    """Two decoders of one network, without and with shifted logits."""
    model = network("EuroBert")
    return {
        shifted: MaskedWeights(model, word_tokenizer(), mask=MASKED, ends=[END], name="small", shifted=shifted)
        for shifted in (False, True)
    }


class Notebook:
    """Keys and values by layer, handed to the model as its own cache: transformers' way, not that of the engine."""

    def __init__(self, kept: dict[int, tuple[torch.Tensor, torch.Tensor]] | None = None) -> None:
        self.kept, self.seen = kept or {}, {}

    def update(self, key: torch.Tensor, value: torch.Tensor, layer: int, *more: Any) -> tuple[torch.Tensor, torch.Tensor]:
        self.seen[layer] = (key, value)
        old = self.kept.get(layer, (key[:, :, :0], value[:, :, :0]))
        return torch.cat([old[0], key], dim=2), torch.cat([old[1], value], dim=2)


class CachedOracle(Oracle):
    """The law of paths with a block cache, from its documentation."""

    def probabilities(self, state: tuple[int, ...]) -> np.ndarray:
        ids = [*self.prompt, *[MASKED if token == MASK else token for token in state]]
        size = self.law.block or self.law.max_tokens
        first = len(self.prompt) + sum(token != MASK for token in state) // size * size
        last = len(ids) if self.law.cache == "prefix" else min(first + size, len(ids))
        shift = self.engine.backend.network.shifted
        begun, model = [*ids[:first], *[MASKED] * (len(ids) - first)], self.engine.backend.model
        with torch.inference_mode():
            whole = Notebook()
            logits = model(input_ids=torch.tensor([begun]), past_key_values=whole).logits[0]
            if begun != ids:
                window = torch.arange(first - shift, last)
                rest = [place for place in range(len(ids)) if place not in window]
                kept = {layer: (key[:, :, rest], value[:, :, rest]) for layer, (key, value) in whole.seen.items()}
                tokens = torch.tensor([ids])[:, window]
                logits[window] = model(
                    input_ids=tokens, position_ids=window[None], past_key_values=Notebook(kept)
                ).logits[0]  # fmt: skip
        begin = len(self.prompt) - shift
        values = logits[begin : begin + len(state)].double().numpy() / self.law.temperature
        values[:, MASKED] = -np.inf
        return np.exp(values) / np.exp(values).sum(axis=1, keepdims=True)


CACHED = {
    "dual": DiffusionSampling(max_tokens=4, block=2, order="left", cache="dual"),
    "prefix": DiffusionSampling(max_tokens=4, block=2, order="left", cache="prefix"),
    "dual, surest first": DiffusionSampling(max_tokens=4, block=3, cache="dual", temperature=2.0),
    "dual, threshold": DiffusionSampling(max_tokens=4, block=None, cache="dual", order="left", threshold=0.6),
    "prefix, random": DiffusionSampling(max_tokens=3, block=None, cache="prefix", order="random"),
}


@pytest.mark.parametrize("shifted", [False, True], ids=["straight", "shifted"])
@pytest.mark.parametrize("name", CACHED)
def test_cached_draws_follow_the_enumerated_law(name: str, shifted: bool, weights: dict[bool, MaskedWeights]) -> None:
    """Decision by decision, each a call of its own: what was kept is made again, and must be the same."""
    engine = LanguageEngine(weights[shifted], CACHED[name])
    oracle = CachedOracle(engine)
    law = oracle.enumerate()
    check_law(draws(engine, 1000, 1 if shifted else None), law)
    exact = Oracle(engine.with_sampling(cache="none")).enumerate()
    assert 0.5 * sum(abs(law[tokens] - exact.get(tokens, 0.0)) for tokens in law) > 0.01


@pytest.mark.parametrize("shifted", [False, True], ids=["straight", "shifted"])
@pytest.mark.parametrize("name", CACHED)
def test_cached_scores_are_what_was_recorded(name: str, shifted: bool, weights: dict[bool, MaskedWeights]) -> None:
    """Along the whole path, from any decision on, and for a draft that was cut anywhere and went on."""
    engine = LanguageEngine(weights[shifted], CACHED[name])
    drafts = engine.extend([engine.start(prompt) for prompt in ("a", "a b", "b b a b") * 5], keys(15))
    went_on = engine.extend([draft.cut(number % 4) for number, draft in enumerate(drafts)], keys(15, "more"))
    for some in (drafts, went_on):
        for draft, score in zip(some, engine.score(some), strict=True):
            assert np.allclose(score, draft.logq or (), atol=1e-5)
        for draft, score in zip(some, engine.score(some, [1] * 15), strict=True):
            assert np.allclose(score, (draft.logq or ())[1:], atol=1e-5)
    oracle = CachedOracle(engine)
    if engine.sampling.threshold is None:
        for draft in [draft for draft in drafts if draft.prompt == "a b"]:
            state = [MASK] * engine.max_tokens
            for place, logq in zip(draft.order or (), draft.logq or (), strict=True):
                assert np.log(oracle.probabilities(tuple(state))[place, draft.tokens[place]]) == pytest.approx(logq, abs=1e-5)
                state[place] = draft.tokens[place]


@pytest.mark.parametrize("guidance", [0.0, 0.7])
def test_cached_rows_do_not_depend_on_their_neighbours(guidance: float, weights: dict[bool, MaskedWeights]) -> None:
    """Prompts of unequal length, blocks at unequal progress, cached laws and others in one batch."""
    laws = [
        LanguageEngine(
            weights[True], DiffusionSampling(max_tokens=6, block=3, cache=cache, guidance=guidance, threshold=threshold)
        )
        for cache in ("dual", "prefix", "none")
        for threshold in (None, 0.5)
    ]
    prompts = ["a", "a b", "b b a b", "a b a b b a", "b"]
    alone = {
        (number, prompt): law.extend([law.start(prompt)], [xt.Key(3, prompt)])[0]
        for number, law in enumerate(laws)
        for prompt in prompts
    }
    rows = [
        (
            number,
            prompt,
            law.backend.layout.row(law.start(prompt), law.prompt_tokens(prompt), law.sampling, xt.Key(3, prompt), None),
        )
        for number, law in enumerate(laws)
        for prompt in prompts
    ]
    weights[True].scheduler.run([row for _, _, row in rows if row is not None])
    for number, prompt, row in rows:
        assert row is not None
        assert tuple(row.tokens) == tuple(alone[number, prompt].tokens[place] for place in row.positions)
        assert np.allclose(row.logq, alone[number, prompt].logq or (), atol=1e-5)


def test_work_tells_what_was_fed_and_what_was_kept(weights: dict[bool, MaskedWeights]) -> None:
    """Four positions after a prompt of two, in blocks of two: each block is one whole response and one window."""
    plain = LanguageEngine(weights[False], DiffusionSampling(max_tokens=4, block=2, order="left"))
    for cache, fed in (("none", 4 * 6), ("dual", 2 * 6 + 2 * 2), ("prefix", 2 * 6 + 4 + 2)):
        work = Work()
        engine = plain.with_sampling(cache=cache).metered(work)
        drafts = engine.extend([engine.start("a b")] * 40, keys(40))
        draft = next(draft for draft in drafts if draft.decided == 4)
        work.prompt = work.cached = work.forwards = 0
        engine.score([draft])
        assert (work.forwards, work.prompt, work.prompt + work.cached) == (4, fed, 4 * 6)


def test_rows_wait_for_memory_and_come_out_the_same(weights: dict[bool, MaskedWeights]) -> None:
    """Room for three rows with prompts of two; what the rows in flight keep stays within it, and ends with them."""
    law = DiffusionSampling(max_tokens=6, block=2, cache="dual", guidance=0.5)
    position = 2 * 2 * 16 * 4  # keys and values, layers, width of all heads, bytes
    room = 3 * 2 * (2 + 6) * position  # with the prompt and with it masked
    narrow = MaskedWeights(weights[True].model, word_tokenizer(), mask=MASKED, ends=[END], name="narrow", rows_memory=room)
    wide = MaskedWeights(weights[True].model, word_tokenizer(), mask=MASKED, ends=[END], name="wide")
    decoder: Any = narrow.scheduler.batch
    step, seen = decoder.step, []

    def watched() -> Any:
        rows = list(decoder.rows)
        done = step()
        kept = {id(part): part.nbytes for row in rows for part in row.kept.values()}
        seen.append((len(rows), sum(kept.values())))
        assert not any(row.kept for row in done)
        return done

    decoder.step = watched
    engines = [LanguageEngine(one, law) for one in (narrow, wide)]
    few, many = (engine.extend([engine.start("a b")] * 12, keys(12)) for engine in engines)
    assert [draft.tokens for draft in few] == [draft.tokens for draft in many]
    assert max(rows for rows, _ in seen) == 3
    assert 0 < max(kept for _, kept in seen) <= room


def test_a_cached_proposal_is_rescored_by_the_exact_law(weights: dict[bool, MaskedWeights]) -> None:
    """E_q[p/q] = 1 where the order is fixed, q the dual cache of the same network."""
    exact = LanguageEngine(weights[True], DiffusionSampling(max_tokens=4, block=2, order="left"))
    cached = exact.with_sampling(cache="dual")
    drafts = cached.extend([cached.start("a b")] * 1000, keys(1000))
    ratios = np.exp([score.sum() - sum(draft.logq or ()) for draft, score in zip(drafts, exact.score(drafts), strict=True)])
    assert ratios.std() > 0.01
    assert abs(ratios.mean() - 1) < 5 * ratios.std() / len(ratios) ** 0.5


# ----------------------------------------------------------------------------------------- models that can and cannot


def test_models_that_cannot_keep_blocks_are_refused_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=r"does not use transformers' attention interface. Give cache=\"none\""):
        filler(DiffusionSampling(max_tokens=4, cache="dual"))
    short = network("ModernBert", local_attention=4, num_hidden_layers=4, cls_token_id=None, sep_token_id=None)
    assert "positions far" in (MaskedNetwork(short, MASKED).no_cache or "")
    offset = network("Roberta", pad_token_id=0)
    assert "differs from the whole" in (MaskedNetwork(offset, MASKED).no_cache or "")
    assert offset.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("kind", ["EuroBert", "Bert"])
def test_models_of_transformers_keep_blocks_and_say_the_same_without(kind: str) -> None:
    model = network(kind)
    ids, known = torch.tensor([[1, 2, 3, 3], [2, 1, 3, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    with torch.inference_mode():
        before = model(input_ids=ids, attention_mask=known).logits
        assert MaskedNetwork(model, MASKED).no_cache is None
        after = model(input_ids=ids, attention_mask=known).logits
    assert torch.equal(before, after)
