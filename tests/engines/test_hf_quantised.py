"""Quantised weights, as torchao has them on a CPU: p is the quantised model, and a caller's stays as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exptilt.engines.loading import load
from exptilt.errors import ModelError
from tests.engines.conftest import build
from tests.engines.test_hf_held import CAP, drawn, reference

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
quantization = pytest.importorskip(
    "torchao.quantization", reason="torchao is not installed; with it weights in 8 bits are tried: pip install torchao"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("float"), hidden=64)


@pytest.fixture(scope="module")
def config() -> Any:
    return transformers.TorchAoConfig(quantization.Int8WeightOnlyConfig())


@pytest.fixture
def held(folder: Path, config: Any) -> tuple[Any, Any]:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, dtype=torch.float32)
    return model, transformers.AutoTokenizer.from_pretrained(folder)


def off(engine: Any, model: Any) -> float:
    drafts = drawn(engine)
    scores = engine.score(drafts)
    pairs = [(draft.logq, score, reference(engine, model, draft)) for draft, score in zip(drafts, scores, strict=True)]
    return float(max(np.abs(np.array([logq, score]) - want).max() for logq, score, want in pairs))


@pytest.mark.parametrize("how", ["memory", "files", "object", "mapping"])
def test_each_way_is_the_same_quantised_model(how: str, held: tuple[Any, Any], folder: Path, config: Any, tmp_path: Path):
    model, tokenizer = held
    if how == "memory":
        engine = load(model, tokenizer=tokenizer, max_tokens=CAP)
    elif how == "files":
        model.save_pretrained(tmp_path / "quantised")
        tokenizer.save_pretrained(tmp_path / "quantised")
        engine = load(f"hf:{tmp_path / 'quantised'}", max_tokens=CAP)
    else:
        given = config if how == "object" else config.to_dict()
        engine = load(f"hf:{folder}", quantization_config=given, max_tokens=CAP)
    assert off(engine, model) < 1e-4
    plain = load(f"hf:{folder}", max_tokens=CAP)
    assert off(plain, model) > 1e-3, "quantised weights must differ for this test to see anything"
    assert engine.settings["weights"] != plain.settings["weights"]
    assert engine.settings["weights"] == load(model, tokenizer=tokenizer, max_tokens=CAP).settings["weights"]


def test_a_callers_quantised_model_is_left_as_it_is(held: tuple[Any, Any]):
    model, tokenizer = held
    before = {name: tensor.dequantize().clone() for name, tensor in model.named_parameters() if "proj" in name}
    kinds = {name: type(parameter) for name, parameter in model.named_parameters()}
    drawn(load(model, tokenizer=tokenizer, max_tokens=CAP))
    assert {name: type(parameter) for name, parameter in model.named_parameters()} == kinds
    after = dict(model.named_parameters())
    assert before
    assert all(torch.equal(after[name].dequantize(), value) for name, value in before.items())


def test_an_adapter_is_kept_beside_quantised_weights(folder: Path, config: Any, tmp_path: Path):
    """Merging would round the weights again, to another model than the one that was trained."""
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(
        transformers.AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, dtype=torch.float32),
        peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False),
    )
    model.save_pretrained(tmp_path / "adapter")
    engine: Any = load(f"hf:{folder}", adapter=tmp_path / "adapter", quantization_config=config, max_tokens=CAP)
    assert isinstance(engine.backend.model, peft.PeftModel)
    assert off(engine, model.eval()) < 1e-4
    with pytest.raises(ModelError, match=r"the weights are quantised, and would be rounded again\. Give merge=False"):
        load(f"hf:{folder}", adapter=tmp_path / "adapter", quantization_config=config, merge=True)
