"""Adapters of peft: kept or merged, as objects and as folders, compared with peft's own forward pass."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exptilt.engines.language import LanguageEngine
from exptilt.engines.loading import load
from exptilt.errors import ModelError
from exptilt.keys import Key
from tests.engines.test_hf_held import CAP, drawn, reference

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft", reason="peft is not installed: pip install 'exptilt[peft]'")

KINDS: dict[str, Any] = {
    "lora": lambda: peft.LoraConfig(r=4, lora_alpha=32, lora_dropout=0.5, target_modules=["q_proj", "v_proj", "down_proj"]),
    "rank-stabilised": lambda: peft.LoraConfig(r=4, lora_alpha=8, use_rslora=True, target_modules="all-linear"),
    "dora": lambda: peft.LoraConfig(r=2, use_dora=True, target_modules=["q_proj"]),
    "head": lambda: peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"]),
    "loha": lambda: peft.LoHaConfig(r=2, alpha=8, target_modules=["q_proj", "up_proj"]),
    "ia3": lambda: peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
}


def base(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def adapt(folder: Path, kind: str = "lora") -> Any:
    """A base model with an adapter that changes it much; peft begins with one that changes nothing."""
    torch.manual_seed(1)
    model = peft.get_peft_model(base(folder), KINDS[kind]())
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if any(part in name for part in ("lora_", "hada_", "ia3_", "modules_to_save")):
                weight.add_(torch.randn_like(weight) * 0.2)
    return model.eval()


@pytest.fixture(params=KINDS)
def adapted(request: pytest.FixtureRequest, model_folder: Path) -> Any:
    return adapt(model_folder, request.param)


@pytest.fixture
def tokenizer(model_folder: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(model_folder)


def saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


def off(engine: Any, model: Any) -> float:
    """The greatest difference between log-probabilities of draws, their scores, and a plain pass of a model."""
    drafts = drawn(engine)
    scores = engine.score(drafts)
    wanted = [reference(engine, model, draft) for draft in drafts]
    found = [
        np.abs(np.array([draft.logq, score]) - want).max() for draft, score, want in zip(drafts, scores, wanted, strict=True)
    ]
    return float(max(found))


@pytest.mark.parametrize("merge", [None, True, False])
def test_an_adapted_model_in_memory(merge: bool | None, adapted: Any, model_folder: Path, tokenizer: Any):
    plain, whole = off(load(f"hf:{model_folder}", max_tokens=CAP), adapted), base(model_folder)
    assert plain > 0.1, "the adapter must change the model for this test to see anything"
    adapted.train()
    before = {name: (tensor.data_ptr(), tensor.clone()) for name, tensor in adapted.state_dict().items()}
    engine = load(adapted, tokenizer=tokenizer, merge=merge, max_tokens=CAP)
    assert isinstance(engine, LanguageEngine)
    drawn(engine)
    assert adapted.training
    after = adapted.state_dict()
    assert {name: tensor.data_ptr() for name, tensor in after.items()} == {name: place for name, (place, _) in before.items()}
    assert all(torch.equal(after[name], value) for name, (_, value) in before.items())
    assert bool(merge) == (type(engine.backend.model) is type(whole))
    assert off(engine, adapted.eval()) < 1e-5
    merged = adapted.merge_and_unload()
    assert off(load(merged, tokenizer=tokenizer, max_tokens=CAP), merged) < 1e-5
    if merge:
        assert off(engine, merged) < 1e-5


@pytest.mark.parametrize("merge", [None, True, False])
def test_the_folder_of_an_adapter(merge: bool | None, adapted: Any, model_folder: Path, tmp_path: Path):
    folder = saved(adapted, tmp_path / "adapter")
    engine: Any = load(f"hf:{folder}", merge=merge, max_tokens=CAP)
    assert isinstance(engine.backend.model, peft.PeftModel) == (merge is False)
    assert off(engine, adapted) < 1e-5
    above: Any = load(f"hf:{model_folder}", adapter=folder, merge=merge, max_tokens=CAP)
    assert off(above, adapted) < 1e-5
    assert above.settings["weights"] == engine.settings["weights"]


@pytest.mark.parametrize("merge", [None, True])
def test_a_folder_on_a_model_in_memory(merge: bool | None, adapted: Any, model_folder: Path, tokenizer: Any, tmp_path: Path):
    """The adapter goes onto modules of the engine's own, and merging into weights of its own."""
    folder, mine = saved(adapted, tmp_path / "adapter"), base(model_folder)
    before = {name: (tensor.data_ptr(), tensor.clone()) for name, tensor in mine.state_dict().items()}
    engine = load(mine, tokenizer=tokenizer, adapter=str(folder), merge=merge, max_tokens=CAP)
    assert off(engine, adapted) < 1e-5
    after = mine.state_dict()
    assert {name: tensor.data_ptr() for name, tensor in after.items()} == {name: place for name, (place, _) in before.items()}
    assert all(torch.equal(after[name], value) for name, (_, value) in before.items())


def test_settings_tell_adapters_apart(model_folder: Path, tokenizer: Any):
    """Weights alone do not tell two scales of the same adapter apart, nor which of two adapters is active."""
    model = adapt(model_folder)
    digests = {load(model, tokenizer=tokenizer, max_tokens=CAP).settings["weights"]}
    model.base_model.model.model.layers[0].self_attn.q_proj.scaling["default"] *= 2
    digests.add(load(model, tokenizer=tokenizer, max_tokens=CAP).settings["weights"])
    with model.disable_adapter():
        digests.add(load(model, tokenizer=tokenizer, max_tokens=CAP).settings["weights"])
    assert len(digests) == 3


def test_an_adapter_merged_later_needs_another_engine(model_folder: Path, tokenizer: Any):
    """peft merges past torch's count of writes: the adapter would have been added twice."""
    model = adapt(model_folder)
    engine = load(model, tokenizer=tokenizer, max_tokens=CAP)
    drawn(engine)
    model.merge_adapter()
    with pytest.raises(ModelError, match="were changed after the engine was made"):
        drawn(engine)


def test_a_model_whose_adapters_are_merged_already(model_folder: Path, tokenizer: Any):
    model = adapt(model_folder)
    model.merge_adapter()
    assert off(load(model, tokenizer=tokenizer, max_tokens=CAP), model) < 1e-5


def test_adapters_that_transformers_itself_put_in(model_folder: Path, tokenizer: Any):
    model = base(model_folder)
    model.add_adapter(peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    engine = load(model.eval(), tokenizer=tokenizer, max_tokens=CAP)
    assert off(engine, model) < 1e-5
    assert off(load(f"hf:{model_folder}", max_tokens=CAP), model) > 1e-3
    with pytest.raises(ModelError, match=r"cannot become part of the weights.*merge=False"):
        load(model, tokenizer=tokenizer, merge=True)


def test_an_adapters_own_tokenizer_is_taken(model_folder: Path, tokenizer: Any, tmp_path: Path):
    """A fine-tuned adapter comes with its chat template, which the base does not have."""
    folder = saved(adapt(model_folder), tmp_path / "adapter")
    tokenizer.chat_template = "{% for turn in messages %}{{ turn['content'] }}{% endfor %}!"
    tokenizer.save_pretrained(folder)
    assert load(f"hf:{folder}", max_tokens=CAP).prompt_tokens("one") == tuple(
        tokenizer("one!", add_special_tokens=False).input_ids
    )
    assert load(f"hf:{model_folder}", adapter=folder, max_tokens=CAP).prompt_tokens("one") == tuple(tokenizer("one").input_ids)


def test_bfloat16_is_kept_beside_the_weights(model_folder: Path, tmp_path: Path):
    folder = saved(adapt(model_folder), tmp_path / "adapter")
    engine: Any = load(f"hf:{folder}", dtype="bfloat16", max_tokens=CAP)
    assert engine.settings["dtype"] == "bfloat16"
    assert isinstance(engine.backend.model, peft.PeftModel)
    assert all(draft.finish for draft in drawn(engine))


def test_prompt_learning_is_refused(model_folder: Path, tokenizer: Any, tmp_path: Path):
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3, tokenizer_name_or_path=str(model_folder))
    model = peft.get_peft_model(base(model_folder), config)
    with pytest.raises(ModelError, match="kind PROMPT_TUNING, which adds tokens or key-values to every text"):
        load(model, tokenizer=tokenizer)
    with pytest.raises(ModelError, match="kind PROMPT_TUNING"):
        load(f"hf:{saved(model, tmp_path / 'adapter')}")


def test_adapters_that_do_not_fit(model_folder: Path, tmp_path: Path):
    """peft draws what an adapter lacks at random or leaves it zero, with a warning at most: the base would answer for it."""
    from safetensors.torch import load_file, save_file

    folder = saved(adapt(model_folder), tmp_path / "adapter")
    weights = load_file(folder / "adapter_model.safetensors")
    first, *others = sorted(weights)
    save_file({name: weights[name] for name in others}, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"does not fit .* are in only one of them"):
        load(f"hf:{folder}")
    save_file({**weights, first.replace("layers.0", "layers.7"): weights[first].clone()}, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="does not fit"):
        load(f"hf:{folder}")


@pytest.fixture
def enlarged(model_folder: Path, tokenizer: Any, tmp_path: Path) -> tuple[Any, Path]:
    """A model that was fine-tuned with three more tokens, one of which is drawn often, and its folder."""
    torch.manual_seed(1)
    tokenizer.add_tokens(["<plan>", "<check>", "<done>"])
    plan, _, last = tokenizer.convert_tokens_to_ids(["<plan>", "<check>", "<done>"])
    whole = base(model_folder)
    whole.resize_token_embeddings(last + 1, mean_resizing=False)
    model = peft.get_peft_model(whole, peft.LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)).eval()
    with torch.no_grad():
        asked = model(torch.tensor([tokenizer("one").input_ids]), output_hidden_states=True).hidden_states[-1][0, -1]
        whole.get_output_embeddings().weight[plan] = 8 * asked / asked.dot(asked)  # its first token has the logit 8
    tokenizer.save_pretrained(tmp_path / "adapter")
    return model, saved(model, tmp_path / "adapter")


@pytest.mark.parametrize("merge", [None, True, False])
def test_an_adapter_with_tokens_of_its_own(merge: bool | None, enlarged: Any, model_folder: Path, tokenizer: Any):
    """The base has no rows for them: peft ended in a traceback about sizes."""
    model, folder = enlarged
    engine: Any = load(f"hf:{folder}", merge=merge, max_tokens=CAP)
    assert off(engine, model) < 1e-5
    assert any(tokenizer.convert_tokens_to_ids("<plan>") in draft.tokens for draft in drawn(engine)), "it should be drawn"
    assert off(load(f"hf:{model_folder}", adapter=folder, tokenizer=str(folder), merge=merge, max_tokens=CAP), model) < 1e-5


def test_tokens_of_an_adapter_never_go_into_a_model_in_memory(enlarged: Any, model_folder: Path, tokenizer: Any):
    (model, folder), mine = enlarged, base(model_folder)
    rows = mine.get_input_embeddings().weight.shape[0]
    with pytest.raises(ModelError, match=rf"{rows + 3} tokens, and the model in memory has {rows}.*give merge=True"):
        load(mine, tokenizer=tokenizer, adapter=str(folder), max_tokens=CAP)
    assert off(load(mine, tokenizer=tokenizer, adapter=str(folder), merge=True, max_tokens=CAP), model) < 1e-5
    assert mine.get_input_embeddings().weight.shape[0] == mine.config.vocab_size == rows


def test_new_tokens_without_an_output_layer_are_refused(enlarged: Any, model_folder: Path, tmp_path: Path):
    from safetensors.torch import load_file, save_file

    _, folder = enlarged
    weights = load_file(folder / "adapter_model.safetensors")
    save_file({name: weight for name, weight in weights.items() if "lm_head" not in name}, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"no output layer for them: save it with save_embedding_layers=True"):
        load(f"hf:{folder}")


def test_a_base_that_is_gone_is_named(model_folder: Path, tmp_path: Path):
    here = shutil.copytree(model_folder, tmp_path / "base")
    folder = saved(adapt(here), tmp_path / "adapter")
    shutil.rmtree(here)
    with pytest.raises(ModelError, match=rf"adapts the model in {here}, but there is no such folder: .*adapter='{folder}'"):
        load(f"hf:{folder}")
    with pytest.raises(ValueError, match="is an adapter already"):
        load(f"hf:{folder}", adapter=str(folder))


def test_a_folder_without_peft_says_what_to_install(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = saved(adapt(model_folder), tmp_path / "adapter")
    found = __import__("importlib.util").util.find_spec
    monkeypatch.setattr(
        "exptilt.engines.requirements.importlib.util.find_spec", lambda name: None if name == "peft" else found(name)
    )
    with pytest.raises(ModelError, match=r"needs peft, not installed here.*\[peft\]"):
        load(f"hf:{folder}")


def test_keys_of_drafts_do_not_depend_on_how_an_adapter_is_held(model_folder: Path, tokenizer: Any):
    model = adapt(model_folder)
    kept, whole = (load(model, tokenizer=tokenizer, merge=merge, max_tokens=CAP) for merge in (False, True))
    [one], [other] = (engine.extend([engine.start("one")], [Key(3)]) for engine in (kept, whole))
    assert one.tokens == other.tokens
