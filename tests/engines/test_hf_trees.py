"""Scores of responses that begin alike, each beginning evaluated once: they are those of every text read by itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from exptilt.engines.hf import Weights  # noqa: E402
from exptilt.engines.hf.forest import NODES, Tree, plant  # noqa: E402
from exptilt.engines.hf.network import Network  # noqa: E402
from exptilt.engines.language import LanguageEngine  # noqa: E402
from exptilt.engines.row import Context  # noqa: E402
from exptilt.engines.sampling import Sampling  # noqa: E402
from exptilt.usage import Work  # noqa: E402
from tests.engines.test_hf_memory import MODELS, PROMPTS, WINDOWED  # noqa: E402


def engine_of(name: str, folder: Path, **options: Any) -> LanguageEngine[Weights]:
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(MODELS[name]()).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return LanguageEngine(Weights(model, tokenizer, name=name, **options), Sampling(max_tokens=24))


def drafts_of(engine: LanguageEngine[Weights], count: int) -> list[Any]:
    """Responses of few different tokens, so that many begin alike, of unlike lengths, to prompts of unlike lengths."""
    generator = np.random.default_rng(0)
    found = []
    for prompt in PROMPTS:
        start = engine.start(prompt)
        for _ in range(count):
            size = int(generator.integers(3, 14))
            tokens = tuple(int(token) for token in generator.choice([70, 80, 90], size, p=[0.8, 0.1, 0.1]))
            found.append(replace(start, tokens=tokens))
    return found


class Fed:
    """How many positions a network is fed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.positions, feed = 0, Network.feed

        def counted(network: Network, slots: Any, ids: Any, *args: Any, **given: Any) -> Any:
            self.positions += ids.numel()
            return feed(network, slots, ids, *args, **given)

        monkeypatch.setattr(Network, "feed", counted)


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.6, "top_k": 50, "repetition_penalty": 1.3}], ids=["plain", "penalty"])
@pytest.mark.parametrize("way", ["whole", "in small trees and blocks"])
@pytest.mark.parametrize("name", [name for name in MODELS if name not in WINDOWED])
def test_beginnings_are_evaluated_once_and_scores_are_those_of_each_draft_alone(
    name: str, way: str, sampling: dict[str, Any], model_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    if way != "whole":
        monkeypatch.setattr("exptilt.engines.hf.forest.NODES", 20)
        monkeypatch.setattr("exptilt.engines.hf.rating.BLOCK_LOGITS", 4000)
    engine = engine_of(name, model_folder).with_sampling(**sampling)
    assert engine.backend.network.trees
    drafts = drafts_of(engine, 24)
    starts = [number % 3 for number in range(len(drafts))]
    plain = engine_of(name, model_folder, fast=False).with_sampling(**sampling)
    assert not plain.backend.network.trees
    engine.score(drafts, starts)  # now what comes before is known
    fed, work = Fed(monkeypatch), Work()
    scores = engine.metered(work).score(drafts, starts)
    in_trees, fed.positions = fed.positions, 0
    engine.backend.network.trees = False
    engine.score(drafts, starts)
    assert in_trees < 0.8 * fed.positions
    engine.backend.network.trees = True
    certain = engine.certainty(drafts)
    different = {(draft.prompt, draft.tokens, start) for draft, start in zip(drafts, starts, strict=True)}
    assert work.scored == sum(map(len, scores)), "tokens that were given a score"
    assert work.forwards < len(different)
    for draft, start, found, sure in zip(drafts, starts, scores, certain, strict=True):
        np.testing.assert_allclose(found, plain.score([draft], [start])[0], atol=2e-5)
        np.testing.assert_allclose(sure.entropy, plain.certainty([draft])[0].entropy, atol=2e-5)


@pytest.mark.parametrize("name", sorted(WINDOWED))
def test_models_with_a_window_have_no_trees(name: str, model_folder: Path):
    """A mask of their own would be taken for that of every layer."""
    assert not engine_of(name, model_folder).backend.network.trees


def test_a_model_that_takes_no_mask_of_trees_scores_row_by_row(model_folder: Path, monkeypatch: pytest.MonkeyPatch):
    inputs = "exptilt.engines.hf.forest.Forest.inputs"
    monkeypatch.setattr(inputs, lambda *_: {"attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool)})
    network = engine_of("llama", model_folder).backend.network
    assert (network.shares, network.trees) == (True, False)
    assert "trees" in network.why


def test_trees_hold_every_beginning_once_and_stay_small():
    generator = np.random.default_rng(1)
    contexts = [Context((1, 2), (1, 2, *[3] * int(generator.integers(0, 3)))) for _ in range(400)]
    responses = [tuple(generator.integers(0, 4, generator.integers(1, 9)).tolist()) for _ in contexts]
    trees = plant(contexts, responses)
    assert sorted(number for tree in trees for number in tree.ways) == list(range(400))
    assert len(trees) > 3
    for tree in trees:
        begun = {responses[number][:n] for number, way in tree.ways.items() for n in range(len(way))}
        assert len(tree.tokens) == len(begun) <= NODES
        for number, way in tree.ways.items():
            assert contexts[number] == tree.context
            assert [tree.tokens[node] for node in way] == [tree.context.tokens[-1], *responses[number][:-1]]
            assert [tree.depths[node] for node in way] == list(range(len(responses[number])))
            assert [tree.follows[node] for node in way] == [-1, *way[:-1]]
    [long] = plant(contexts[:1] * 2, [tuple(range(NODES + 9))] * 2)  # larger than trees may be otherwise
    assert len(long.tokens) == NODES + 9


def test_trees_are_used_where_they_are_less_work():
    context = Context((1,), (1,))
    alike, unlike = [tuple(range(20)), (*range(19), 30)], [tuple(range(20)), (*range(30, 50),)]
    [tree] = plant([context] * 2, alike)
    assert len(tree.tokens) == 20
    assert not plant([context] * 2, unlike)
    lone = Tree(context)
    lone.add(0, (5,))
    assert (lone.tokens, lone.ways) == ([1], {0: [0]})


def test_trees_are_of_a_size_that_is_padded_little(monkeypatch: pytest.MonkeyPatch):
    """One context with many beginnings beside several with few: a tree of all of it would widen the rows of the others."""
    many = [tuple(100 * first + n for n in range(20)) for first in range(8)]
    few = [tuple(range(20))] * 8
    contexts = [Context((1,), (1,))] * 8 + [Context((1,), (1, 2 + number)) for number in range(8)]
    monkeypatch.setattr("exptilt.engines.hf.forest.WORTH", 1.0)
    trees = plant(contexts, many + few)
    assert max(len(tree.tokens) for tree in trees) == 20
    assert len(trees) == 16
