"""Variables of the chat template reach it, whoever applies it; those that it does not read are refused."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import exptilt as xt
from exptilt import names
from exptilt.cli import main
from exptilt.draft import Chat
from exptilt.engines.files import MODELS
from exptilt.errors import ModelError
from exptilt.keys import Key
from tests.engines.fake_server import PROMPT, Fake
from tests.engines.gguf_tiny import write_gguf
from tests.engines.served import table

TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% if enable_thinking is defined and not enable_thinking %}"
    "no thoughts: {% endif %}{% if style %}{{ style | join }}{% endif %}{% endif %}"
)
QUIET = {"enable_thinking": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a template like Qwen3's."""
    pytest.importorskip("transformers")
    made = tmp_path_factory.mktemp("thinking") / "model"
    shutil.copytree(MODELS / "tiny", made)
    (made / "chat_template.jinja").write_text(TEMPLATE)
    return made


def load(folder: Path, **options: Any) -> Any:
    return xt.load(f"hf:{folder}", max_tokens=8, device="cpu", **options)


def read(engine: Any, prompt: Any = "hello") -> str:
    return engine.backend.text.tokenizer.decode(engine.prompt_tokens(prompt))


def test_a_variable_reaches_the_template(folder: Path) -> None:
    """`enable_thinking` of Qwen3 could not be given at all, under no name."""
    plain, quiet = load(folder), load(folder, template_kwargs=QUIET)
    assert read(plain) == "<|user|>hello<|end|><|assistant|>"
    assert read(quiet) == read(plain) + "no thoughts: "
    assert read(load(folder, template_kwargs={**QUIET, "style": ["7 apples"]})) == read(quiet) + "7 apples"
    assert quiet.settings == {**plain.settings, "template_kwargs": QUIET}
    assert quiet.with_sampling(temperature=0.5).settings["template_kwargs"] == QUIET
    [draft] = quiet.extend([quiet.start("hello")], [Key(0)])
    same = Chat.of([{"role": "user", "content": "hello"}, {"role": "assistant", "content": "no thoughts: "}])
    assert plain.prompt_tokens(same) == quiet.prompt_tokens("hello")
    assert quiet.score([draft])[0].tolist() == pytest.approx(draft.logq, abs=1e-4)
    begun = Chat.of([{"role": "user", "content": "hello"}, {"role": "assistant", "content": "It"}])
    assert read(quiet, begun) == "<|user|>hello<|end|><|assistant|>It"


def test_a_value_that_the_template_takes_anyway_is_accepted(folder: Path) -> None:
    thinking = load(folder, template_kwargs={"enable_thinking": True})
    assert read(thinking) == read(load(folder))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"enable_thinkin": False}, "does not read 'enable_thinkin'"),
        ({**QUIET, "colour": "red"}, "does not read 'colour'"),
        ({"add_generation_prompt": False}, "holds add_generation_prompt, which the engine sets itself"),
        ({"enable_thinking": {1, 2}}, "are not JSON values"),
        ([("enable_thinking", False)], "has no names: give a dict"),
        ({"style": 7}, "cannot be given to"),
    ],
)
def test_what_the_template_does_not_read_is_refused(given: Any, said: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=said):
        load(folder, template_kwargs=given)


def test_without_a_template_there_is_nothing_to_give_them_to(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"variables of the chat template, and hf:.* runs without it \(template=False\)"):
        load(folder, template_kwargs=QUIET, template=False)
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare)
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match=r"and hf:.* has none: leave them out"):
        load(bare, template_kwargs=QUIET)


def test_llamacpp_applies_the_same_template(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    pytest.importorskip("gguf")
    file = write_gguf(folder, tmp_path / "thinking.gguf")
    with xt.load(f"llamacpp:{file}", tokenizer=folder, max_tokens=8, template_kwargs=QUIET) as engine:
        assert engine.prompt_tokens("hello") == load(folder, template_kwargs=QUIET).prompt_tokens("hello")
        with pytest.raises(ValueError, match="does not read 'x'"):
            xt.load(f"llamacpp:{file}", tokenizer=folder, max_tokens=8, template_kwargs={"x": 1})
    with xt.load(f"llamacpp:{file}", max_tokens=8, template_kwargs=QUIET) as own:  # the tokenizer of the file
        assert own.prompt_tokens("hello") != xt.load(f"llamacpp:{file}", max_tokens=8).prompt_tokens("hello")


def test_names_of_models_hold_them(folder: Path) -> None:
    engine: Any = names.engine(f'hf:{folder}?template_kwargs={{"enable_thinking": false}}', max_tokens=8)
    assert read(engine).endswith("no thoughts: ")


@pytest.mark.parametrize(("given", "status"), [('{"enable_thinking": false}', 0), ('{"thinking": false}', 2), ("thinking=no", 2)])
def test_the_command_line_gives_them(given: str, status: int, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["sample", f"hf:{folder}", "hello", "--reward", "none", "--sampler", "independent", "--n", "1", "--max-tokens", "4"]
    assert main([*line, "--template-kwargs", given]) == status
    said = " ".join(capsys.readouterr().err.split())
    assert status == 0 or "does not read 'thinking'" in said or "is not a JSON object, such as" in said


# ------------------------------------------------------------------------------------------------------------- servers


def asked(fake: Fake) -> list[Any]:
    """What the requests that apply a template say of its variables, since the server was loaded."""
    return [body.get("chat_template_kwargs") for _, body, _ in fake.seen if "messages" in body]


@pytest.mark.parametrize("make", ["vllm", "llamacpp", "other"])
def test_a_server_gets_them_where_it_applies_the_template(make: str, serve: Callable[..., Any]) -> None:
    fake = Fake(table(), make=make, variable="quiet", completions=make != "other")
    engine = serve(fake, template_kwargs={"quiet": True})
    fake.seen.clear()
    engine.extend([engine.start("Q?")], [Key(0)])
    assert asked(fake) == [{"quiet": True}]
    drawing = [body for path, body, _ in fake.seen if path == "/v1/completions"]
    assert all("chat_template_kwargs" not in body for body in drawing)
    if make == "vllm":
        assert "".join(chr(token - PROMPT) for token in drawing[0]["prompt"]) == "<USER>Q?<quiet:True><:>"
    assert engine.settings["template_kwargs"] == {"quiet": True}
    both = serve(fake, template_kwargs={"quiet": True}, extra={"chat_template_kwargs": {"quiet": 1, "loud": 2}})
    fake.seen.clear()
    both.extend([both.start("Q?")], [Key(0)])
    assert asked(fake) == [{"quiet": True, "loud": 2}]


@pytest.mark.parametrize("make", ["vllm", "llamacpp", "other"])
def test_a_server_that_does_not_read_them_is_refused(make: str, serve: Callable[..., Any]) -> None:
    """Servers leave fields that they do not know unread, without a word."""
    fake = Fake(table(), make=make, variable="quiet", completions=make != "other")
    with pytest.raises(ValueError, match=r"the chat template of openai:table does not read 'silent'"):
        serve(fake, template_kwargs={"silent": True})
    serve(fake, template_kwargs={"quiet": False})  # the value that it takes anyway
    fake.template = False
    with pytest.raises((ValueError, ModelError), match="no chat template"):
        serve(fake, template_kwargs={"quiet": True})


def test_a_server_that_does_not_count_prompts_is_told_of(serve: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    def uncounted(path: str, body: dict[str, Any], answer: Any) -> Any:
        return (200, {}, {name: value for name, value in answer.items() if name != "usage"}) if "choices" in answer else None

    fake = Fake(table(), make="other", completions=False, variable="quiet", habit=uncounted)
    with caplog.at_level(logging.WARNING, "exptilt"):
        serve(fake, template_kwargs={"quiet": True})
    assert "it cannot be seen whether the chat template of openai:table reads quiet" in caplog.text
