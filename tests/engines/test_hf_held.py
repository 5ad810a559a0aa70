"""Models of transformers that a caller holds: `load(model, tokenizer=...)`, which must leave them as they are."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exptilt.engines.language import LanguageEngine
from exptilt.engines.loading import load
from exptilt.errors import ModelError
from exptilt.keys import Key
from tests.pages import run_page

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

CAP = 12


@pytest.fixture
def held(model_folder: Path) -> tuple[Any, Any]:
    return (
        transformers.AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32),
        transformers.AutoTokenizer.from_pretrained(model_folder),
    )


def drawn(engine: Any, count: int = 6) -> list[Any]:
    return engine.extend([engine.start("one"), engine.start("two")] * (count // 2), [Key(0, i) for i in range(count)])


def reference(engine: Any, model: Any, draft: Any) -> np.ndarray:
    """Log-probabilities of a draft's tokens by one plain pass of a model over the whole text."""
    prompt = engine.prompt_tokens(draft.prompt)
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *draft.tokens]])).logits[0].double()
    law = logits[len(prompt) - 1 : -1].log_softmax(-1)
    return law.gather(-1, torch.tensor(draft.tokens)[:, None])[:, 0].numpy()


def test_a_model_in_memory_draws_as_its_folder_does(held: tuple[Any, Any], model_folder: Path):
    model, tokenizer = held
    engine, read = load(model, tokenizer=tokenizer, max_tokens=CAP), load(f"hf:{model_folder}", max_tokens=CAP)
    assert [draft.tokens for draft in drawn(engine)] == [draft.tokens for draft in drawn(read)]
    assert engine.settings["model"] == "memory:LlamaForCausalLM"
    assert engine.settings["weights"] == read.settings["weights"]


def test_it_is_left_as_it_was(held: tuple[Any, Any]):
    """Weights bit for bit and where they were, buffers, mode, configuration, gradients to come, and torch's random numbers."""
    model, tokenizer = held
    model.train()
    before = {name: (tensor.data_ptr(), tensor.clone()) for name, tensor in model.state_dict().items()}
    buffers = {name: tensor.clone() for name, tensor in model.named_buffers()}
    config, kinds, states = copy.deepcopy(model.config), [type(each) for each in model.modules()], torch.get_rng_state()
    with load(model, tokenizer=tokenizer, max_tokens=CAP) as engine:
        drafts = drawn(engine)
        engine.score(drafts)
    after = model.state_dict()
    assert {name: tensor.data_ptr() for name, tensor in after.items()} == {name: place for name, (place, _) in before.items()}
    assert all(torch.equal(after[name].view(torch.uint8), value.view(torch.uint8)) for name, (_, value) in before.items())
    assert all(torch.equal(tensor, buffers[name]) for name, tensor in model.named_buffers())
    assert all(each.training for each in model.modules())
    assert model.config.to_dict() == config.to_dict()
    assert model.config._attn_implementation == config._attn_implementation
    assert [type(each) for each in model.modules()] == kinds
    assert torch.equal(torch.get_rng_state(), states)
    model(torch.tensor([[5, 6, 7]]), labels=torch.tensor([[5, 6, 7]])).loss.backward()
    assert all(weight.grad is not None for weight in model.parameters())


def test_dropout_is_never_sampled_through(held: tuple[Any, Any]):
    """Under dropout the next token's distribution is another one at every call, and a draft's score is not that of its draw."""
    model, tokenizer = held
    model.config.attention_dropout = 0.9
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.9
    model.train()
    with torch.no_grad():
        passes = [model(torch.tensor([[5, 6, 7, 8]])).logits for _ in range(2)]
    assert not torch.equal(*passes), "the model must have dropout for this test to see anything"
    engine = load(model, tokenizer=tokenizer, max_tokens=CAP)
    drafts = drawn(engine)
    assert model.training
    model.eval()
    for draft, score in zip(drafts, engine.score(drafts), strict=True):
        assert draft.logq == pytest.approx(reference(engine, model, draft), abs=1e-5)
        assert score == pytest.approx(draft.logq, abs=1e-5)
    model.train()
    assert [draft.tokens for draft in drawn(engine)] == [draft.tokens for draft in drafts]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_its_dtype_is_its_own(dtype: str, held: tuple[Any, Any]):
    model, tokenizer = held
    engine = load(model.to(getattr(torch, dtype)), tokenizer=tokenizer, max_tokens=CAP)
    assert engine.settings["dtype"] == dtype
    assert all(draft.finish for draft in drawn(engine))


def test_a_tokenizer_may_be_named(held: tuple[Any, Any], model_folder: Path):
    engine = load(held[0], tokenizer=str(model_folder), max_tokens=CAP)
    assert engine.prompt_tokens("one") == tuple(held[1]("one").input_ids)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"memory:LlamaForCausalLM is a model without its tokenizer: .*load\(model, tokenizer=tokenizer\)"),
        ({"tokenizer": "x", "dtype": "bfloat16"}, "dtype: memory:LlamaForCausalLM is in memory already"),
        ({"tokenizer": "x", "device": "cuda"}, "device: memory:LlamaForCausalLM is in memory already"),
        ({"tokenizer": "x", "revision": "main", "device_map": "auto"}, "device_map, revision: .* in memory already"),
        ({"tokenizer": "x", "threshold": 1}, r"has no option threshold: it has adapter, fast, max_rows"),
        ({"tokenizer": "x", "ours": True}, "has no option ours"),
        ({"tokenizer": "x", "temperature": 0}, "temperature=0 must be positive"),
    ],
)
def test_what_does_not_fit_a_model_in_memory_is_refused(options: dict[str, Any], message: str, held: tuple[Any, Any]):
    with pytest.raises(ValueError, match=message):
        load(held[0], **options)


@pytest.mark.parametrize("what", [7, None, ["tiny"], object()])
def test_other_things_are_not_models(what: Any):
    with pytest.raises(ValueError, match="neither the name of a model nor a model of transformers"):
        load(what)


def test_a_wrapped_model_is_told_from_what_it_holds(held: tuple[Any, Any]):
    """A model inside of torch's DataParallel has no configuration: the model in it is what is wanted."""
    with pytest.raises(ValueError, match=r"DataParallel, neither .* It holds a LlamaForCausalLM"):
        load(torch.nn.DataParallel(held[0]), tokenizer=held[1])


def test_a_trained_model_needs_another_engine(held: tuple[Any, Any]):
    model, tokenizer = held
    engine = load(model, tokenizer=tokenizer, max_tokens=CAP)
    drawn(engine)
    with torch.no_grad():
        model.lm_head.weight.add_(1.0)
    with pytest.raises(ModelError, match="were changed after the engine was made"):
        drawn(engine)
    assert isinstance(engine, LanguageEngine)


def test_the_page_runs():
    assert run_page("models.md")["engine"].settings["model"] == "memory:LlamaForCausalLM"
