"""Options of how the files of a model of transformers are read, and where they are put."""

from __future__ import annotations

import builtins
import inspect
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from exptilt.doctor import examine
from exptilt.draft import Draft
from exptilt.engines import checkpoints, requirements
from exptilt.engines.loading import load
from exptilt.errors import ModelError
from tests.engines.test_hf_held import drawn

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from exptilt.engines.checkpoints import Form, Repository  # noqa: E402
from exptilt.engines.hf import backend  # noqa: E402

CODE = """
from transformers import LlamaConfig, LlamaForCausalLM
class MyConfig(LlamaConfig):
    model_type = "mine"
class MyModel(LlamaForCausalLM):
    config_class = MyConfig
"""


def own_code(folder: Path, to: Path) -> Path:
    """A model whose class is in its own folder."""
    shutil.copytree(folder, to)
    config = json.loads((to / "config.json").read_text())
    classes = {"AutoConfig": "mine.MyConfig", "AutoModelForCausalLM": "mine.MyModel"}
    (to / "config.json").write_text(json.dumps({**config, "model_type": "mine", "auto_map": classes}))
    (to / "mine.py").write_text(CODE)
    return to


def test_own_code_runs_only_where_that_is_said(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """transformers asks on the terminal whether it may run a model's code, and a service would wait for an answer for ever."""
    folder = own_code(model_folder, tmp_path / "mine")
    monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("a question was asked on the terminal"))
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    with pytest.raises(ModelError, match=r"Python code of its own, which is not run here: give trust_remote_code=True"):
        load(f"hf:{folder}")
    with pytest.raises(ModelError, match="Python code of its own"):
        load(f"hf:{folder}", trust_remote_code=False)
    engine: Any = load(f"hf:{folder}", trust_remote_code=True, max_tokens=8)
    assert type(engine.backend.model).__name__ == "MyModel"
    plain = load(f"hf:{model_folder}", max_tokens=8)
    assert [draft.tokens for draft in drawn(engine)] == [draft.tokens for draft in drawn(plain)]


def test_a_subfolder(model_folder: Path, tmp_path: Path):
    shutil.copytree(model_folder, tmp_path / "repository" / "final")
    engine = load(f"hf:{tmp_path / 'repository'}", subfolder="final", max_tokens=8)
    assert engine.settings["weights"] == load(f"hf:{model_folder}", max_tokens=8).settings["weights"]
    with pytest.raises(ModelError, match="cannot be read by transformers"):
        load(f"hf:{tmp_path / 'repository'}", subfolder="first")


def test_revision_and_token_reach_the_hub(model_folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Every file is asked for at the same revision: a tokenizer of another one would be another model."""
    asked: list[tuple[str, dict[str, Any]]] = []
    for kind in (transformers.AutoTokenizer, transformers.AutoConfig, transformers.AutoModelForCausalLM):
        real = kind.from_pretrained

        def read(source: Any, *args: Any, real: Any = real, kind: Any = kind, **options: Any) -> Any:
            if source == "owner/model":  # transformers reads the configuration again for itself
                asked.append((kind.__name__, options))
            rest = {name: value for name, value in options.items() if name not in ("revision", "token")}
            return real(model_folder, *args, **rest)

        monkeypatch.setattr(kind, "from_pretrained", read)
    monkeypatch.setattr("exptilt.engines.hf.adapters.cached_file", lambda *_, **options: asked.append(("cached_file", options)))
    engine = load("hf:owner/model", revision="v2", token="secret", max_tokens=8)
    names = {name for name, _ in asked}
    assert names >= {"AutoTokenizer", "AutoConfig", "AutoModelForCausalLM", "cached_file"}
    assert all((options["revision"], options["token"]) == ("v2", "secret") for _, options in asked)
    assert "secret" not in json.dumps(dict(engine.settings))
    assert "secret" not in repr(Repository(token="secret"))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_how_attention_is_computed(attention: str, model_folder: Path):
    engine: Any = load(f"hf:{model_folder}", attn_implementation=attention, max_tokens=8)
    plain = load(f"hf:{model_folder}", max_tokens=8)
    assert engine.backend.network.shares == (attention == "sdpa")
    assert [draft.tokens for draft in drawn(engine)] == [draft.tokens for draft in drawn(plain)]
    assert engine.settings["weights"] == plain.settings["weights"], "a run may be resumed with another one"
    with pytest.raises(ModelError, match="no_such_attention"):
        load(f"hf:{model_folder}", attn_implementation="no_such_attention")


def test_a_device_map(model_folder: Path):
    pytest.importorskip("accelerate")
    plain = load(f"hf:{model_folder}", max_tokens=8)
    for where in ("auto", {"": "cpu"}, {"model": "cpu", "lm_head": "cpu"}):
        engine = load(f"hf:{model_folder}", device_map=where, dtype="float32", max_tokens=8)
        assert [draft.tokens for draft in drawn(engine)] == [draft.tokens for draft in drawn(plain)]
    with pytest.raises(ValueError, match=r"device='cpu' and device_map='auto' both say where"):
        load(f"hf:{model_folder}", device="cpu", device_map="auto")


def test_the_dtype_on_each_kind_of_device(monkeypatch: pytest.MonkeyPatch):
    """float32 on a CPU, where other types are slower; on accelerators that of the files, which may not fit in another one."""
    assert Form().options(quantised=False)["dtype"] == torch.float32
    assert Form(device="cuda:1").options(quantised=False)["dtype"] == "auto"
    assert Form(dtype="bfloat16").options(quantised=False)["dtype"] == torch.bfloat16
    assert Form(device="cuda", dtype="float32").options(quantised=False)["dtype"] == torch.float32
    monkeypatch.setattr(checkpoints.torch.cuda, "is_available", lambda: True)
    assert Form().options(quantised=False)["dtype"] == "auto"
    assert Form(device_map="auto").options(quantised=False)["dtype"] == "auto"
    assert Form(device="cpu").options(quantised=False)["dtype"] == torch.float32


def test_auto_is_the_dtype_of_the_files(model_folder: Path, tmp_path: Path):
    half = transformers.AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.bfloat16)
    half.save_pretrained(tmp_path / "half")
    transformers.AutoTokenizer.from_pretrained(model_folder).save_pretrained(tmp_path / "half")
    assert load(f"hf:{tmp_path / 'half'}", dtype="auto", max_tokens=8).settings["dtype"] == "bfloat16"
    assert load(f"hf:{tmp_path / 'half'}", max_tokens=8).settings["dtype"] == "float32"
    assert load(f"hf:{model_folder}", dtype="auto", max_tokens=8).settings["dtype"] == "float32"


def test_quantised_weights_are_put_in_place_while_they_are_read():
    """transformers refuses to move a model in 4 or 8 bits once it is there."""
    assert Form(device="cuda:1").options(quantised=True)["device_map"] == {"": "cuda:1"}
    assert "device_map" not in Form(device="cuda:1").options(quantised=False)
    assert "device_map" not in Form(device="cpu").options(quantised=True)
    assert Form(device_map="auto").options(quantised=True)["device_map"] == "auto"


@pytest.mark.parametrize("wrong", [{"quant_method": "no_such_method"}, {"bits": 4}])
def test_unknown_kinds_of_quantisation_are_refused(wrong: dict[str, Any], model_folder: Path):
    with pytest.raises(ModelError, match="quantization_config="):
        load(f"hf:{model_folder}", quantization_config=wrong)


def test_a_quantised_checkpoint_whose_package_is_missing_names_it(model_folder: Path, tmp_path: Path):
    if transformers.utils.is_gptqmodel_available():
        pytest.skip("the package is installed here")
    folder = shutil.copytree(model_folder, tmp_path / "quantised")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq", "bits": 4}}))
    with pytest.raises(ModelError, match=r"(?i)gptq"):
        load(f"hf:{folder}")


def test_masked_models_have_the_same_options():
    from exptilt.engines.diffusion.loading import OPTIONS

    own = {name for kind in OPTIONS for name in inspect.signature(kind).parameters}
    assert own >= {*inspect.signature(Form).parameters, *inspect.signature(Repository).parameters}


@pytest.mark.parametrize("kind", ["llamacpp", "openai"])
@pytest.mark.parametrize("option", ["revision", "device_map", "attn_implementation", "quantization_config", "adapter"])
def test_other_kinds_refuse_them_by_name(kind: str, option: str, tmp_path: Path):
    pytest.importorskip({"llamacpp": "llama_cpp", "openai": "httpx2"}[kind])
    (tmp_path / "model.gguf").write_bytes(b"not read")
    asked: dict[str, Any] = {option: "x"}
    with pytest.raises(ValueError, match=rf"has no option {option}: it has "):
        load(f"{kind}:{tmp_path / 'model.gguf'}", **asked)


def many_e(prompt: str, drafts: Sequence[Draft]) -> list[float]:
    return [float(draft.text.count("e")) for draft in drafts]


@pytest.mark.parametrize(
    ("halves", "least", "dtype", "told"),
    [
        (True, 1000, "float32", True),
        (False, 1000, "float32", False),
        (True, 10**8, "float32", False),
        (True, 1000, "bfloat16", False),
    ],
)
def test_the_doctor_tells_where_half_precision_would_be_faster(
    halves: bool, least: int, dtype: str, told: bool, model_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("exptilt.engines.hf.backend.halves", lambda: halves)
    monkeypatch.setattr("exptilt.engines.hf.backend.LEAST_HALVED", least)
    with load(f"hf:{model_folder}", dtype=dtype, max_tokens=8) as engine:
        found = examine(engine, many_e, ["a prompt", "another"], draws=8)
        assert any('dtype="bfloat16"' in warning for warning in found.warnings) == told


@pytest.mark.skipif(sys.platform != "linux", reason="torch's threads wait in another way here")
def test_advice_is_what_would_be_faster_on_this_processor(model_folder: Path, monkeypatch: pytest.MonkeyPatch):
    for name in requirements.WAITING:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(backend, "halves", lambda: True)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    engine: Any
    with load(f"hf:{model_folder}", max_tokens=8) as engine:
        for name in requirements.WAITING:  # loading it has set them, unless torch was there before
            monkeypatch.delenv(name, raising=False)
        assert engine.advice is not None
        assert "GOMP_SPINCOUNT=1000" in engine.advice
        assert "bfloat16" not in engine.advice  # the products of a model of this size take no time
        monkeypatch.setattr(backend, "LEAST_HALVED", 0)
        assert 'dtype="bfloat16" would draw' in engine.advice
        monkeypatch.setenv("OMP_WAIT_POLICY", "passive")  # the caller's own choice
        assert "GOMP_SPINCOUNT" not in engine.advice
    with load(f"hf:{model_folder}", max_tokens=8, dtype="bfloat16") as engine:
        assert engine.advice is None
