"""What fails on the way to a server and back is tried again, or told in words."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from exptilt.engines.loading import load
from exptilt.errors import AnswerError, ModelError, PromptError
from tests.engines.fake_server import Fake, serving
from tests.engines.served import draw, load_from, table

pytest.importorskip("httpx2")


# ------------------------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize(
    "failure",
    [
        (500, {}, "oops"), (429, {}, {"error": {"message": "slow"}}), "reset", (503, {}, ""), (409, {}, ""), (520, {}, ""),
        (200, {}, {"error": {"message": "upstream", "code": 502}}), (200, {}, "<html>wait</html>"), (200, {}, '{"choi'),
        (200, {"content-length": "99"}, "{}"), (200, {"content-encoding": "gzip"}, "{}"), (204, {}, b""),
    ],
)  # fmt: skip
def test_what_fails_in_passing_is_tried_again(serve: Callable[..., Any], failure: Any) -> None:
    fake = Fake(table())
    engine = serve(fake)
    expected = draw(engine, 3)
    fake.failures.extend([failure, failure])
    assert draw(engine, 3) == expected


def test_retry_after_is_honoured(serve: Callable[..., Any]) -> None:
    fake = Fake(table())
    engine = serve(fake)
    engine.start("Q?")
    fake.failures.append((429, {"retry-after": "0.3"}, {"error": {"message": "slow"}}))
    began = time.monotonic()
    draw(engine, 1)
    assert 0.3 <= time.monotonic() - began < 2
    fake.failures.append((429, {"retry-after": "4000"}, {"error": {"message": "quota of the day"}}))
    with pytest.raises(AnswerError, match=r"asks to wait 4000 seconds .*quota of the day"):
        draw(engine, 1)
    fake.failures.append((429, {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, ""))
    assert draw(engine, 1)


def test_a_server_that_goes_on_failing_is_one_error(serve: Callable[..., Any]) -> None:
    fake = Fake(table())
    engine = serve(fake, attempts=3)
    engine.start("Q?")
    fake.failures.extend([(500, {}, {"error": {"message": "broken"}})] * 3)
    with pytest.raises(AnswerError, match=r"no answer after 3 attempts: .*answers 500 \(broken\)"):
        draw(engine, 1)
    assert draw(engine, 1), "the next call starts anew"
    fake.failures.append((429, {}, {"error": {"message": "pay first", "code": "insufficient_quota"}}))
    with pytest.raises(AnswerError, match="pay first"):
        draw(engine, 1)
    assert not fake.failures


def test_a_slow_server_times_out(serve: Callable[..., Any]) -> None:
    fake = Fake(table())
    engine = serve(fake, timeout=0.2, attempts=2)
    engine.start("Q?")
    fake.failures.extend([0.5, 0.5])
    with pytest.raises(AnswerError, match=r"did not answer within 0\.2 seconds .*longer timeout"):
        draw(engine, 1)
    fake.failures.append(0.4)
    assert draw(engine, 1)


def test_prompts_that_cannot_be_answered_concern_that_prompt_alone(serve: Callable[..., Any]) -> None:
    fake = Fake(table())
    engine = serve(fake)
    with pytest.raises(PromptError, match="empty"):
        engine.start(" ")
    with pytest.raises(PromptError, match=r"the prompt has 3\d\d tokens and max_tokens is 4"):
        engine.start("X" * 300)
    with pytest.raises(ValueError, match="leaves no room for a prompt in the 200 tokens"):
        engine.with_sampling(max_tokens=200)
    unaware = serve(Fake(table(), make="other"), template=False)
    with pytest.raises(PromptError, match=r"does not fit: maximum context length is 200.*Shorten"):
        draw(unaware, 1, prompt="X" * 300)


def test_a_wrong_model_lists_what_there_is() -> None:
    with serving(Fake(table())) as url, pytest.raises(ModelError, match=r"no model 'gpt-9': it offers other-model, table"):
        load("openai:gpt-9", base_url=url)


def test_no_server_at_all() -> None:
    with serving(Fake(table())) as url:
        pass
    with pytest.raises(
        ModelError, match=r"no answer after 2 attempts: http://127.*cannot be reached .*Check that the server runs"
    ):
        load_from(url, attempts=2)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x/v1", "http://me:word@host/v1", "http://host/v1?key=word", " , "])
def test_urls_are_plain(url: str) -> None:
    with pytest.raises(ModelError, match="base_url") as caught:
        load_from(url)
    assert "word" not in str(caught.value).replace("password", "")


def test_parameters_are_checked(serve: Callable[..., Any]) -> None:
    for parts, message in [({"mode": "fast"}, "mode='fast'"), ({"make": "gpu"}, "make='gpu'"), ({"attempts": 0}, "attempts=0")]:
        with pytest.raises(ValueError, match=message):
            load_from("http://localhost:1/v1", **parts)
    with pytest.raises(ValueError, match="extra holds seed, stop"):
        serve(Fake(table()), extra={"seed": 1, "stop": "x"})
    with pytest.raises(ValueError, match="a system text needs a chat template"):
        serve(Fake(table()), system="x", template=False)
    with pytest.raises(ValueError, match="has no option dtype: it has attempts, backoff, base_url"):
        load_from("http://localhost:1/v1", dtype="bfloat16")


def test_a_missing_package_names_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exptilt.engines.requirements.importlib.util.find_spec", lambda _: None)
    with pytest.raises(ModelError, match=r"needs httpx2, .*pip install .*\[openai\]'"):
        load("openai:x", base_url="http://localhost:1/v1")
