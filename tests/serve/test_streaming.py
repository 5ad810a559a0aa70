"""Streams that are honest: what is final comes at once, what is not waits, and an error after the first byte is an event."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx2
import openai
import pytest

import exptilt as xt
from exptilt.draft import Draft, Prompt
from exptilt.serve.config import Config, Limits
from exptilt.serve.runs import final_part
from tests.serve.served import TABLE, USER, Live, catalogue, heads, live, wait_for

LIMITS = Limits(grace=1.0, keep_alive=0.1)


class Steps:
    """A reward that waits, from its second call on, until it may go on; or raises there."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.calls = 0
        self.may = threading.Event()
        self.error = error

    def __call__(self, prompt: Prompt, drafts: Sequence[Draft]) -> list[float]:
        self.calls += 1
        if self.calls > 1:
            self.may.wait(20)
            if self.error is not None:
                raise self.error
        return heads(prompt, list(drafts))


@contextmanager
def events(server: Live, **more: Any) -> Iterator[Iterator[str]]:
    """The events of a stream as they come: data, and comments after a colon."""
    body = {"model": "table", "messages": USER, "seed": 5, "stream": True, **more}
    with httpx2.stream("POST", f"{server.url}/v1/chat/completions", json=body, timeout=30) as said:
        assert said.status_code == 200
        yield (line for line in said.iter_lines() if line)


def content(line: str) -> str:
    if not line.startswith("data: {"):
        return ""
    return "".join(choice["delta"].get("content") or "" for choice in json.loads(line[6:]).get("choices", ()))


CHAIN = {"exptilt": {"sampler": "ets", "candidates": 4, "block": 2, "returns": "chain"}}
VOTE = {"exptilt": {"sampler": "independent", "n": 8, "batch": 4, "select": "best"}}


def test_accepted_blocks_come_before_the_rest_is_drawn() -> None:
    reward = Steps()
    wanted = xt.sample(xt.Target(TABLE, heads, 0.5), USER, xt.ETS(4, block=2, returns="chain"), seed=5)
    assert len(wanted.text) > 2
    with live(catalogue(reward=reward), Config(name="table", port=0, limits=LIMITS)) as server, events(server, **CHAIN) as lines:
        text = next(filter(None, map(content, lines)))
        assert text == wanted.text[:2]
        assert not reward.may.is_set()
        reward.may.set()
        assert text + "".join(map(content, lines)) == wanted.text


def test_steps_of_text_are_a_setting_too() -> None:
    """The settings of a sampler follow from its fields, so one that takes a number or a text was refused at first."""
    asked = {"exptilt": {"candidates": 4, "block": "1"}}
    with live() as server:
        body = {"model": "table", "messages": USER, "seed": 5}
        said = httpx2.post(f"{server.url}/v1/chat/completions", json={**body, **asked})
        wrong = httpx2.post(f"{server.url}/v1/chat/completions", json={**body, "exptilt": {"block": 1.5}})
    assert (
        said.json()["choices"][0]["message"]["content"]
        == xt.sample(xt.Target(TABLE, heads, 0.5), USER, xt.ETS(4, block=1), seed=5).text
    )
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "exptilt.block")


def test_what_is_not_decided_does_not_come_and_signs_of_life_do() -> None:
    """The best of the first four may not be that of all eight: an answer sent early would have to be taken back."""
    reward = Steps()
    with live(catalogue(reward=reward), Config(name="table", port=0, limits=LIMITS)) as server, events(server, **VOTE) as lines:
        seen = []
        for line in lines:
            seen.append(line)
            if line.startswith(":"):
                told = json.loads(line[1:])
                assert (told["populations"], told["done"]) == (1, 0)
                break
        assert "".join(map(content, seen)) == ""
        reward.may.set()
        rest = [*lines]
        assert (
            "".join(map(content, rest))
            == xt.sample(xt.Target(TABLE, heads, 0.5), USER, xt.Independent(8, 4), select=xt.best, seed=5).text
        )
        assert rest[-1] == "data: [DONE]"


@pytest.mark.parametrize("asked", [CHAIN, VOTE], ids=["chain", "vote"])
def test_an_error_after_the_first_byte_is_an_event(asked: dict[str, Any]) -> None:
    reward = Steps(ValueError("secret /path"))
    with live(catalogue(reward=reward), Config(name="table", port=0, limits=LIMITS)) as server:
        with events(server, **asked) as lines:
            seen = [next(lines)]
            reward.may.set()
            seen += lines
        error = json.loads(seen[-1].removeprefix("data: "))["error"]
        assert (error["type"], error["code"]) == ("server_error", "reward_failed")
        assert "secret" not in seen[-1]
        assert "data: [DONE]" not in seen
        wait_for(lambda: server.desk.admission.running == 0)


def test_the_official_client_raises_an_error_that_comes_late() -> None:
    reward = Steps(ValueError("late"))
    with live(catalogue(reward=reward), Config(name="table", port=0, limits=LIMITS)) as server:
        stream = server.client().chat.completions.create(model="table", messages=USER, stream=True, seed=5, extra_body=VOTE)  # pyright: ignore
        next(iter(stream))
        reward.may.set()
        with pytest.raises(openai.APIError, match="reward of this server failed"):
            list(stream)


def test_a_response_that_fails_late_says_so_in_its_own_protocol() -> None:
    reward = Steps(ValueError("late"))
    with live(catalogue(reward=reward), Config(name="table", port=0, limits=LIMITS)) as server:
        stream = server.client().responses.create(model="table", input="hi", stream=True, extra_body={"seed": 5, **VOTE})
        reader = iter(stream)
        assert next(reader).type == "response.created"
        reward.may.set()
        seen = [*reader]
        assert [event.type for event in seen[-2:]] == ["error", "response.failed"]
        assert seen[-1].to_dict()["response"]["status"] == "failed"  # pyright: ignore[reportIndexIssue]
        assert "response.completed" not in {event.type for event in seen}


def test_a_stream_ends_with_an_error_at_the_deadline() -> None:
    reward = Steps()
    limits = Limits(grace=0.2, keep_alive=0.1, deadline=1.5)
    with live(catalogue(reward=reward), Config(name="table", port=0, limits=limits)) as server:
        with events(server, **VOTE) as lines:
            seen = [*lines]
        reward.may.set()
        assert json.loads(seen[-1].removeprefix("data: "))["error"]["code"] == "deadline"
        wait_for(lambda: server.desk.admission.running == 0)


def test_an_error_before_the_first_byte_has_a_status() -> None:
    def broken(prompt: Prompt, drafts: Sequence[Draft]) -> list[float]:
        raise ValueError("secret")

    def excludes(prompt: Prompt, drafts: Sequence[Draft]) -> list[float]:
        return [-float("inf")] * len(drafts)

    for reward, status, code in ((broken, 500, "reward_failed"), (excludes, 422, "all_excluded")):
        with live(catalogue(reward=reward), Config(name="table", port=0, limits=LIMITS)) as server:
            for streamed in (False, True):
                body = {"model": "table", "messages": USER, "stream": streamed}
                said = httpx2.post(f"{server.url}/v1/chat/completions", json=body)
                assert (said.status_code, said.json()["error"]["code"]) == (status, code)
                assert "secret" not in said.text


@pytest.mark.parametrize(
    ("text", "stops", "final"),
    [
        ("one", (), "one"),
        ("one\ufffd\ufffd", (), "one"),
        ("one\n", ("\n\n",), "one"),
        ("one #", ("##", "# end"), "one "),
        ("one ##", ("##",), "one "),
        ("one", ("e",), "on"),
        ("aab", ("abc", "b c"), "a"),
        ("", ("x",), ""),
    ],
)
def test_the_beginning_of_a_stop_string_or_a_character_is_held_back(text: str, stops: tuple[str, ...], final: str) -> None:
    assert final_part(text, stops) == final
