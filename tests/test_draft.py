"""Prompts as users write them, and their forms for files, people and random streams."""

from __future__ import annotations

import json
from typing import Any

import pytest

import exptilt as xt
from exptilt.draft import Chat, Draft, Prompt, Turn, as_prompt, check_characters, prompt_digest, prompt_json, prompt_text
from exptilt.errors import PromptError
from exptilt.keys import digest

MESSAGES = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Why?"}]


def test_messages_become_a_chat_and_come_back() -> None:
    chat = as_prompt(MESSAGES)
    assert chat == Chat((Turn("system", "Be short."), Turn("user", "Why?")))
    assert prompt_json(chat) == MESSAGES
    assert as_prompt(json.loads(json.dumps(prompt_json(chat)))) == chat
    assert {chat: 1}[Chat.of(MESSAGES)] == 1
    assert as_prompt(chat) is chat


def test_a_string_stays_what_it_is() -> None:
    assert as_prompt("Why?") == prompt_json("Why?") == prompt_text("Why?") == "Why?"


def test_the_prefill_is_the_last_turn_of_the_assistant() -> None:
    chat = Chat.of([*MESSAGES, {"role": "assistant", "content": "Because"}])
    assert (Chat.of(MESSAGES).prefill, chat.prefill) == (None, "Because")


def test_people_read_a_chat_by_its_turns() -> None:
    assert prompt_text(Chat.of(MESSAGES)) == "system: Be short.\n\nuser: Why?"


def test_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "Wh"}, {"type": "text", "text": "y?"}]
    assert Chat.of([{"role": "user", "content": parts}]) == Chat((Turn("user", "Why?"),))


def test_digests_of_strings_are_those_of_older_results_files() -> None:
    """Random streams and lines of results files are named by them: a change would make every old file one of other prompts."""
    assert prompt_digest("Why?") == digest("Why?") == "d48a1ceb3df4b237"


def test_digests_tell_prompts_apart() -> None:
    prompts: list[Prompt] = ["Why?", Chat.of(MESSAGES), Chat.of(MESSAGES[1:]), Chat.of([{"role": "system", "content": "Why?"}])]
    prompts.append(json.dumps(MESSAGES))
    assert len({prompt_digest(prompt) for prompt in prompts}) == len(prompts)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (3, "int"),
        (b"Why?", "bytes"),
        ([], "no messages"),
        (["Why?"], "message 1 of the chat is 'Why\\?'"),
        ([{"content": "Why?"}], "role None"),
        ([{"role": "user"}], "content None"),
        ([{"role": "user", "content": "  "}], "every message of the chat is empty"),
        ([MESSAGES[0], {"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}], "message 2 .* not text"),
        ([{"role": "assistant", "content": "", "tool_calls": []}], "'tool_calls', which no engine reads"),
    ],
)
def test_what_is_no_prompt_is_refused_with_the_reason(given: Any, said: str) -> None:
    with pytest.raises(PromptError, match=said):
        as_prompt(given)


def test_the_output_takes_no_part_in_a_draft_s_identity() -> None:
    assert Draft("x", (1,), output=[0.5]) == Draft("x", (1,))
    assert hash(Draft("x", (1,), output=[0.5])) == hash(Draft("x", (1,)))


@pytest.mark.parametrize("prompt", ["a cut emoji \ud83d ends it", Chat.of([{"role": "user", "content": "so \udc00"}])])
def test_half_a_surrogate_pair_is_named(prompt: Prompt) -> None:
    """A tokenizer raised TypeError at one such prompt, which ended the run for all of them."""
    with pytest.raises(PromptError, match=r"'\\ud[c8][03][0d]', half of a surrogate pair, after '.*'"):
        check_characters(prompt)
    check_characters("whole: \U0001f600, and \u2028")


def test_one_cut_prompt_concerns_one_prompt() -> None:
    pytest.importorskip("transformers")
    target = xt.Target(xt.load("tiny", max_tokens=4), lambda prompt, drafts: [0.0] * len(drafts), 1.0)
    failed, fine = xt.run(target, ["What is \ud83d?", "What is 2 + 2?"], xt.Independent(1))
    assert isinstance(failed, xt.Failure)
    assert failed.error == "PromptError"
    assert isinstance(fine, xt.Result)
