"""Habits of servers: one odd answer fails its prompt alone, and what is only another way of saying it is read."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import exptilt as xt
from exptilt.core import Target
from exptilt.errors import AnswerError, ModelError, PromptError
from exptilt.running.result import Failure
from exptilt.usage import Work
from tests.engines.fake_server import Fake, Habit, serving
from tests.engines.served import draw, load_from, table

pytest.importorskip("httpx2")

PROMPTS = ["one", "odd", "two", "three"]
CHAT = "/v1/chat/completions"
Change = Callable[[dict[str, Any]], Any]


def on(path: str, change: Change, prompt: str = "odd") -> Habit:
    """The habit of changing answers about a prompt. change: takes the answer; a tuple is a whole reply."""

    def habit(where: str, body: dict[str, Any], answer: Any) -> Any:
        if where != path or prompt not in json.dumps(body.get("messages", "")):
            return None
        changed = change(json.loads(json.dumps(answer)))
        return changed if isinstance(changed, tuple) else (200, {}, changed)

    return habit


def choice(**fields: Any) -> Change:
    return lambda answer: answer | {"choices": [answer["choices"][0] | fields]}


def message(**fields: Any) -> Change:
    return choice(message={"role": "assistant", **fields})


def whole(**fields: Any) -> Change:
    return lambda answer: answer | fields


def reply(status: int, body: Any = b"", **headers: str) -> Change:
    return lambda answer: (status, headers, body)


ODD: dict[str, tuple[Change, str, str]] = {
    "an error in a success": (lambda _: {"error": {"message": "busy", "code": 429}}, "AnswerError", "inside a status of success"),
    "an error of the provider": (choice(finish_reason="error", error={"message": "upstream"}), "AnswerError", "upstream"),
    "no finish reason": (choice(finish_reason=None), "AnswerError", "finish_reason=None"),
    "an unknown finish reason": (choice(finish_reason="abort"), "AnswerError", "finish_reason='abort'"),
    "a finish reason of another type": (choice(finish_reason=["stop"]), "AnswerError", "finish_reason="),
    "a filtered answer": (choice(finish_reason="content_filter"), "PromptError", "content filter"),
    "the end of the context": (choice(finish_reason="model_length"), "PromptError", "context ended"),
    "no choices": (lambda answer: {"usage": answer["usage"]}, "AnswerError", "no responses in choices"),
    "null choices": (whole(choices=None), "AnswerError", "no responses in choices"),
    "empty choices": (whole(choices=[]), "AnswerError", "0 responses in choices instead of 1"),
    "two choices": (lambda answer: answer | {"choices": answer["choices"] * 2}, "AnswerError", "2 responses"),
    "choices of text": (whole(choices=["hello"]), "AnswerError", "cannot be used"),
    "a null choice": (whole(choices=[None]), "AnswerError", "cannot be used"),
    "a dict of choices": (whole(choices={"0": 1}), "AnswerError", "no responses in choices"),
    "a piece of a stream": (choice(message=None, delta={"content": "x"}), "AnswerError", "text is None"),
    "a message of text": (choice(message="hello"), "AnswerError", "cannot be used"),
    "content of another type": (message(content=4), "AnswerError", "text is 4"),
    "content in a dict": (message(content={"text": "4"}), "AnswerError", "text is {"),
    "an image": (message(content=[{"type": "image_url", "image_url": {}}]), "AnswerError", "type 'image_url'"),
    "a chunk without text": (message(content=[{"type": "text"}]), "AnswerError", "which is not text"),
    "a null chunk": (message(content=[None]), "AnswerError", "cannot be used"),
    "a tool call": (message(content=None, tool_calls=[{"id": "1"}]), "AnswerError", "calls a tool"),
    "a page": (reply(200, "<html>sign in</html>"), "AnswerError", "is not a JSON object"),
    "nothing": (reply(204), "AnswerError", "is not a JSON object"),
    "half of it": (reply(200, '{"choices": [{"mess'), "AnswerError", "is not a JSON object"),
    "a body that ends early": (reply(200, '{"choices"', **{"content-length": "999"}), "AnswerError", "broke off"),
    "a broken encoding": (reply(200, b"not gzip", **{"content-encoding": "gzip"}), "AnswerError", "broke off"),
    "a body piece by piece": (reply(200, [b" "] * 400), "AnswerError", "did not answer within 1 seconds"),
    "a list": (reply(200, [1]), "AnswerError", "is not a JSON object"),
    "brackets": (reply(200, "[" * 10**5), "AnswerError", "is not a JSON object"),
    "a stream": (reply(200, "data: {}\n\n", **{"content-type": "text/event-stream"}), "AnswerError", "event stream"),
    "a redirect": (reply(307, location="/login?next=x"), "AnswerError", "redirects to '/login'"),
    "a bad request": (reply(400, {"error": {"message": "who knows"}}), "AnswerError", "who knows"),
    "a bill": (reply(402, {"error": {"message": "more credits"}}), "AnswerError", "more credits"),
    "a storm of 500": (reply(500, "oops"), "AnswerError", "no answer after 2 attempts: .*answers 500"),
    "a storm of 429": (reply(429, ""), "AnswerError", "answers 429"),
    "a very long pause": (reply(429, "", **{"retry-after": "4000"}), "AnswerError", "asks to wait 4000 seconds"),
    "a pause for ever": (reply(503, "", **{"retry-after": "inf"}), "AnswerError", "asks to wait inf seconds"),
    "a long prompt": (reply(400, {"error": {"message": "prompt is too long: 9 > 8"}}), "PromptError", "does not fit"),
    "a filtered prompt": (reply(400, {"error": {"message": "no", "code": "content_filter"}}), "PromptError", "filters this"),
}


@pytest.mark.parametrize("kind", ODD)
def test_one_odd_answer_fails_its_prompt_and_can_be_asked_again(kind: str, tmp_path: Path) -> None:
    """Any of these ended the run, and no run could go on from its results file; a body in drips was waited for without end."""
    change, name, said = ODD[kind]
    store = tmp_path / "a.jsonl"
    fake = Fake(table(), make="other", habit=on(CHAT, change))
    with serving(fake) as url:
        engine = load_from(url, attempts=2, timeout=1.0 if kind == "a body piece by piece" else 60.0)
        target = Target(engine, lambda _, drafts: [0.0] * len(drafts), 1.0)
        outcomes = xt.run(target, PROMPTS, xt.Independent(2), store=store)
        failures = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
        assert [(failure.prompt, failure.error) for failure in failures] == [("odd", name)]
        with pytest.raises((AnswerError, PromptError), match=said):
            draw(engine, 1, prompt="odd")
        fake.habit = lambda *_: None
        again = xt.run(target, PROMPTS, xt.Independent(2), store=store, retry=True)
        engine.close()
    assert all(isinstance(outcome, xt.Result) for outcome in again)
    assert sum(line.count('"error"') for line in store.read_text().splitlines()) == 1


READ: dict[str, tuple[Change, str]] = {
    "chunks": (message(content=[{"type": "thinking", "thinking": []}, {"type": "text", "text": "a"}, "b"]), "ab"),
    "no chunks": (message(content=[]), ""),
    "null": (message(content=None, reasoning_content="hm"), ""),
    "no content": (message(), ""),
    "a refusal": (message(content=None, refusal="I will not."), "I will not."),
    "a half character": (message(content="a\ud83d"), "a\ufffd"),
    "two halves": (message(content="\ud83d\ude42"), "🙂"),
    "tool calls that are empty": (message(content="a", tool_calls=[]), "a"),
    "another end": (choice(message={"content": "a"}, finish_reason="eos_token"), "a"),
    "an end in capitals": (choice(message={"content": "a"}, finish_reason="STOP"), "a"),
    "no index": (choice(message={"content": "a"}, index=None), "a"),
    "an odd index": (choice(message={"content": "a"}, index="first"), "a"),
    "odd logprobs": (choice(message={"content": "a"}, logprobs=[1, 2]), "a"),
    "an empty error": (lambda answer: message(content="a")(answer) | {"error": None}, "a"),
    "gzip": (
        lambda answer: (200, {"content-encoding": "gzip"}, gzip.compress(json.dumps(message(content="ä")(answer)).encode())),
        "ä",
    ),
    "another type": (lambda answer: (200, {"content-type": "text/html"}, message(content="a")(answer)), "a"),
    "a mark and white space": (
        lambda answer: (200, {}, "\ufeff" + " \n" * 9 + json.dumps(message(content="ä")(answer))),
        "ä",
    ),
    "UTF-16": (lambda answer: (200, {}, json.dumps(message(content="ä")(answer)).encode("utf-16")), "ä"),
    "a success of another number": (lambda answer: (201, {}, message(content="a")(answer)), "a"),
}


@pytest.mark.parametrize("kind", READ)
def test_other_ways_of_saying_it_are_read(kind: str) -> None:
    change, text = READ[kind]
    with serving(Fake(table(), make="other", habit=on(CHAT, change))) as url:
        engine = load_from(url, attempts=1)
        assert [draft.text for draft in draw(engine, 2, prompt="odd")] == [text] * 2
        engine.close()


@pytest.mark.parametrize(
    "usage",
    [
        None, [], "none", {}, {"total_tokens": 3}, {"prompt_tokens": None}, {"prompt_tokens": "3"}, {"prompt_tokens": -1},
        {"prompt_tokens": 1e400}, {"prompt_tokens": 2, "prompt_tokens_details": "none"},
        {"prompt_tokens": 2.0, "prompt_tokens_details": {"cached_tokens": None}},
    ],
    ids=str,
)  # fmt: skip
def test_without_usage_the_tokens_told_are_counted(usage: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A server that reports no usage could not be used at all."""
    work = Work()
    with serving(Fake(table(), make="llamacpp", habit=lambda *seen: (200, {}, seen[2] | {"usage": usage}))) as url:
        engine = load_from(url).metered(work)
        drafts = draw(engine, 5)
        engine.close()
    known = isinstance(usage, dict) and usage.get("prompt_tokens") in (2, 2.0)
    assert work.generated == sum(len(draft.tokens) for draft in drafts)
    assert work.prompt == (2 * 5 if known else 0)
    assert sum("reports no usage" in record.getMessage() for record in caplog.records) == (0 if known else 1)


# ------------------------------------------------------------------------------------------------- what ends a run


@pytest.mark.parametrize(("status", "said"), [(401, "refuses"), (403, "refuses"), (404, "no such path or model")])
def test_what_concerns_every_prompt_ends_the_run(status: int, said: str, tmp_path: Path) -> None:
    fake = Fake(table(), make="other", habit=on(CHAT, reply(status, {"error": {"message": "no"}}), "three"))
    with serving(fake) as url:
        target = Target(load_from(url), lambda _, drafts: [0.0] * len(drafts), 1.0)
        with pytest.raises(ModelError, match=said):
            xt.run(target, PROMPTS, xt.Independent(2), store=tmp_path / "a.jsonl", concurrency=1)
        fake.habit = lambda *_: None
        outcomes = xt.run(target, PROMPTS, xt.Independent(2), store=tmp_path / "a.jsonl")
        target.engine.close()  # pyright: ignore
    assert all(isinstance(outcome, xt.Result) for outcome in outcomes), "no prompt is blamed"


@pytest.mark.parametrize(
    ("attempts", "concurrency", "said"), [(2, 32, "cannot be reached"), (1, 1, r"broke off .*cannot be reached")]
)
def test_a_server_that_is_gone_ends_the_run(attempts: int, concurrency: int, said: str, tmp_path: Path) -> None:
    """Where every attempt was made on a connection kept from before, its prompt failed alone, as if the server were well.

    One draw a prompt: a second request at the same time may find no connection kept, and is refused at once.
    """
    with ExitStack() as stack:
        url = stack.enter_context(serving(Fake(table(), make="other")))
        target = Target(load_from(url, attempts=attempts), lambda _, drafts: [0.0] * len(drafts), 1.0)
        xt.run(target, PROMPTS[:2], xt.Independent(1), store=tmp_path / "a.jsonl")
        stack.close()
        with pytest.raises(ModelError, match=said):
            xt.run(target, PROMPTS, xt.Independent(1), store=tmp_path / "a.jsonl", concurrency=concurrency)
    assert "error" not in (tmp_path / "a.jsonl").read_text()


def test_a_server_whose_answers_are_all_odd_ends_the_run_early() -> None:
    fake = Fake(table(), make="other")
    with serving(fake) as url:
        target = Target(load_from(url), lambda _, drafts: [0.0] * len(drafts), 1.0)
        fake.habit = lambda path, body, answer: (200, {}, {"choices": []})
        asked = len(fake.seen)
        with pytest.raises(AnswerError, match="the first 10 prompts all failed"):
            xt.run(target, [f"prompt {number}" for number in range(400)], xt.Independent(1), concurrency=2)
        target.engine.close()  # pyright: ignore
    assert len(fake.seen) - asked < 30


def test_half_a_character_fails_its_prompt() -> None:
    with serving(Fake(table(), make="other")) as url:
        target = Target(load_from(url), lambda _, drafts: [0.0] * len(drafts), 1.0)
        bad, good = xt.run(target, ["half \ud83d", "one"], xt.Independent(1))
        target.engine.close()  # pyright: ignore
    assert isinstance(bad, Failure)
    assert (bad.error, "half of a" in bad.message) == ("PromptError", True)
    assert isinstance(good, xt.Result)
