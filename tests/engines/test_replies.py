"""Replies of servers are sorted by whom they concern: the request once more, its prompt, or all of them."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from exptilt.engines.replies import Reader, Reply, Trouble, retry_after
from exptilt.errors import AnswerError, ModelError, PromptError

READER = Reader("http://host/v1", "THE_KEY", True, lambda text: text.replace("sk-1", "***"))
TOO_LONG = [
    "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens",
    "prompt is too long: 250000 tokens > 200000 maximum",
    "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)",
    "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 `inputs` tokens and 256 `max_new_tokens`",
    "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length",
    "The decoder prompt (length 5000) is longer than the maximum model length of 4096",
    "the request exceeds the available context size. try increasing the context size",
    "Input is too long for requested model.",
    "Please reduce the length of the messages or completion.",
    "too many tokens: size limit exceeded by 12 tokens",
    "This model's maximum prompt length is 131072 but the request contains 537812 tokens",
    "Requested token count exceeds the model's maximum context length",
    "Range of input length should be [1, 30720]",
    "context window exceeds limit",
]
NOT_TOO_LONG = [
    "max_tokens is too large: 99999. This model supports at most 16384 completion tokens",
    "max_completion_tokens (99999) exceeds the maximum number of output tokens",
    "temperature must be at most 2",
    "Unrecognized request argument supplied: seed",
    "n must be 1",
]


def reply(status: int, body: Any, **headers: str) -> Reply:
    return Reply(status, headers, body if isinstance(body, bytes) else json.dumps(body).encode())


def error(message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, **more}}


@pytest.mark.parametrize("said", TOO_LONG)
@pytest.mark.parametrize("status", [400, 422, 500])
def test_a_prompt_that_is_too_long_is_known_in_any_words(said: str, status: int) -> None:
    for body in (error(said), {"detail": said}, {"object": "error", "message": said}, [error(said)], said):
        with pytest.raises(PromptError, match="does not fit"):
            READER.read(reply(status, body))


@pytest.mark.parametrize("said", NOT_TOO_LONG)
def test_other_refusals_are_not_taken_for_long_prompts(said: str) -> None:
    with pytest.raises(AnswerError, match="refuses the request") as caught:
        READER.read(reply(400, error(said)))
    assert (caught.value.status, caught.value.said) == (400, said)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, error("", code="context_length_exceeded")),
        (400, error("no", type="exceed_context_size_error")),
        (413, "Request Entity Too Large"),
        (200, error("too many tokens", code=400)),
        (200, {"object": "error", "message": "maximum context length is 9", "code": 400}),
        (200, {"object": "error", "message": "the prompt is too long"}),
        (200, {"success": False, "errors": [{"message": "input is too long", "code": 422}]}),
        (200, {"status": "error", "message": "the context length is 9"}),
    ],
)
def test_codes_and_statuses_tell_it_too(status: int, body: Any) -> None:
    with pytest.raises(PromptError, match="does not fit"):
        READER.read(reply(status, body))


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, error("this prompt was filtered", code="content_filter")),
        (400, error("The response was filtered due to Azure's content management policy")),
        (400, error("Input data may contain inappropriate content", code="data_inspection_failed")),
        (400, error("Content Exists Risk")),
        (403, error("Your input was flagged", metadata={"flagged_input": "x"})),
        (200, error("blocked by a guardrail", code=400)),
    ],
)
def test_filters_concern_the_prompt(status: int, body: Any) -> None:
    with pytest.raises(PromptError, match="filters this prompt"):
        READER.read(reply(status, body))


@pytest.mark.parametrize("inside", [False, True])
def test_what_concerns_all_prompts_is_an_error_of_the_model(inside: bool) -> None:
    for status, said in (
        (401, "refuses the key in THE_KEY"),
        (403, "refuses the key in THE_KEY"),
        (404, "no such path or model"),
    ):
        with pytest.raises(ModelError, match=said) as caught:
            READER.read(reply(200, error("bad sk-1", code=status)) if inside else reply(status, error("bad sk-1")))
        assert "sk-1" not in str(caught.value)


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 520, 524, 529])
def test_what_passes_is_tried_again(status: int) -> None:
    for body in (
        reply(status, error("busy")),
        reply(200, error("busy", code=status)),
        reply(200, error("busy", code=str(status))),
    ):
        found = READER.read(body)
        assert isinstance(found, Trouble)
        assert f"answers {status} (busy" in found.what
    assert READER.read(reply(status, b"<html>", **{"retry-after": "7"})) == Trouble(f"answers {status} (<html>)", 7.0)


@pytest.mark.parametrize("body", [error("upstream"), {"error": "upstream"}, {"error": {"message": "upstream"}, "choices": []}])
def test_an_error_inside_a_success_is_tried_again(body: Any) -> None:
    found = READER.read(reply(200, body))
    assert isinstance(found, Trouble)
    assert found.what == "answers an error (upstream, inside a status of success)"


def test_an_answer_with_an_empty_error_field_is_an_answer() -> None:
    for more in ({"error": None}, {"error": ""}, {"error": {}}):
        assert READER.read(reply(200, {"choices": [1], **more})) == {"choices": [1], **more}
    assert READER.read(reply(200, {"data": [], "error": None})) == {"data": [], "error": None}


@pytest.mark.parametrize("status", [400, 402, 405, 410, 422, 451, 501])
def test_other_refusals_concern_the_prompt(status: int) -> None:
    for body in (error("no sk-1."), {"detail": [{"msg": "no sk-1"}]}, [], "no sk-1", b"\xff\xfe", b"", [1], {"error": [1]}):
        with pytest.raises(AnswerError, match=rf"status {status}") as caught:
            READER.read(reply(status, body))
        assert "sk-1" not in str(caught.value)
    with pytest.raises(AnswerError, match="pay first"):
        READER.read(reply(429, error("pay first", code="insufficient_quota")))


@pytest.mark.parametrize(
    "body",
    [b"<html>sign in</html>", b"", b'{"choices": [{"mess', b"[1]", b"null", b'"text"', b"[" * 10**5, b"\xff\xfe\xfa", b"OK"],
)
def test_what_is_not_an_object_is_tried_again(body: bytes) -> None:
    for status in (200, 202, 204):
        found = READER.read(Reply(status, {}, body))
        assert isinstance(found, Trouble)
        assert found.unreadable
        assert "is not a JSON object" in found.what


def test_another_charset_is_read_where_a_header_tells_it() -> None:
    body = '{"text": "ä"}'.encode("latin-1")
    assert READER.read(Reply(200, {"content-type": "application/json; charset=iso-8859-1"}, body)) == {"text": "ä"}
    assert READER.read(Reply(200, {"content-type": "text/html; charset=iso-8859-1"}, '{"text": "ä"}'.encode())) == {"text": "ä"}
    for charset in ("no-such", "utf-8"):
        assert isinstance(READER.read(Reply(200, {"content-type": f"text/plain; charset={charset}"}, body)), Trouble)


def test_streams_and_redirects_are_named() -> None:
    chunk = b'data: {"choices": [{"delta": {"content": "x"}}]}\n\n'
    for answer in (Reply(200, {"content-type": "text/event-stream; charset=utf-8"}, b": ping\n\n"), Reply(200, {}, chunk)):
        with pytest.raises(AnswerError, match=r"event stream .* turn streaming off"):
            READER.read(answer)
    for status in (301, 302, 307, 308):
        with pytest.raises(AnswerError, match=rf"redirects to 'https://other/v1' \(status {status}\)"):
            READER.read(reply(status, b"", location="https://other/v1?token=secret"))


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0.0),
        ({"retry-after": "12"}, 12.0),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "nan"}, 0.0),
        ({"retry-after": "inf"}, math.inf),
        ({"retry-after": "soon"}, 0.0),
        ({"retry-after": "12, 13"}, 0.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:30 GMT"}, 20.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:30 -0000"}, 20.0),
        ({"retry-after": "Wed, 21 Oct 1969 07:28:00 GMT"}, 0.0),
        ({"retry-after": "Wed, 99 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "", "retry-after": "9"}, 9.0),
    ],
)
def test_pauses_are_read_in_every_form(headers: dict[str, str], seconds: float) -> None:
    assert retry_after(headers, now=10.0) == seconds


def test_a_pause_may_be_a_moment_since_1970() -> None:
    assert retry_after({"retry-after": "1800000040"}, now=1_800_000_000.0) == 40.0
