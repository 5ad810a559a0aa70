"""The other protocols by OpenAI's own client: completions, responses, and the events for a page."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import openai
import pytest

import exptilt as xt
from exptilt.draft import Chat
from tests.serve.served import TABLE, USER, Live, heads

TARGET = xt.Target(TABLE, heads, 0.5)


# ------------------------------------------------------------------------------------------------------ completions


def test_completions_continue_texts_as_they_are(client: openai.OpenAI) -> None:
    said = client.completions.create(model="table", prompt=["one", "two", "one"], n=2, seed=5)
    wanted = xt.run(TARGET, ["one", "one", "two", "two", "one", "one"], xt.ETS(4, block=2), seed=5)
    assert [choice.text for choice in said.choices] == [outcome.text for outcome in wanted if isinstance(outcome, xt.Result)]
    assert [choice.index for choice in said.choices] == [*range(6)]


def test_completions_stream(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="table", prompt="one", seed=5)
    chunks = list(
        client.completions.create(model="table", prompt="one", seed=5, stream=True, stream_options={"include_usage": True})
    )
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == whole.choices[0].text
    assert chunks[-1].usage == whole.usage
    assert (chunks[-2].model_extra or {})["exptilt"]["log_z"] == (whole.model_extra or {})["exptilt"]["log_z"]


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "tokens": ({"prompt": [1, 2]}, "prompt.0"),
    "nothing": ({"prompt": []}, "prompt"),
    "an empty text": ({"prompt": " "}, "prompt"),
    "the best of several": ({"best_of": 2}, "best_of"),
    "an echo": ({"echo": True}, "echo"),
    "likeliest tokens": ({"logprobs": 3}, "logprobs"),
    "a suffix": ({"suffix": "end"}, "suffix"),
}


@pytest.mark.parametrize("name", WRONG)
def test_completions_that_are_not_supported_are_refused(client: openai.OpenAI, name: str) -> None:
    more, field = WRONG[name]
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(**{"model": "table", "prompt": "one", **more})
    assert caught.value.param == field


# -------------------------------------------------------------------------------------------------------- responses


def test_a_response_is_the_answer_to_the_conversation(client: openai.OpenAI) -> None:
    said = client.responses.create(model="table", input="hi", instructions="Be brief.", extra_body={"seed": 5})
    chat = Chat.of([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}])
    wanted = xt.sample(TARGET, chat, xt.ETS(4, block=2), seed=5)
    assert said.output_text == wanted.text
    assert said.status == ("incomplete" if wanted.draft.finish == "length" else "completed")
    assert said.usage is not None
    assert said.usage.output_tokens == len(wanted.draft.tokens)
    assert (said.model_extra or {})["exptilt"]["log_z"] == pytest.approx(wanted.log_z)


def test_a_conversation_goes_on_with_the_output_of_a_response(client: openai.OpenAI) -> None:
    """Clients send the items of a response back as they are, ids and all."""
    first = client.responses.create(model="table", input="hi", extra_body={"seed": 5})
    turns: list[Any] = [
        {"role": "user", "content": "hi"},
        *[item.model_dump() for item in first.output],
        {"role": "user", "content": "go on"},
    ]
    said = client.responses.create(model="table", input=turns, extra_body={"seed": 6})
    spoken = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "go on"},
    ]
    assert said.output_text == xt.sample(TARGET, spoken, xt.ETS(4, block=2), seed=6).text


def test_the_events_of_a_response_are_those_of_the_protocol(client: openai.OpenAI) -> None:
    whole = client.responses.create(model="table", input="hi", extra_body={"seed": 5})
    events = list(client.responses.create(model="table", input="hi", stream=True, extra_body={"seed": 5}))
    kinds = [event.type for event in events]
    assert kinds[:4] == ["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"]
    assert kinds[-4:-1] == ["response.output_text.done", "response.content_part.done", "response.output_item.done"]
    assert kinds[-1] == f"response.{whole.status}"
    assert [event.sequence_number for event in events] == [*range(len(events))]
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text


def test_what_responses_keep_or_do_besides_text_is_refused(client: openai.OpenAI) -> None:
    for more in (
        {"store": True},
        {"tools": [{"type": "web_search"}]},
        {"previous_response_id": "resp_1"},
        {"reasoning": {"effort": "low"}},
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            client.responses.create(**{"model": "table", "input": "hi", **more})
        assert caught.value.param == next(iter(more))


# ----------------------------------------------------------------------------------------------------------- events


def events_of(server: Live, **more: Any) -> list[tuple[str, Any]]:
    said = httpx2.post(f"{server.url}/events", json={"model": "table", "messages": USER, "seed": 5, **more}, timeout=30)
    assert said.headers["content-type"].startswith("text/event-stream")
    blocks = [dict(line.split(": ", 1) for line in block.splitlines()) for block in said.text.strip().split("\n\n")]
    return [(block["event"], json.loads(block["data"])) for block in blocks if "event" in block]


def test_events_show_how_an_answer_comes_about(server: Live) -> None:
    """In the form that the report draws: the tree of the steps, the drafts with their weights, the cost."""
    events = events_of(server)
    wanted = xt.sample(TARGET, USER, xt.ETS(4, block=2), seed=5)
    kinds = [kind for kind, _ in events]
    assert (kinds[0], kinds[-1]) == ("begin", "result")
    result = events[-1][1]
    assert result["text"] == wanted.text
    assert result["exptilt"]["log_z"] == pytest.approx(wanted.log_z)
    shown = result["detail"]
    assert shown["texts"][shown["chosen"]] == wanted.text
    assert shown["weights"] == pytest.approx(wanted.population.weights.tolist(), rel=1e-5)
    assert shown["tree"]
    assert "".join(told["text"] for kind, told in events if kind == "text") == wanted.text
    assert events[0][1]["sampler"]["candidates"] == 4


def test_a_chain_is_shown_as_it_grows(server: Live) -> None:
    """Populations that come faster than they are sent are skipped, and the others come in their order."""
    events = events_of(server, exptilt={"sampler": "mcmc", "steps": 60})
    sizes = [len(told["detail"]["rows"]) for kind, told in events if kind in ("partial", "result")]
    assert sizes == sorted(sizes)
    assert sizes[-1] == 61  # with the first state
    assert events[-1][1]["detail"]["chain"]


def test_an_error_is_an_event(server: Live) -> None:
    said = httpx2.post(f"{server.url}/events", json={"model": "nothing", "messages": USER})
    assert (said.status_code, said.json()["error"]["code"]) == (404, "model_not_found")
