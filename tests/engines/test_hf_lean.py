"""The lean step gives the numbers of the modules of transformers, is tried at load, and leaves out nothing that a model has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from exptilt.draft import Draft, known_logq  # noqa: E402
from exptilt.engines.hf import Weights  # noqa: E402
from exptilt.engines.hf.fast import lean  # noqa: E402
from exptilt.engines.language import LanguageEngine  # noqa: E402
from exptilt.engines.sampling import Sampling  # noqa: E402
from exptilt.keys import Key  # noqa: E402
from tests.engines.test_hf_fast import differences  # noqa: E402

PROMPTS = ["a prompt with a beginning that is long enough for a trunk", "a prompt with a beginning that differs", "short"]
SMALL = {
    "vocab_size": 260, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 256, "initializer_range": 0.15, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
SHAPES: dict[str, Any] = {
    "llama": lambda: transformers.LlamaConfig(**SMALL, num_key_value_heads=2),
    "heads of another size": lambda: transformers.LlamaConfig(**SMALL, num_key_value_heads=4, head_dim=20),
    "biases": lambda: transformers.LlamaConfig(**SMALL, num_key_value_heads=1, attention_bias=True, mlp_bias=True),
    "tied": lambda: transformers.LlamaConfig(**SMALL, num_key_value_heads=2, tie_word_embeddings=True),
    "scaled positions": lambda: transformers.LlamaConfig(
        **SMALL, num_key_value_heads=2, rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}
    ),
    "qwen2": lambda: transformers.Qwen2Config(**SMALL, num_key_value_heads=2),
    "mistral": lambda: transformers.MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=None),
}


def made(config: Any, folder: Path, *, dtype: Any = torch.float32) -> tuple[Any, Any]:
    """A model of random weights, biases and norms too, and a tokenizer of bytes."""
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:  # these begin as zeros and ones, which a step may forget and be right
                weight += 0.2 * torch.randn_like(weight)
    return model.to(dtype), transformers.AutoTokenizer.from_pretrained(folder)


def drawn(engine: Any, temperature: float = 1.0) -> list[Draft]:
    law = engine.with_sampling(temperature=temperature)
    return law.extend([law.start(prompt) for prompt in PROMPTS for _ in range(6)], [Key(3, i) for i in range(18)])


@pytest.mark.parametrize("shape", SHAPES)
def test_the_lean_step_draws_and_rates_as_the_modules_do(shape: str, model_folder: Path):
    engine = LanguageEngine(Weights(*made(SHAPES[shape](), model_folder), name=shape), Sampling(max_tokens=20))
    network = engine.backend.network
    assert network.lean is not None
    assert network.why == {}
    found = drawn(engine)
    network.lean = None
    for draft, other in zip(found, drawn(engine), strict=True):
        assert draft.tokens == other.tokens
        np.testing.assert_allclose(known_logq(draft), known_logq(other), atol=2e-5)
    for draft, scores in zip(found, engine.score(found), strict=True):
        np.testing.assert_allclose(scores, known_logq(draft), atol=2e-5)


def test_in_half_precision_it_is_as_near_to_float32_as_the_modules_are(model_folder: Path):
    parts = {dtype: made(SHAPES["llama"](), model_folder, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)}
    engines = {dtype: LanguageEngine(Weights(*given, name="half"), Sampling(max_tokens=12)) for dtype, given in parts.items()}
    half, exact = engines[torch.bfloat16], engines[torch.float32]
    drafts, leans = drawn(half), half.backend.network.lean
    assert leans is not None
    half.backend.network.lean = None
    by_modules = drawn(half)

    def off(drafts: list[Draft]) -> float:
        gaps = [known_logq(draft) - scores for draft, scores in zip(drafts, exact.score(drafts), strict=True)]
        return float(np.sqrt(np.mean(np.concatenate(gaps) ** 2)))

    assert 0 < off(drafts) < 2 * off(by_modules)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("wrong", ["_turned", "_product", "round_up"])
def test_a_step_that_is_wrong_is_not_taken(wrong: str, dtype: Any, model_folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Rotations the other way, products without their biases, rows that are left out: the trial finds them, and says so."""
    planted = {
        "_turned": lambda states, cosine, sine: states * cosine - states.roll(states.shape[-1] // 2, -1) * sine,
        "_product": lambda linear: lambda states: states.new_zeros(len(states), linear.out_features),
        "round_up": lambda rows: rows - 1,
    }
    monkeypatch.setattr(lean, wrong, planted[wrong])
    engine = LanguageEngine(Weights(*made(SHAPES["biases"](), model_folder, dtype=dtype), name="wrong"), Sampling(max_tokens=12))
    network = engine.backend.network
    assert network.lean is None
    assert set(network.why) == {"lean"}
    assert network.shares, "the rest is as fast as ever"
    drafts = drawn(engine)
    for draft, scores in zip(drafts, engine.score(drafts), strict=True):
        np.testing.assert_allclose(scores, known_logq(draft), atol=2e-5 if dtype == torch.float32 else 0.3)


def test_parts_with_other_names_are_told_and_left_to_the_modules(model_folder: Path):
    """A release of transformers may rename them."""
    model, tokenizer = made(SHAPES["llama"](), model_folder)
    for layer in model.model.layers:
        layer.self_attn.factor = layer.self_attn.__dict__.pop("scaling")
    forward = type(model.model.layers[0].self_attn).forward

    def renamed(self: Any, *args: Any, **given: Any) -> Any:
        self.scaling = self.factor
        try:
            return forward(self, *args, **given)
        finally:
            del self.scaling

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model.model.layers[0].self_attn), "forward", renamed)
        engine = LanguageEngine(Weights(model, tokenizer, name="renamed"), Sampling(max_tokens=12))
        assert engine.backend.network.lean is None
        assert "scaling" in engine.backend.network.why["lean"]
        drafts = drawn(engine)
        for draft, scores in zip(drafts, engine.score(drafts), strict=True):
            np.testing.assert_allclose(scores, known_logq(draft), atol=2e-5)


class Louder(torch.nn.Module):
    """A part that somebody put in the place of another."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, states: Any) -> Any:
        return 2 * self.inner(states)


def hook(model: Any) -> None:
    model.model.layers[0].mlp.register_forward_hook(lambda module, given, found: 2 * found)


def replace(model: Any) -> None:
    model.model.layers[1].mlp.up_proj = Louder(model.model.layers[1].mlp.up_proj)


def override(model: Any) -> None:
    inner = model.model.norm.forward
    model.model.norm.forward = lambda states: 2 * inner(states)


def activate(model: Any) -> None:
    model.model.layers[0].mlp.act_fn = torch.nn.ReLU()


@pytest.mark.parametrize("change", [hook, replace, override, activate])
def test_what_somebody_added_to_a_model_is_not_left_out(change: Any, model_folder: Path):
    model, tokenizer = made(SHAPES["llama"](), model_folder)
    change(model)
    engine = LanguageEngine(Weights(model, tokenizer, name="changed"), Sampling(max_tokens=12))
    assert engine.backend.network.lean is None
    assert engine.backend.network.why == {}, "not even tried"
    assert differences(engine, model, drawn(engine)) < 2e-5


def test_models_of_other_shapes_and_slow_ones_have_none(model_folder: Path):
    other = transformers.GPT2Config(vocab_size=260, n_embd=32, n_layer=1, n_head=2, n_positions=128)
    assert Weights(*made(other, model_folder), name="gpt2").network.lean is None
    assert Weights(*made(SHAPES["llama"](), model_folder), name="slow", fast=False).network.lean is None
