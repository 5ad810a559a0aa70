"""Prompts of every form to every kind of engine: what the model reads before the response, or a refusal with a reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import exptilt as xt
from exptilt.draft import Chat, Draft, Prompt
from exptilt.engines.files import MODELS
from exptilt.errors import ModelError, PromptError
from exptilt.keys import Key
from tests.engines.fake_server import PROMPT, Fake
from tests.engines.served import table

SYSTEM = {"role": "system", "content": "Be brief."}
ASKED = {"role": "user", "content": "Tom has 3 apples and buys 4. How many?"}
BEGUN = {"role": "assistant", "content": "The answer"}
WHOLE, PREFILLED = Chat.of([SYSTEM, ASKED]), Chat.of([SYSTEM, ASKED, BEGUN])
QUOTED = "{{ '<|' + message['role'] + '|>' }}"
TEMPLATES = {
    "plain": "{% for message in messages %}" + QUOTED + "{{ message['content'] + '<|end|>' }}{% endfor %}",
    "strips": "{% for message in messages %}" + QUOTED + "{{ message['content'] | trim + '<|end|>' }}{% endfor %}",
    "no system": "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for message in messages %}" + QUOTED + "{{ message['content'] + '<|end|>' }}{% endfor %}",
    "drops system": "{% for message in messages if message['role'] != 'system' %}"
    + QUOTED
    + "{{ message['content'] + '<|end|>' }}{% endfor %}",
    "shouts": "{% for message in messages %}" + QUOTED + "{{ message['content'] | upper + '<|end|>' }}{% endfor %}",
}


@pytest.fixture(scope="module")
def templated(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Loads the tiny model with another template, or with none."""
    pytest.importorskip("transformers")

    def make(kind: str | None, **options: Any) -> Any:
        folder = tmp_path_factory.mktemp("templated") / "model"
        shutil.copytree(MODELS / "tiny", folder)
        (folder / "chat_template.jinja").unlink()
        if kind is not None:
            template = TEMPLATES[kind] + "{% if add_generation_prompt %}<|assistant|>{% endif %}"
            (folder / "chat_template.jinja").write_text(template)
        return xt.load(f"hf:{folder}", max_tokens=8, **options)

    return make


def read(engine: Any, prompt: Prompt) -> str:
    """What the model reads, as text."""
    return engine.backend.text.tokenizer.decode(engine.prompt_tokens(prompt))


def drawn(engine: Any, prompt: Prompt, count: int = 4) -> list[Draft]:
    return engine.extend([engine.start(prompt)] * count, [Key(0, i) for i in range(count)])


# ------------------------------------------------------------------------------------------------------- local models


def test_a_string_is_one_user_turn(templated: Callable[..., Any]) -> None:
    engine = templated("plain", system="Be brief.")
    assert read(engine, "hello") == "<|system|>Be brief.<|end|><|user|>hello<|end|><|assistant|>"
    assert engine.prompt_tokens("hello") == engine.prompt_tokens(Chat.of([SYSTEM, {"role": "user", "content": "hello"}]))


def test_the_system_text_of_load_is_for_chats_without_one(templated: Callable[..., Any]) -> None:
    engine = templated("plain", system="Be verbose.")
    assert read(engine, Chat.of([ASKED])).startswith("<|system|>Be verbose.<|end|><|user|>Tom")
    assert read(engine, WHOLE).startswith("<|system|>Be brief.<|end|><|user|>Tom")


@pytest.mark.parametrize("kind", ["plain", "strips"])
@pytest.mark.parametrize("begun", ["The answer", "The answer ", " The\n", "", "12 <|end|> 3"])
def test_a_prefill_is_what_the_response_goes_on_from(kind: str, begun: str, templated: Callable[..., Any]) -> None:
    """Character by character: a template that strips its messages takes the spaces around a prefill away, and with them
    the space that the model is to write no more."""
    engine = templated(kind)
    chat = Chat.of([ASKED, {"role": "assistant", "content": begun}])
    assert read(engine, chat) == f"<|user|>{ASKED['content']}<|end|><|assistant|>{begun}"
    ids = engine.prompt_tokens(chat)
    for draft in drawn(engine, chat):
        assert draft.prompt == chat
        # The ids of the prefill are those right before the response: by them it is drawn, and rated the same.
        [score] = engine.score([draft])
        assert score.tolist() == pytest.approx(draft.logq, abs=1e-4)
    plain = templated(None)
    [same] = plain.score([Draft(plain.backend.text.tokenizer.decode(ids), (5, 6, 7))])
    assert engine.score([Draft(chat, (5, 6, 7))])[0].tolist() == pytest.approx(same.tolist(), abs=1e-4)


def test_templates_that_lose_a_message_are_refused(templated: Callable[..., Any]) -> None:
    """One that leaves the system turn out without a word had the model answer without its instructions."""
    with pytest.raises(PromptError, match=r"template refuses the prompt .*no system role.*without a system text"):
        templated("no system").start(WHOLE)
    with pytest.raises(PromptError, match="template leaves out the system message: put its text into the user's"):
        templated("drops system").start(WHOLE)
    with pytest.raises(PromptError, match="changes the assistant's message 'The answer', so that it cannot be continued"):
        templated("shouts").start(Chat.of([ASKED, BEGUN]))


def test_a_model_without_template_reads_strings_alone(templated: Callable[..., Any]) -> None:
    engine = templated(None)
    assert read(engine, "hello") == "hello"
    with pytest.raises(PromptError, match=r"the prompt is a chat, and hf:.* has no chat template: give the prompt as one string"):
        engine.start(Chat.of([ASKED]))
    with pytest.raises(PromptError, match="runs without it: give the prompt as one string, or leave template=True"):
        templated("plain", template=False).start(WHOLE)


def test_the_first_token_is_not_doubled(tmp_path: Path) -> None:
    """A tokenizer that puts <bos> before every text put it before text that begins with one already: the model read two."""
    transformers = pytest.importorskip("transformers")
    from tokenizers.processors import TemplateProcessing

    from exptilt.engines.text import Text

    tokenizer = transformers.AutoTokenizer.from_pretrained(MODELS / "tiny")
    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|user|> $A", special_tokens=[("<|user|>", bos)]
    )  # fmt: skip
    assert tokenizer("<|user|>hi").input_ids[:2] == [bos, bos]
    text = Text(tokenizer, [])
    assert text.encode("<|user|>hi") == text.encode("hi") == text.encode(Chat.of([{"role": "user", "content": "hi"}]))[:-1]


MESSAGES = [SYSTEM, ASKED, BEGUN]


def sampled(engine: Any, prompt: Any = MESSAGES) -> xt.Result:
    """One answer of guided search where the engine can go on from a draft, else of whole answers."""
    sampler = xt.ETS(candidates=2, rollouts=1, block=2) if "continue" in engine.can else xt.Independent(2)
    target = xt.Target(engine, lambda prompt, drafts: [float(len(draft.text)) for draft in drafts], 5.0)
    return xt.sample(target, prompt, sampler, seed=0)


@pytest.mark.parametrize("name", ["tiny", "tiny-mdlm"])
def test_tiny_answers_chats_and_continues_them(name: str) -> None:
    pytest.importorskip("transformers")
    with xt.load(name, max_tokens=16) as engine:
        ids = engine.prompt_tokens(PREFILLED)
        begun = engine.prompt_tokens(Chat.of([SYSTEM, ASKED, {"role": "assistant", "content": ""}]))
        assert ids[: len(begun)] == begun == engine.prompt_tokens(WHOLE)
        assert len(ids) > len(begun)
        drafts = drawn(engine, PREFILLED)
        assert all(draft.prompt == PREFILLED and draft.finish for draft in drafts)
        for draft, score in zip(drafts, engine.score(drafts), strict=True):
            assert score.tolist() == pytest.approx(draft.logq, abs=1e-4)
        result = sampled(engine)
        assert (result.prompt, result.draft.prompt, result.draft.finish is None) == (PREFILLED, PREFILLED, False)
    with pytest.raises(ModelError, match="is closed: load the engine again"):
        drawn(engine, WHOLE)


def test_a_run_of_prompts_of_all_forms(templated: Callable[..., Any]) -> None:
    """A prompt that the model cannot take is one failure, by the same check as in `sample`."""
    target = xt.Target(templated("no system"), lambda prompt, drafts: [0.0] * len(drafts), 1.0)
    plain, chat, refused = xt.run(target, ["hello", [ASKED, BEGUN], [SYSTEM, ASKED]], xt.Independent(2))
    assert isinstance(plain, xt.Result) and isinstance(chat, xt.Result)  # noqa: PT018
    assert chat.prompt == Chat.of([ASKED, BEGUN])
    assert isinstance(refused, xt.Failure) and "no system role" in refused.message  # noqa: PT018
    with pytest.raises(PromptError, match="no system role"):
        sampled(target.engine, [SYSTEM, ASKED])
    with pytest.raises(PromptError, match="has no chat template"):
        sampled(templated(None))


# ------------------------------------------------------------------------------------------------------------- servers


@pytest.mark.parametrize("continues", [True, False])
@pytest.mark.parametrize("make", ["vllm", "llamacpp"])
def test_completions_of_a_chat(serve: Callable[..., Any], make: str, continues: bool) -> None:
    fake = Fake(table(), make=make, continues=continues)
    engine = serve(fake, system="Be verbose.")

    def sent() -> str:
        prompt = fake.requests("/v1/completions")[-1]["prompt"]
        return prompt if isinstance(prompt, str) else "".join(chr(token - PROMPT) for token in prompt)

    drawn(engine, WHOLE)
    assert sent() == f"<SYSTEM>Be brief.<USER>{ASKED['content']}<:>"
    drawn(engine, Chat.of([ASKED]))
    assert sent() == f"<SYSTEM>Be verbose.<USER>{ASKED['content']}<:>"
    if continues:
        drafts = drawn(engine, PREFILLED)
        assert sent() == f"<SYSTEM>Be brief.<USER>{ASKED['content']}<ASSISTANT>The answer"
        assert all(draft.prompt == PREFILLED for draft in drafts)
        assert sampled(engine).draft.prompt == PREFILLED
    else:
        with pytest.raises(PromptError, match=r"does not continue the assistant's last message 'The answer': .* ends in .*<:>"):
            engine.start(PREFILLED)


def test_completions_of_a_model_without_template(serve: Callable[..., Any]) -> None:
    for make in ("vllm", "llamacpp"):
        fake = Fake(table(), make=make, template=False)
        bare = serve(fake, template=False)
        drawn(bare, "Q?")
        with pytest.raises(PromptError, match="runs without it: give the prompt as one string"):
            bare.start(WHOLE)
    with pytest.raises(PromptError, match=r"cannot encode the prompt \(this model has no chat template\).*template=False"):
        serve(Fake(table(), template=False)).start(WHOLE)


def test_chat_servers_get_the_messages(serve: Callable[..., Any]) -> None:
    fake = Fake(table(), completions=False)
    engine = serve(fake)
    before = len(fake.requests("/v1/chat/completions"))
    assert len(drawn(engine, WHOLE)) == 4
    assert fake.requests("/v1/chat/completions")[-1]["messages"] == [SYSTEM, ASKED]
    assert len(fake.requests("/v1/chat/completions")) == before + 4, "nothing is tried that nobody asks for"
    assert all(draft.finish for draft in drawn(engine, PREFILLED))
    asked = fake.requests("/v1/chat/completions")[-1]
    assert asked["messages"] == [SYSTEM, ASKED, BEGUN]
    assert (asked["add_generation_prompt"], asked["continue_final_message"]) == (False, True)
    assert sampled(engine).draft.prompt == PREFILLED


@pytest.mark.parametrize("make", ["vllm", "other"])
def test_a_chat_server_that_closes_the_last_message_is_refused(serve: Callable[..., Any], make: str) -> None:
    """Most take the fields without a word and begin another turn, which the tokens tell that they count in the prompt."""
    fake = Fake(table(), make=make, completions=False, continues=False)
    with pytest.raises(PromptError, match="behind a chat server that does not continue the assistant's last message"):
        serve(fake).start(PREFILLED)
    assert drawn(serve(fake), WHOLE)


# ------------------------------------------------------------------------------------------------------------ settings


SETTINGS = {  # as they were before the engines of tokens became one
    "tiny": {"engine": "hf", "weights": "0f997e35dbcb3408666fb9b09db2d3ad", "max_tokens": 256, "stop": []},
    "tiny-small": {"engine": "hf", "weights": "0ec282d73e3bec51b4773c731393d2dc", "max_tokens": 256, "stop": []},
    "tiny-mdlm": {"engine": "diffusion", "weights": "11b551167f989a58c35ad5f6e055a2ff", "max_tokens": 64}
    | {"block": 8, "per_step": 1, "order": "left", "threshold": None, "cache": "none", "guidance": 0.0},
}
LIKE = {"dtype": "float32", "system": None, "template": True, "temperature": 1.0, "top_p": 1.0, "top_k": None}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_are_those_that_results_files_have(name: str) -> None:
    """A results file goes on only where the settings are those of its first line."""
    pytest.importorskip("transformers")
    settings = xt.load(name).settings
    assert settings == {"model": name, **LIKE, **SETTINGS[name]}
    assert json.loads(json.dumps(settings)) == settings


def test_settings_of_a_served_model_are_those_that_results_files_have(serve: Callable[..., Any]) -> None:
    engine = serve(Fake(table()), seeds=False, extra={"top_a": 0.1}, system="Be brief.")
    assert engine.settings == {
        "engine": "openai", "model": "table", "make": "vllm", "mode": "ids", "system": "Be brief.", "template": True,
        "seeds": False, "extra": {"top_a": 0.1}, "temperature": 1.0, "top_p": 1.0, "top_k": None, "max_tokens": 4, "stop": [],
    }  # fmt: skip
