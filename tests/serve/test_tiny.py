"""The bundled model behind the server: chats by its template, texts without, token by token, beside 31 others."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import openai
import pytest

import exptilt as xt
from exptilt import names
from exptilt.engines.language import LanguageEngine
from exptilt.rewards import Arithmetic, Zero
from exptilt.serve.config import Config, Limits
from exptilt.serve.recipes import Catalogue, Recipe, sampled
from exptilt.serve.room import room_of
from tests.serve.served import Live, live

QUESTION = "Tom has 3 apples and buys 4 more. How many apples does Tom have?"
USER = [{"role": "user", "content": QUESTION}]
CAP = 40


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    with xt.load("tiny", max_tokens=CAP) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def server(engine: Any) -> Iterator[Live]:
    usual = Recipe(names.choose_sampler("ets"), {"candidates": 3, "block": 8}, reward="arithmetic", beta=0.2)
    offered = Catalogue("tiny", engine, None, {"none": Zero(), "arithmetic": Arithmetic()}, usual)
    with live(offered, Config(name="tiny", port=0, limits=Limits(grace=1.0)), room_of([engine])) as started:
        yield started


@pytest.fixture(scope="module")
def client(server: Live) -> openai.OpenAI:
    return server.client()


def ask(client: openai.OpenAI, **more: Any) -> Any:
    return client.chat.completions.create(**{"model": "tiny@plain", "messages": USER, "seed": 3, **more})


def plain(engine: Any, prompt: Any, seed: int = 3, **sampling: Any) -> xt.Result:
    target = xt.Target(engine.with_sampling(**sampling), Zero(), 1.0)
    return xt.sample(target, prompt, xt.Independent(1), seed=seed)


def pieces(stream: Any) -> list[str]:
    return [choice.delta.content for chunk in stream for choice in chunk.choices if choice.delta.content]


@pytest.fixture
def unhurried(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps so long that an answer is looked at several times while it is written, however fast the machine is."""
    decoder = engine.backend.decoder
    step = decoder.step
    monkeypatch.setattr(decoder, "step", lambda: (time.sleep(0.02), step())[1])


def test_a_chat_with_system_turns_and_a_prefill_is_that_of_the_template(client: openai.OpenAI, engine: Any) -> None:
    turns = [*USER, {"role": "assistant", "content": "3 + 4 = 7\n"}]
    said = ask(client, messages=turns)
    wanted = plain(engine, turns)
    assert said.choices[0].message.content == wanted.text
    assert said.usage.prompt_tokens == len(engine.prompt_tokens(wanted.prompt))
    parts = [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]
    assert ask(client, messages=parts).choices[0].message.content == plain(engine, USER).text


def test_a_completion_is_the_text_without_the_template(client: openai.OpenAI, engine: LanguageEngine[Any]) -> None:
    said = client.completions.create(model="tiny@plain", prompt=QUESTION, seed=3, max_tokens=12)
    bare = replace(engine, template=False)
    assert said.choices[0].text == plain(bare, QUESTION, max_tokens=12).text
    assert said.choices[0].text != plain(engine, QUESTION, max_tokens=12).text


@pytest.mark.usefixtures("unhurried")
def test_a_plain_draw_streams_while_it_is_written(client: openai.OpenAI, engine: Any) -> None:
    """The text came in one piece at the end where only populations were streamed."""
    texts = pieces(ask(client, stream=True))
    assert "".join(texts) == plain(engine, USER).text
    assert len(texts) > 1


@pytest.mark.parametrize("stop", ["\n", "\n####", ["= ", "##"]])
def test_no_part_of_a_stop_string_is_streamed(client: openai.OpenAI, engine: Any, stop: Any) -> None:
    wanted = plain(engine, USER, stop=(stop,) if isinstance(stop, str) else tuple(stop)).text
    assert "".join(pieces(ask(client, stream=True, stop=stop))) == wanted == ask(client, stop=stop).choices[0].message.content


@pytest.mark.parametrize(
    "asked",
    [
        {"sampler": "ets", "candidates": 3, "block": 8, "returns": "chain"},
        {"sampler": "metropolised", "inner": "ets", "candidates": 2, "block": 8, "returns": "chain", "steps": 3},
        {"sampler": "metropolised", "inner": "independent", "n": 1, "steps": 4},
    ],
    ids=["chain", "chains in a chain", "draws in a chain"],
)
@pytest.mark.usefixtures("unhurried")
def test_streams_of_guided_chains_end_as_the_answer_does(client: openai.OpenAI, asked: dict[str, Any]) -> None:
    """A sampler inside of another says what its own answer begins with, which is not yet that of the run."""
    whole = ask(client, model="tiny", extra_body={"exptilt": asked})
    texts = pieces(ask(client, model="tiny", stream=True, extra_body={"exptilt": asked}))
    assert "".join(texts) == whole.choices[0].message.content
    assert (len(texts) > 1) == (asked["sampler"] == "ets")


@pytest.mark.parametrize("asked", [{"presence_penalty": 2.0}, {"frequency_penalty": -0.5}, {"logit_bias": {"13": 60}}])
def test_penalties_and_biases_of_a_request_are_part_of_p(client: openai.OpenAI, engine: Any, asked: dict[str, Any]) -> None:
    """They were refused, although the engine has them."""
    wanted = plain(engine, USER, **asked)
    assert wanted.draft.logq != pytest.approx(plain(engine, USER).draft.logq, abs=0.01)
    said = ask(client, logprobs=True, **asked)
    assert said.choices[0].message.content == wanted.text
    assert [token.logprob for token in said.choices[0].logprobs.content] == pytest.approx(wanted.draft.logq, abs=1e-4)
    bare = replace(engine, template=False)
    assert client.completions.create(model="tiny@plain", prompt=QUESTION, seed=3, **asked).choices[0].text == (
        plain(bare, QUESTION, **asked).text
    )


def test_what_a_request_says_of_penalties_comes_before_what_the_model_has(engine: Any) -> None:
    """A penalty of 0, which clients send by default, must not be taken for none given where the server's own model has one."""
    penal = sampled(engine, {"presence_penalty": 1.5, "logit_bias": {"7": -5}})
    assert sampled(penal, {"presence_penalty": 0.0, "logit_bias": {}}) == engine
    assert sampled(penal, {"presence_penalty": 1.5, "logit_bias": {"7": -5.0}}) is penal


def test_a_bias_of_a_token_that_the_model_does_not_have_names_the_field(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="names the token 999999") as caught:
        ask(client, logit_bias={"999999": 1})
    assert caught.value.param == "logit_bias"


def test_logprobs_are_those_of_p_for_each_token(client: openai.OpenAI, engine: Any) -> None:
    wanted = plain(engine, USER).draft
    [choice] = ask(client, logprobs=True).choices
    assert [token.logprob for token in choice.logprobs.content] == pytest.approx(wanted.logq, abs=1e-4)
    assert "".join(token.token for token in choice.logprobs.content) == wanted.text
    streamed = [chunk.choices[0].logprobs for chunk in ask(client, logprobs=True, stream=True) if chunk.choices]
    assert [len(each.content) for each in streamed if each] == [len(wanted.tokens)]
    older = client.completions.create(model="tiny@plain", prompt=QUESTION, seed=3, logprobs=0).choices[0].logprobs
    assert older is not None
    assert older.token_logprobs is not None
    assert len(older.token_logprobs) == len(older.tokens or ())


def test_temperature_0_takes_the_likeliest_token(client: openai.OpenAI, engine: Any) -> None:
    texts = {ask(client, temperature=0, seed=seed).choices[0].message.content for seed in range(3)}
    assert texts == {plain(engine, USER, temperature=1.0, top_k=1).text}


def test_a_prompt_that_is_too_long_names_its_field(client: openai.OpenAI) -> None:
    for call, field in (
        (lambda: ask(client, messages=[{"role": "user", "content": "one " * 20_000}]), "messages"),
        (lambda: client.completions.create(model="tiny@plain", prompt="one " * 20_000), "prompt"),
        (lambda: client.responses.create(model="tiny@plain", input="one " * 20_000), "input"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            call()
        assert caught.value.param == field


def test_answers_are_those_of_sample_beside_31_others(client: openai.OpenAI, engine: Any) -> None:
    """All share one batch. In float32 about one draft in thousands differs with its neighbours."""
    seeds = range(32)
    with ThreadPoolExecutor(32) as pool:
        texts = list(pool.map(lambda seed: ask(client, model="tiny", seed=seed).choices[0].message.content, seeds))
    target = xt.Target(engine, Arithmetic(), 0.2)
    wanted = [xt.sample(target, USER, xt.ETS(3, block=8), seed=seed).text for seed in seeds]
    assert sum(text != other for text, other in zip(texts, wanted, strict=True)) <= 1
    assert len(set(wanted)) > 5
