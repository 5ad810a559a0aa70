"""Prompts and responses as tokens: special tokens that stop, ends that tokenizers append, system texts that templates drop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tokenizers import processors  # noqa: E402

from exptilt.draft import Chat  # noqa: E402
from exptilt.engines.hf import Weights  # noqa: E402
from exptilt.engines.language import LanguageEngine  # noqa: E402
from exptilt.engines.loading import load  # noqa: E402
from exptilt.engines.sampling import Sampling  # noqa: E402
from exptilt.engines.text import Text  # noqa: E402
from exptilt.errors import PromptError  # noqa: E402
from exptilt.keys import Key  # noqa: E402

BOS, END, OVER = 1, 2, 3


@pytest.fixture
def tokenizer(model_folder: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(model_folder)


def model_of(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder)


def test_a_stop_string_that_is_a_special_token_stops(model_folder: Path, tokenizer: Any):
    """Responses went on behind it: special tokens are left out of the text in which stop strings are looked for."""
    model = model_of(model_folder)
    model.generation_config.eos_token_id = END  # and not <over>
    model.lm_head.weight.data.zero_()  # all tokens are as likely
    engine = LanguageEngine(Weights(model, tokenizer, name="even"), Sampling(max_tokens=200, stop=["<over>", "never there"]))
    drafts = engine.extend([engine.start("one")] * 16, [Key(0, i) for i in range(16)])
    assert OVER not in engine.backend.text.ends
    assert not any(OVER in draft.tokens[:-1] for draft in drafts)
    stopped = [draft for draft in drafts if draft.tokens[-1] == OVER]
    assert stopped
    assert all(draft.finish == "stop" and "<over>" not in draft.text for draft in stopped)


def test_a_special_token_with_text_around_it_is_no_stop_string(model_folder: Path):
    with pytest.raises(ValueError, match=r"stop='<over>\\n' has the special token '<over>' with other text around it.*alone"):
        load(f"hf:{model_folder}", max_tokens=9, stop=["<over>\n"])


def appending(tokenizer: Any) -> Any:
    """The tokenizer, which now puts an end behind each text."""
    around = processors.TemplateProcessing(single="<bos> $A <end>", special_tokens=[("<bos>", BOS), ("<end>", END)])  # pyright: ignore
    tokenizer.backend_tokenizer.post_processor = around
    return tokenizer


@pytest.mark.parametrize(
    ("prompt", "ends"), [("one", []), ("one<end>", [END]), ("one<over><end>", [OVER, END]), ("<bos>one", [])]
)
def test_an_end_that_the_tokenizer_appends_is_no_part_of_the_prompt(prompt: str, ends: list[int], tokenizer: Any):
    """The model was asked to go on behind the end of a text. An end that the user wrote stays."""
    plain = tuple(tokenizer("one", add_special_tokens=False).input_ids)
    text = Text(appending(tokenizer), [END, OVER])
    assert text.encode(prompt) == (BOS, *plain, *ends)
    assert Text(tokenizer, [END, OVER], closed=True).encode("one") == (BOS, *plain, END)


def test_half_a_character_is_refused_in_words(tokenizer: Any):
    """The tokenizer raised a TypeError, which ended the whole run."""
    text = Text(tokenizer, [END])
    for prompt in ("bad \ud83d", Chat.of([{"role": "user", "content": "bad \ud83d"}])):
        with pytest.raises(PromptError, match=r"half a character .*number 5"):
            text.encode(prompt)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (
            "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}",
            "leaves out the system message",
        ),
        (
            "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
            "{{ m.content }}{% endfor %}",
            "no system role",
        ),
    ],
    ids=["left out", "refused"],
)
def test_a_system_text_that_the_template_does_not_take_is_refused_at_once(
    template: str, words: str, model_folder: Path, tokenizer: Any
):
    """It was refused prompt by prompt, or left out without a word."""
    tokenizer.chat_template = template
    weights = Weights(model_of(model_folder), tokenizer, name="small")
    LanguageEngine(weights, Sampling(max_tokens=9))
    with pytest.raises(ValueError, match=f"system='Be brief.' cannot be given to small: .*{words}"):
        LanguageEngine(weights, Sampling(max_tokens=9), system="Be brief.")
