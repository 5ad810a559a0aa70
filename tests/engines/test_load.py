"""Loading engines by name, and what is said when that fails."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from exptilt.engines import files
from exptilt.engines.loading import load
from exptilt.engines.options import CHOICES, LEAST
from exptilt.engines.requirements import WAITING
from exptilt.engines.row import Context, Row
from exptilt.engines.sampling import Sampling
from exptilt.errors import ModelError
from exptilt.keys import Key


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0}, "temperature=0 must be positive .* greedy decoding give top_k=1"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"temperature": -1.0}, "temperature"),
        ({"top_p": 0.0}, "top_p=0.0 must be above 0"),
        ({"top_p": 1.5}, "top_p=1.5"),
        ({"top_k": 0}, "top_k=0 must be a whole number"),
        ({"max_tokens": 0}, "max_tokens=0"),
        ({"stop": [""]}, "stop="),
    ],
)
def test_parameters_out_of_range_are_refused_before_anything_is_read(changes: dict, message: str):
    with pytest.raises(ValueError, match=message):
        load("tiny", **changes)


OUT_OF_RANGE = {
    "tiny": [
        *({"max_rows": value} for value in (0, -1, 1.5, True, "abc")),
        *({"rows_memory": value} for value in (0, -5, "a")),
        *({"memory": value} for value in (-1, 1.5, "x")),
        *({"fast": "no"}, {"merge": 1}, {"trust_remote_code": "yes"}, {"device": "nonsense"}),
    ],
    "tiny-mdlm": [
        *({"max_rows": value} for value in (0, "a")),
        {"rows_memory": 0},
        {"mask": -1},
        {"mask": 10**6},
        {"ends": [-1]},
    ],
    "digits": [{"max_rows": 0}, {"null": "a"}, {"device": "nonsense"}],
    "openai:x": [{"concurrency": True}, {"attempts": 1.5}, {"seeds": "no"}, {"processed": 1}],
}


@pytest.mark.parametrize(("name", "option"), [(name, option) for name, options in OUT_OF_RANGE.items() for option in options])
def test_options_out_of_range_are_refused(name: str, option: dict[str, Any]) -> None:
    """`tiny?max_rows=0` was taken for the default, and `memory=x` for a model without key-values, which then never ended."""
    pytest.importorskip("diffusers" if name == "digits" else "httpx2" if name.startswith("openai") else "transformers")
    with pytest.raises(ValueError, match=f"^{next(iter(option))}.* (must be|names the token|is not a device)"):
        load(name, **option)


def test_every_count_among_the_options_has_its_least() -> None:
    """The table of them is kept by hand."""
    pytest.importorskip("transformers")
    from exptilt.engines.diffusion.backend import MaskedWeights
    from exptilt.engines.diffusion.loading import Tokens
    from exptilt.engines.hf.backend import Weights
    from exptilt.engines.image.loading import read_image_model
    from exptilt.engines.openai import connect

    readers = (Weights, MaskedWeights, Tokens, read_image_model, connect)
    kinds = {each.name: str(each.annotation) for reader in readers for each in inspect.signature(reader).parameters.values()}
    own = {"ours", "template", "thin"}  # of those who call them
    assert {name for name, kind in kinds.items() if kind in ("int", "int | None")} <= {*LEAST}
    assert {name for name, kind in kinds.items() if kind in ("bool", "bool | None")} - own <= CHOICES


def test_a_cap_far_beyond_any_response_costs_nothing() -> None:
    """Each row took its random numbers for all tokens up to the cap at once: `--max-tokens 1000000000000` ended in MemoryError
    where the model's context has no limit. The numbers are those that it took before."""
    row, few = (Row(Context((1,), (1,)), Sampling(max_tokens=10**12), Key(3), room) for room in (10**12, 200))
    for number in Key(3).rng().random(200).tolist():
        assert row.uniform == few.uniform == number
        row.tokens.append(1)
        few.tokens.append(1)


def test_stop_takes_one_string_or_several():
    assert Sampling(stop="a").stop == ("a",)
    assert Sampling(stop=["a", "b"]).before_stop("xxbxa") == "xx"
    assert Sampling().before_stop("xxbxa") == "xxbxa"
    json.dumps(Sampling(stop=["a"]).settings())


@pytest.mark.parametrize("name", ["", "SmolLM2", "huge", "hf:", "gguf:", "llamacpp:", "vllm:", "onnx:file"])
def test_unknown_names_list_the_known_ones(name: str):
    with pytest.raises(ModelError, match=r'is not the name of a model: exptilt knows "hf:HUB-ID-OR-FOLDER"'):
        load(name)


@pytest.mark.parametrize("name", ["hf:/no/such/folder", "gguf:/no/such/file.gguf", "llamacpp:/no/such/file.gguf"])
def test_missing_files_are_named(name: str):
    pytest.importorskip("transformers")
    with pytest.raises(ModelError, match="there is no f"):
        load(name)


def test_a_folder_that_is_no_model_is_one_error(tmp_path: Path):
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text('{"model_type": "nonsense"}')
    with pytest.raises(ModelError, match="cannot be read by transformers"):
        load(f"hf:{tmp_path}")


def test_a_file_that_is_no_gguf_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("gguf")
    monkeypatch.setenv("EXPTILT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "model.gguf").write_bytes(b"not a model")
    with pytest.raises(ModelError, match="cannot be read by transformers"):
        load(f"gguf:{tmp_path / 'model.gguf'}")
    assert not list((tmp_path / "cache" / "gguf").iterdir()), "nothing half-made is left behind"


def test_a_missing_extra_names_its_cure(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("exptilt.engines.requirements.importlib.util.find_spec", lambda _: None)
    with pytest.raises(ModelError, match=r"pip install .*\[hf\]'"):
        load("tiny")


def test_a_missing_shipped_model_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    pytest.importorskip("transformers")
    monkeypatch.setattr(files, "MODELS", tmp_path)
    with pytest.raises(ModelError, match="Install exptilt again"):
        load("tiny")


def test_a_cap_larger_than_the_context_is_refused(model_folder: Path):
    with pytest.raises(ValueError, match="max_tokens=256 leaves no room"):
        load(f"hf:{model_folder}")


def test_bfloat16_and_unknown_dtypes(model_folder: Path):
    engine = load(f"hf:{model_folder}", dtype="bfloat16", max_tokens=4)
    assert engine.settings["dtype"] == "bfloat16"
    [draft] = engine.extend([engine.start("one")], [Key(0)])
    assert draft.finish
    with pytest.raises(ValueError, match="dtype='int3'"):
        load(f"hf:{model_folder}", dtype="int3")


def test_a_gguf_file_is_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("gguf")
    from exptilt.engines.hf import loading

    monkeypatch.setenv("EXPTILT_CACHE", str(tmp_path / "cache"))
    calls: list[Path] = []

    def convert(file: Path, folder: Path) -> None:
        calls.append(file)
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(loading, "_convert", convert)
    file = tmp_path / "model.gguf"
    file.write_bytes(bytes(range(256)) * 4000)
    first = loading.converted(file)
    assert (first / "config.json").is_file()
    (tmp_path / "elsewhere").mkdir()
    file = file.rename(tmp_path / "elsewhere" / "model.gguf")
    assert loading.converted(file) == first
    assert len(calls) == 1
    file.write_bytes(bytes(range(256)) * 4000 + b"changed")
    assert loading.converted(file) != first


def test_importing_load_imports_no_network_packages():
    code = "import sys, exptilt.engines.loading; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize("name", ["tiny", "tiny-small"])
def test_the_shipped_models_answer(name: str):
    pytest.importorskip("transformers")
    if not (files.MODELS / name).is_dir():
        pytest.skip("not trained yet")
    engine = load(name, max_tokens=96)
    drafts = engine.extend(
        [engine.start("Tom has 3 apples and buys 4 more. How many apples does Tom have?")] * 4, [Key(0, i) for i in range(4)]
    )
    assert any("####" in draft.text for draft in drafts)


@pytest.mark.parametrize("given", [{}, {"OMP_WAIT_POLICY": "passive"}, {"GOMP_SPINCOUNT": "7"}])
def test_how_threads_wait_is_set_unless_it_is_given(given: dict[str, str]):
    """In a process of its own, where torch has not been imported."""
    pytest.importorskip("torch")
    program = (
        "import os; from exptilt.engines.requirements import WAITING, prepare_torch; prepare_torch('tiny'); "
        "print({name: os.environ[name] for name in WAITING if name in os.environ})"
    )
    environment = {name: value for name, value in os.environ.items() if name not in WAITING} | given
    ended = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == str(given or WAITING)


def with_weights(folder: Path, there: Path, add: Sequence[str] = (), drop: Sequence[str] = ()) -> Path:
    """A copy of a model whose files have some weights more, or fewer."""
    safetensors = pytest.importorskip("safetensors.torch")
    shutil.copytree(folder, there)
    weights = safetensors.load_file(there / "model.safetensors")
    some = next(iter(weights.values()))
    kept = {name: tensor for name, tensor in weights.items() if name not in drop} | {name: some.clone() for name in add}
    safetensors.save_file(kept, there / "model.safetensors", metadata={"format": "pt"})
    return there


def test_a_model_with_code_of_its_own_is_refused_without_a_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """transformers asked on the terminal whether to run the code, and waited 15 seconds for an answer."""
    pytest.importorskip("transformers")
    folder = tmp_path / "own"
    shutil.copytree(files.MODELS / "tiny", folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text("raise SystemExit\n")
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda question="": asked.append(question) or "n")
    with pytest.raises(ModelError, match="comes with Python code of its own, which is not run here"):
        load(f"hf:{folder}")
    assert asked == []


def test_weights_that_the_files_lack_are_named(model_folder: Path, tmp_path: Path):
    """A folder without lm_head, such as a reward model's, got a random one, another at every load, without a word."""
    folder = with_weights(model_folder, tmp_path / "m", drop=["lm_head.weight", "model.norm.weight"])
    with pytest.raises(ModelError, match=r"no weights for lm_head.weight, model.norm.weight.*LlamaForCausalLM"):
        load(f"hf:{folder}")


def test_weights_that_the_model_does_not_know_are_named(model_folder: Path, tmp_path: Path):
    """Weights of an adapter, or of a layer more, were left out without a word."""
    extra = "model.layers.0.self_attn.q_proj.lora_A.weight"
    with pytest.raises(ModelError, match=rf"does not know: {extra}.*save it anew"):
        load(f"hf:{with_weights(model_folder, tmp_path / 'm', add=[extra])}")


def test_buffers_of_old_files_are_no_weights(model_folder: Path, tmp_path: Path):
    folder = with_weights(model_folder, tmp_path / "m", add=["model.layers.0.self_attn.rotary_emb.inv_freq", "h.0.attn.bias"])
    assert load(f"hf:{folder}", max_tokens=9).name == f"hf:{folder}"
