"""What is wrong with a request: each is a 400 in OpenAI's form that names the field, and nothing is drawn for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from exptilt.errors import ModelError
from exptilt.serve.config import Config, Limits
from exptilt.serve.recipes import sampled
from exptilt.serve.refusals import Refusal
from tests.serve.served import USER, Live, live

CHAT = {"model": "table", "messages": USER}
LIMITS = Limits(grace=1.0, threads=4, rows=32, count=100, max_tokens=64, body=5000)


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    with live(config=Config(name="table", port=0, limits=LIMITS)) as started:
        yield started


def post(server: Live, body: Any, path: str = "/v1/chat/completions", **more: Any) -> httpx2.Response:
    return httpx2.post(f"{server.url}{path}", json=body, timeout=30, **more)


def message(**fields: Any) -> dict[str, Any]:
    return {"messages": [fields]}


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown field": ({"temprature": 1}, "temprature"),
    "a field that is not supported": ({"functions": []}, "functions"),
    "tools": ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    "a penalty that the model lacks": ({"frequency_penalty": 0.5}, "frequency_penalty"),
    "a penalty out of range": ({"presence_penalty": 2.5}, "presence_penalty"),
    "a bias that the model lacks": ({"logit_bias": {"1": 5}}, "logit_bias"),
    "a bias of a word": ({"logit_bias": {"the": 5}}, "logit_bias.the"),
    "a bias out of range": ({"logit_bias": {"1": 101}}, "logit_bias.1"),
    "likeliest tokens": ({"logprobs": True, "top_logprobs": 5}, "top_logprobs"),
    "log-probabilities of a table": ({"logprobs": True}, "logprobs"),
    "a form of the answer": ({"response_format": {"type": "json_object"}}, "response_format.type"),
    "a text for a number": ({"temperature": "1"}, "temperature"),
    "a temperature that logits cannot be divided by": ({"temperature": 1e-40}, "temperature"),
    "a negative temperature": ({"temperature": -1}, "temperature"),
    "a sampling parameter that the model lacks": ({"top_p": 0.5}, "top_p"),
    "top_p of zero": ({"top_p": 0}, "top_p"),
    "no answers": ({"n": 0}, "n"),
    "true for a number": ({"n": True}, "n"),
    "half an answer": ({"n": 1.5}, "n"),
    "more answers than threads": ({"n": 5}, "n"),
    "more tokens than allowed": ({"max_tokens": 65}, "max_tokens"),
    "two caps": ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens"),
    "an empty stop string": ({"stop": ""}, "stop"),
    "a negative seed": ({"seed": -1}, "seed"),
    "a number for stream": ({"stream": 1}, "stream"),
    "no messages": ({"messages": []}, "messages"),
    "a text for messages": ({"messages": "hi"}, "messages"),
    "an empty message": (message(role="user", content=" "), "messages"),
    "an unknown role": (message(role="king", content="hi"), "messages.0.role"),
    "a message without content": (message(role="user"), "messages.0.content"),
    "an image": (
        message(role="user", content=[{"type": "image_url", "image_url": {}}]),
        "messages.0.content.0.image_url",
    ),
    "a field of a message": (message(role="user", content="hi", tool_calls=[]), "messages.0.tool_calls"),
    "an unknown sampler": ({"exptilt": {"sampler": "etz"}}, "exptilt.sampler"),
    "a sampler of a file": ({"exptilt": {"sampler": "/tmp/x.py:S"}}, "exptilt.sampler"),
    "a sampler inside of a file": ({"exptilt": {"sampler": "metropolised", "inner": "os:path"}}, "exptilt.inner"),
    "a sampler that holds none": ({"exptilt": {"sampler": "ets", "inner": "independent"}}, "exptilt.inner"),
    "a reward that is not configured": ({"exptilt": {"reward": "arithmetic"}}, "exptilt.reward"),
    "a reward of a file": ({"exptilt": {"reward": "os:getcwd"}}, "exptilt.reward"),
    "a select of a file": ({"exptilt": {"select": "os:getcwd"}}, "exptilt.select"),
    "an answer of a file": ({"exptilt": {"answer": "os:getcwd"}}, "exptilt.answer"),
    "a utility of a file": ({"exptilt": {"utility": "os:getcwd"}}, "exptilt.utility"),
    "a stop rule of a file": ({"exptilt": {"until": "os:getcwd"}}, "exptilt.until"),
    "a stop rule about a file": ({"exptilt": {"until": "sure:os:getcwd:0.9"}}, "exptilt.until"),
    "a stop rule without a number": ({"exptilt": {"until": "reward:"}}, "exptilt.until"),
    "an unknown stop rule": ({"exptilt": {"until": "soon"}}, "exptilt.until"),
    "a function as a setting": ({"exptilt": {"value": "os:getcwd"}}, "exptilt.value"),
    "an unknown setting": ({"exptilt": {"candidats": 4}}, "exptilt.candidats"),
    "a text for a setting": ({"exptilt": {"candidates": "4"}}, "exptilt.candidates"),
    "a setting out of range": ({"exptilt": {"candidates": 0}}, "exptilt.candidates"),
    "a word out of range": ({"exptilt": {"returns": "all"}}, "exptilt.returns"),
    "more rows than allowed": ({"exptilt": {"candidates": 8, "rollouts": 8}}, "exptilt.candidates"),
    "more steps than allowed": ({"exptilt": {"sampler": "mcmc", "steps": 10**8}}, "exptilt.steps"),
    "beta of zero": ({"exptilt": {"beta": 0}}, "exptilt.beta"),
    "an unknown budget": ({"exptilt": {"budget": {"token": 5}}}, "exptilt.budget.token"),
    "a budget of nothing": ({"exptilt": {"budget": {"tokens": 0}}}, "exptilt.budget.tokens"),
    "step weights that do not fit": ({"exptilt": {"step_weights": [1.0]}}, "exptilt"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_field_is_named(server: Live, name: str) -> None:
    more, field = WRONG[name]
    said = post(server, CHAT | more)
    assert said.status_code == 400, said.text
    error = said.json()["error"]
    assert error["param"] == field
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    assert server.desk.admission.running == 0


class Picky:
    """A model that cannot follow a temperature, as servers say of parameters that they do not have."""

    name = "picky"

    def with_sampling(self, **changes: Any) -> Picky:
        if changes == {"temperature": 0.5}:
            raise ModelError("temperature=0.5 cannot be followed by picky: leave it at 1")
        return self


def test_a_parameter_that_the_model_cannot_follow_is_the_request_s_fault() -> None:
    """It was told as a failure of the model, with the status 503, to which clients answer with the same request again."""
    with pytest.raises(Refusal, match="leave it at 1") as caught:
        sampled(Picky(), {"temperature": 0.5})  # pyright: ignore[reportArgumentType]
    assert (caught.value.status, caught.value.param) == (400, "temperature")


def test_a_near_miss_is_told(server: Live) -> None:
    assert "Did you mean temperature?" in post(server, CHAT | {"temprature": 1}).json()["error"]["message"]
    assert "Did you mean candidates?" in post(server, CHAT | {"exptilt": {"candidats": 4}}).json()["error"]["message"]


def test_neutral_values_of_fields_that_are_not_supported_pass(server: Live) -> None:
    """Clients send defaults: LangChain and others would not work at all without these."""
    neutral = {
        "frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "tools": [], "tool_choice": "none", "store": False,
        "n": None,
        "response_format": {"type": "text"}, "user": "somebody", "top_logprobs": None, "logprobs": False, "stop": None,
    }  # fmt: skip
    assert post(server, CHAT | neutral).status_code == 200


CONTINUED = [*USER, {"role": "assistant", "content": "well"}]


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"extra_body": {}}, 200),
        ({"continue_final_message": False, "add_generation_prompt": True}, 200),
        ({"messages": CONTINUED, "continue_final_message": True, "extra_body": {"add_generation_prompt": False}}, 200),
        ({"continue_final_message": True}, 400),
        ({"messages": CONTINUED, "extra_body": {"continue_final_message": False}}, 400),
        ({"messages": CONTINUED, "add_generation_prompt": True}, 400),
        ({"include_stop_str_in_output": True}, 400),
        ({"extra_body": {"exptilt": {}}}, 400),
    ],
)
def test_what_clients_of_vllm_say_of_the_last_message_must_agree_with_it(server: Live, more: dict[str, Any], status: int) -> None:
    """its_hub's client sends these to every server that is not OpenAI's, inside of a field `extra_body` as well."""
    assert post(server, CHAT | more).status_code == status


@pytest.mark.parametrize("header", ["x", "-5", "tokens=", "tokens=nan", "tokens=1e3", "euros=5", "seconds=inf", "tokens=5,,"])
def test_a_wrong_budget_header_is_named(server: Live, header: str) -> None:
    said = post(server, CHAT, headers={"x-exptilt-budget": header})
    assert (said.status_code, said.json()["error"]["param"]) == (400, "x-exptilt-budget")


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[" * 4000, b"\xff\xfe", b"null", b"[]", b'"x"', b'{"model": NaN}', b'{"model": "\\ud800"}']
)
def test_a_body_that_is_not_a_request_is_refused(server: Live, body: bytes) -> None:
    said = httpx2.post(f"{server.url}/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert said.status_code == 400
    assert said.json()["error"]["message"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "1" + "0" * 400])
def test_numbers_beyond_the_range_of_floats_are_refused(server: Live, number: str) -> None:
    """Python reads them from JSON, and a whole number of 400 digits raises where it meets a float."""
    fields = (
        *('"temperature": N', '"seed": N', '"n": N', '"max_tokens": N', '"exptilt": {"beta": N}', '"exptilt": {"temper": N}'),
        *('"exptilt": {"step_weights": [N]}', '"exptilt": {"candidates": N}', '"exptilt": {"budget": {"seconds": N}}'),
    )
    for field in fields:
        body = f'{{"model": "table", "messages": [{{"role": "user", "content": "hi"}}], {field.replace("N", number)}}}'
        said = httpx2.post(
            f"{server.url}/v1/chat/completions", content=body, headers={"content-type": "application/json"}, timeout=30
        )
        assert (said.status_code, said.json()["error"]["type"]) == (400, "invalid_request_error"), field


def test_half_a_character_in_a_prompt_is_refused(server: Live) -> None:
    """So is one in a name, which comes back in the error: it has no bytes in UTF-8, and would be a 500."""
    bodies = (
        b'{"model": "table", "messages": [{"role": "user", "content": "\\ud83d"}]}',
        b'{"model": "\\ud83d", "messages": [{"role": "user", "content": "hi"}]}',
        b'{"model": "table", "\\ud83d": 1, "messages": [{"role": "user", "content": "hi"}]}',
        b'{"model": "table", "exptilt": {"\\ud83d": 1}, "messages": [{"role": "user", "content": "hi"}]}',
    )
    for body in bodies:
        said = httpx2.post(f"{server.url}/v1/chat/completions", content=body, headers={"content-type": "application/json"})
        assert (said.status_code // 100, said.json()["error"]["type"]) == (4, "invalid_request_error")


@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_body_is_refused_before_it_is_read(server: Live, chunked: bool) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(100):
            yield b" " * 100

    said = httpx2.post(
        f"{server.url}/v1/chat/completions",
        content=parts() if chunked else b" " * 10_000,
        headers={"content-type": "application/json"},
    )
    assert (said.status_code, said.json()["error"]["code"]) == (413, "too_large")


def test_other_paths_and_methods_are_told_in_the_same_form(server: Live) -> None:
    assert httpx2.get(f"{server.url}/v2").json()["error"]["code"] == "not_found"
    said = httpx2.get(f"{server.url}/v1/chat/completions")
    assert (said.status_code, said.json()["error"]["code"]) == (405, "method_not_allowed")
