"""The fast paths: off, they give the same drafts; on, they leave a caller's model alone and hold no weight twice."""

from __future__ import annotations

import copy
import gc
import logging
import threading
import tomllib
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from torch import Tensor, nn  # noqa: E402

from exptilt.draft import Draft  # noqa: E402
from exptilt.engines.hf import Weights  # noqa: E402
from exptilt.engines.hf.fast import SWITCH, private  # noqa: E402
from exptilt.engines.hf.fast.linear import PackedLinear, PartLinear, join, pack, unpack_read  # noqa: E402
from exptilt.engines.language import LanguageEngine  # noqa: E402
from exptilt.engines.loading import load  # noqa: E402
from exptilt.engines.sampling import Sampling  # noqa: E402
from exptilt.errors import ModelError  # noqa: E402
from exptilt.keys import Key  # noqa: E402

PROMPTS = ["a prompt with a beginning that is long enough for a trunk", "a prompt with a beginning that differs", "short"]


def drawn(engine: Any) -> list[Draft]:
    drafts = [engine.start(prompt) for prompt in PROMPTS for _ in range(4)]
    return engine.extend(drafts, [Key(5, i) for i in range(len(drafts))])


def read(folder: Path) -> tuple[Any, Any]:
    return transformers.AutoModelForCausalLM.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(folder)


def packed(model: nn.Module) -> int:
    return sum(isinstance(module, PackedLinear) for module in model.modules())


class Adapted(nn.Module):
    """A low-rank adapter around a linear layer that reads the layer's weight, as some do to merge it."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        return nn.functional.linear(states, self.base.weight + self.up.weight @ self.down.weight, self.base.bias)


def adapted(folder: Path) -> tuple[Any, Any]:
    model, tokenizer = read(folder)
    for layer in model.model.layers:
        layer.self_attn.q_proj = Adapted(layer.self_attn.q_proj)
    return model, tokenizer


def differences(engine: LanguageEngine[Any], model: Any, drafts: list[Draft]) -> float:
    """The greatest difference between recorded log-probabilities and those of the whole text read at once."""
    worst = 0.0
    for draft in drafts:
        prompt = engine.prompt_tokens(draft.prompt)
        with torch.inference_mode():
            logits = model(torch.tensor([[*prompt, *draft.tokens]])).logits[0].double()
        law = logits[len(prompt) - 1 : -1].log_softmax(-1)
        whole = law.gather(-1, torch.tensor(draft.tokens)[:, None])[:, 0].numpy()
        assert draft.logq is not None
        worst = max(worst, float(np.abs(whole - np.array(draft.logq)).max()))
    return worst


@pytest.mark.parametrize("how", ["option", "environment"])
def test_switched_off_they_give_the_same_drafts(how: str, model_folder: Path, monkeypatch: pytest.MonkeyPatch):
    fast = load(f"hf:{model_folder}", max_tokens=24)
    if how == "environment":
        monkeypatch.setenv(SWITCH, "0")
    slow = load(f"hf:{model_folder}", max_tokens=24, fast=how != "option")
    assert isinstance(fast, LanguageEngine)
    assert isinstance(slow, LanguageEngine)
    assert fast.backend.network.shares
    assert not slow.backend.network.shares
    assert packed(slow.backend.model) == 0
    assert slow.settings == fast.settings
    for one, other in zip(drawn(fast), drawn(slow), strict=True):
        assert one.tokens == other.tokens
        assert one.logq == pytest.approx(other.logq, abs=1e-4)


@pytest.mark.parametrize("fast", [True, False])
def test_a_callers_model_stays_as_it_is(fast: bool, model_folder: Path):
    """An engine took a caller's linear layers away: `state_dict` shrank, and the model could be neither trained nor saved."""
    model, tokenizer = read(model_folder)
    model.train()
    before = {name: (tensor.data_ptr(), tensor.clone()) for name, tensor in model.state_dict().items()}
    attention, kinds = model.config._attn_implementation, [type(module) for module in model.modules()]
    engine = LanguageEngine(Weights(model, tokenizer, name="theirs", fast=fast), Sampling(max_tokens=24))
    drafts = drawn(engine)
    assert model.training
    assert model.config._attn_implementation == attention
    assert [type(module) for module in model.modules()] == kinds
    after = model.state_dict()
    assert {name: tensor.data_ptr() for name, tensor in after.items()} == {name: place for name, (place, _) in before.items()}
    assert all(torch.equal(after[name], value) for name, (_, value) in before.items())
    assert differences(engine, model.eval(), drafts) < 1e-4
    model.train()(torch.tensor([[5, 6, 7]]), labels=torch.tensor([[5, 6, 7]])).loss.backward()
    assert model.lm_head.weight.grad is not None


def test_a_model_that_is_trained_on_needs_another_engine(model_folder: Path):
    """Key-values of prefixes, and weights laid out anew, are those of the old weights."""
    model, tokenizer = read(model_folder)
    engine = LanguageEngine(Weights(model, tokenizer, name="theirs"), Sampling(max_tokens=24))
    drafts = drawn(engine)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.tensor([[5, 6, 7]]), labels=torch.tensor([[5, 6, 7]])).loss.backward()
    engine.score(drafts)
    optimizer.step()
    with pytest.raises(ModelError, match=r"weights of theirs were changed.*another engine"):
        drawn(engine)
    with pytest.raises(ModelError, match="weights of theirs were changed"):
        engine.score(drafts)


def test_layers_whose_weight_somebody_reads(model_folder: Path):
    """A model with an adapter failed with "'PackedLinear' object has no attribute 'weight'"."""
    model, tokenizer = adapted(model_folder)
    engine = LanguageEngine(Weights(model, tokenizer, name="adapted"), Sampling(max_tokens=24))
    assert differences(engine, model.eval(), drawn(engine)) < 1e-4


def test_a_layer_whose_weight_was_read_is_dense_again(model_folder: Path):
    model, _ = adapted(model_folder)
    weight = model.model.layers[0].self_attn.q_proj.base.weight.detach().clone()
    pack(model)
    whole = packed(model)
    with torch.inference_mode():
        model(torch.tensor([[5, 6, 7]]))
        unpack_read(model)
    if whole:  # oneDNN is there
        assert packed(model) == whole - 3 * len(model.model.layers)
    assert type(model.model.layers[0].self_attn.q_proj.base) is nn.Linear
    assert torch.equal(model.model.layers[0].self_attn.q_proj.base.weight, weight)


@pytest.mark.parametrize("bias", [True, False])
def test_joined_layers_are_one_product_and_still_layers(bias: bool):
    torch.manual_seed(0)
    module = nn.ModuleDict({name: nn.Linear(24, size, bias=bias) for name, size in (("a", 40), ("b", 8), ("c", 16))})
    plain = copy.deepcopy(module)
    pack(module)
    if not packed(module):
        pytest.skip("oneDNN is missing")
    join(module, "abc")
    assert len({part.joint for part in module.values() if isinstance(part, PartLinear)}) == 1
    one, other = torch.randn(3, 5, 24), torch.randn(3, 5, 24)
    with torch.inference_mode():
        asked = [("a", one), ("b", one), ("c", one), ("b", one), ("b", one), ("a", other), ("c", one), ("c", other), ("a", other)]
        for name, states in asked:
            torch.testing.assert_close(module[name](states), plain[name](states), atol=1e-5, rtol=0)
        for name in "abc":
            module[name](one)
            assert torch.equal(module[name].weight, plain[name].weight)
            if bias:
                assert torch.equal(module[name].bias, plain[name].bias)
            else:
                assert module[name].bias is None
            assert (module[name].in_features, module[name].out_features) == (24, plain[name].out_features)
    assert copy.deepcopy(module)["a"] is module["a"]


def test_joined_layers_may_be_called_by_several_threads():
    torch.manual_seed(0)
    module = nn.ModuleDict({name: nn.Linear(24, size) for name, size in (("a", 40), ("b", 8))})
    plain = copy.deepcopy(module)
    pack(module)
    join(module, "ab")
    wrong: list[float] = []

    def call(seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        with torch.inference_mode():
            for _ in range(300):
                states = torch.randn(4, 24, generator=generator)
                wrong.extend(float((module[name](states) - plain[name](states)).abs().max()) for name in "ab")

    threads = [threading.Thread(target=call, args=[seed]) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wrong) == 4 * 600, "none failed"
    assert max(wrong) < 1e-5


def test_layers_that_cannot_be_joined_stay():
    module = nn.ModuleDict({"a": nn.Linear(8, 8), "b": nn.Linear(8, 4, bias=False), "c": nn.Linear(8, 4)})
    before = dict(module.items())
    join(module, "ac")  # not packed
    pack(module)
    of_pack = dict(module.items())
    join(module, "ab")  # one has a bias
    assert dict(module.items()) == of_pack
    assert packed(module) in (0, 3)
    assert packed(module) == 0 or before != of_pack


def test_a_model_for_which_there_is_a_lean_step_has_joined_layers_held_once():
    with load("tiny", max_tokens=12) as engine:
        weights: Any = engine
        model, lean = weights.backend.model, weights.backend.network.lean
        assert lean is not None
        parts = [module for module in model.modules() if isinstance(module, PartLinear)]
        if not packed(model):
            pytest.skip("oneDNN is missing")
        assert len(parts) == 5 * len(model.model.layers)
        assert len({part.joint for part in parts}) == 2 * len(model.model.layers)
        assert all(part.joint._kept is None for part in parts), "nothing is kept of the trial"


def test_a_model_of_ones_own_is_not_held_twice(model_folder: Path):
    model, tokenizer = read(model_folder)
    dense = [weakref.ref(module.weight) for module in model.modules() if type(module) is nn.Linear]
    weights = Weights(model, tokenizer, name="ours", ours=True)
    assert weights.model is model
    gc.collect()
    if packed(model):
        assert not any(reference() is not None for reference in dense)
    theirs = Weights(read(model_folder)[0], tokenizer, name="theirs")
    assert packed(theirs.model) == packed(model)


def test_hooks_of_a_caller_are_kept(model_folder: Path):
    """A hook on a linear layer, as of an experiment that steers a model, would be lost with the layer."""
    model, tokenizer = read(model_folder)
    model.lm_head.register_forward_hook(lambda module, inputs, output: output.roll(1, -1))
    engine = LanguageEngine(Weights(model, tokenizer, name="hooked"), Sampling(max_tokens=24))
    assert differences(engine, model, drawn(engine)) < 1e-4


def test_a_model_that_cannot_be_copied_is_refused(model_folder: Path):
    model, tokenizer = read(model_folder)
    model.stream = open("/dev/null")  # noqa: SIM115 - a thing that cannot be copied
    with pytest.raises(ModelError, match=r"cannot be copied.*Save the model and load it"):
        Weights(model, tokenizer, name="with a stream")
    model.stream.close()


def test_known_versions_are_those_of_the_package():
    """The bounds stand in two places: what pip may install, and what the fast paths check."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    wanted = project["optional-dependencies"]["hf"]
    for package, (first, beyond) in private.KNOWN.items():
        assert f"{package}>={first},<{beyond}" in wanted


def test_unknown_versions_switch_them_off(model_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    monkeypatch.setattr(private, "KNOWN", {**copy.copy(private.KNOWN), "torch": ("2.6", "2.7")})
    with caplog.at_level(logging.WARNING, "exptilt"):
        engine = load(f"hf:{model_folder}", max_tokens=24)
    assert isinstance(engine, LanguageEngine)
    assert not engine.backend.network.shares
    assert "fast paths are switched off: torch" in caplog.text
