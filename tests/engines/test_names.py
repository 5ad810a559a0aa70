"""Names and options as users of other libraries type them; and what a checkpoint's own generation settings say."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from exptilt.engines import generation
from exptilt.engines.generation import tell_generation
from exptilt.engines.loading import load
from exptilt.engines.options import ALIASES, HINTS, options_of, renamed
from exptilt.errors import ModelError


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "Did you mean hf:HuggingFaceTB/SmolLM2-135M-Instruct?"),
        ("Qwen/Qwen3-8B", "Did you mean hf:Qwen/Qwen3-8B?"),
        ("huggingface:Qwen/Qwen3-8B", "Did you mean hf:Qwen/Qwen3-8B?"),
        ("transformers:gpt2", "Did you mean hf:gpt2?"),
        ("llama.cpp:model.gguf", "Did you mean llamacpp:model.gguf?"),
        ("models/model.gguf", "write llamacpp:models/model.gguf, or gguf:models/model.gguf"),
        ("http://localhost:8000/v1", "openai:MODEL with base_url='http://localhost:8000/v1'"),
        ("tinny", "Did you mean tiny?"),
        ("mine.py", "Write mine.py:NAME."),
    ],
)
def test_names_that_nearly_are_one(name: str, hint: str):
    with pytest.raises(ModelError) as told:
        load(name)
    assert hint in str(told.value)


@pytest.mark.parametrize("write", [str, Path, lambda folder: f"{folder}/"])
def test_a_folder_of_a_model_needs_no_kind(write: Any, model_folder: Path):
    engine, named = load(write(model_folder), max_tokens=8), load(f"hf:{model_folder}", max_tokens=8)
    assert engine.settings["weights"] == named.settings["weights"]
    assert engine.settings["model"].startswith("hf:")


def test_other_folders_are_not_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A folder called tiny must not hide the model of that name."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="is not the name of a model"):
        load(str(tmp_path))
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text("{}")
    assert load("tiny", max_tokens=8).settings["model"] == "tiny"


def test_options_by_other_names(model_folder: Path):
    import torch

    engine: Any = load(f"hf:{model_folder}", max_new_tokens=7, torch_dtype=torch.bfloat16, stop_strings=["x"])
    assert (engine.sampling.max_tokens, engine.sampling.stop) == (7, ("x",))
    assert engine.settings["dtype"] == "bfloat16"
    with pytest.raises(ValueError, match=r"max_new_tokens=7 is max_tokens by another name.*give one of them"):
        load(f"hf:{model_folder}", max_new_tokens=7, max_tokens=8)
    assert renamed({"max_new_tokens": 5, "max_tokens": None, "top_k": None}) == {"max_tokens": 5}


def test_an_engine_of_ones_own_gets_its_options_by_its_own_names(tmp_path: Path):
    """Aliases are for exptilt's own kinds: a function may call its parameter max_new_tokens."""
    (tmp_path / "mine.py").write_text(
        "from exptilt.testing.toys import random_table\n"
        "from exptilt.engines.table import TableEngine\n"
        "def make(max_new_tokens, torch_dtype):\n"
        "    return TableEngine(random_table(1, 3), max_new_tokens, 2, name=torch_dtype)\n"
    )
    engine: Any = load(f"{tmp_path / 'mine.py'}:make", max_new_tokens=5, torch_dtype="torch.half")
    assert (engine.max_tokens, engine.name) == (5, "torch.half")


@pytest.mark.parametrize("option", HINTS)
def test_options_that_are_something_else_here(option: str, model_folder: Path):
    asked: dict[str, Any] = {option: True}
    with pytest.raises(ValueError) as told:
        load(f"hf:{model_folder}", **asked)
    assert HINTS[option] in str(told.value)


def test_no_alias_or_hint_hides_an_option_of_hf():
    from exptilt.engines.hf.loading import OPTIONS

    assert not {*options_of(*OPTIONS)} & {*ALIASES, *HINTS}


def with_settings(folder: Path, to: Path, **settings: Any) -> str:
    shutil.copytree(folder, to)
    path = to / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    return f"hf:{to}"


def test_what_a_checkpoint_would_have_set_is_told_once(model_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Qwen's checkpoints say temperature 0.6 and top_p 0.95, and users of vLLM or transformers get them without knowing."""
    generation._told.clear()
    name = with_settings(
        model_folder, tmp_path / "m", do_sample=True, temperature=0.6, top_p=0.95, top_k=20, no_repeat_ngram_size=3
    )
    with caplog.at_level(logging.WARNING, "exptilt"):
        engine: Any = load(name, max_tokens=8)
        load(name, max_tokens=8)
    assert (engine.sampling.temperature, engine.sampling.top_p, engine.sampling.top_k) == (1.0, 1.0, None), "it is not applied"
    [said] = caplog.messages
    assert "sets temperature=0.6, top_p=0.95, top_k=20, no_repeat_ngram_size=3, which is not applied" in said
    assert "load it with temperature=0.6, top_p=0.95, top_k=20. There is nothing like no_repeat_ngram_size here." in said
    caplog.clear()
    with caplog.at_level(logging.WARNING, "exptilt"):
        load(name, max_tokens=8, temperature=0.6, top_k=20, top_p=1.0)
    assert "sets no_repeat_ngram_size=3, which is not applied. There is nothing like" in caplog.text
    assert "temperature" not in caplog.text, "what is given is decided"


@pytest.mark.parametrize("config", [None, {}, {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "do_sample": True, "num_beams": 1}])
def test_nothing_is_told_where_nothing_is_set(config: Any, caplog: pytest.LogCaptureFixture):
    generation._told.clear()
    with caplog.at_level(logging.WARNING, "exptilt"):
        tell_generation("model", config, {})
    assert not caplog.messages


def test_the_models_that_ship_tell_nothing(caplog: pytest.LogCaptureFixture):
    generation._told.clear()
    pytest.importorskip("transformers")
    with caplog.at_level(logging.WARNING, "exptilt"):
        load("tiny", max_tokens=8)
    assert not caplog.messages
