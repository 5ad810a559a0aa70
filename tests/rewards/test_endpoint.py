"""Rewards behind a URL, on loopback: three protocols, failures in passing, answers that make no sense, and the key."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

pytest.importorskip("httpx2")

import exptilt as xt
from exptilt.describe import describe
from exptilt.draft import Draft
from exptilt.engines.table import TableEngine
from exptilt.errors import ModelError, PromptError, RewardError
from exptilt.rewards import EndpointReward
from exptilt.rewards.model.pairs import Reduce
from tests.engines.fake_server import Handler, listening

NOW: dict[str, Any] = {"backoff": 0.001}


@dataclass
class Service:
    """Scores a text by its length. failures: (status, headers, body) or seconds of silence, for the next requests."""

    url: str = ""
    failures: deque[Any] = field(default_factory=deque)
    seen: list[tuple[str, dict[str, Any], str]] = field(default_factory=list)
    logits: Any = None  # what vLLM's routes give instead of the length
    delay: float = 0.0
    most: int = 0
    now: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path.endswith("/score"):
            return {"rewards": [float(len(text)) for text in body["responses"]]}
        length = float(len(body["messages"][1]["content"]))
        if path == "/classify":
            return {"data": [{"index": 0, "label": "LABEL_0", "probs": self.logits or [length], "num_classes": 1}]}
        return {"data": [{"index": 0, "object": "pooling", "data": self.logits or [length]}]}


class _Handler(Handler):
    service: Service

    def do_POST(self) -> None:
        service, body = self.service, self.body()
        with service.lock:
            service.now += 1
            service.most = max(service.most, service.now)
            failure = service.failures.popleft() if service.failures else None
            service.seen.append((self.path, body, self.headers.get("authorization", "")))
        time.sleep(failure if isinstance(failure, float) else service.delay)
        status, headers, answer = failure if isinstance(failure, tuple) else (200, {}, service.answer(self.path, body))
        with service.lock:
            service.now -= 1
        self.reply(status, headers, answer)


@pytest.fixture
def service() -> Iterator[Service]:
    found = Service()
    with listening(type("Bound", (_Handler,), {"service": found})) as found.url:
        yield found


def drafts(*texts: str) -> list[Draft]:
    return [Draft("x", (), None, text, "stop") for text in texts]


def ours(service: Service, **fields: Any) -> EndpointReward:
    made = EndpointReward(f"{service.url}/score", **{**NOW, **fields})
    service.seen.clear()  # of the trial
    return made


def test_our_protocol_takes_all_responses_of_a_prompt_at_once(service: Service) -> None:
    reward = ours(service, model="judge-7b")
    assert reward("why?", drafts("a", "bbb", "a", "")) == [1.0, 3.0, 1.0, 0.0]
    assert service.seen == [("/score", {"model": "judge-7b", "prompt": "why?", "responses": ["a", "bbb", ""]}, "")]
    assert reward("why?", drafts("bbb")) == [3.0]
    assert len(service.seen) == 1
    many = [str(10**number) for number in range(70)]
    assert reward("why?", drafts(*many)) == [float(len(text)) for text in many]
    assert sorted(len(body["responses"]) for _, body, _ in service.seen[1:]) == [6, 32, 32]


@pytest.mark.parametrize("protocol", ["classify", "pooling"])
@pytest.mark.parametrize("suffix", ["", "/", "/v1"])
def test_vllm_is_asked_for_raw_logits_of_the_two_turns(service: Service, protocol: Any, suffix: str) -> None:
    reward = EndpointReward(service.url + suffix, "rm", protocol, **NOW)
    service.seen.clear()
    assert reward("why?", drafts("so", "because")) == [2.0, 7.0]
    assert {path for path, _, _ in service.seen} == {f"/{protocol}"}
    asked = sorted((body for _, body, _ in service.seen), key=lambda body: body["messages"][1]["content"])
    messages = [{"role": "user", "content": "why?"}, {"role": "assistant", "content": "because"}]
    assert asked[0] == {"model": "rm", "messages": messages, "use_activation": False}


def test_labels_and_places_of_vllms_answers(service: Service) -> None:
    service.logits = [0.5, 2.0]
    assert EndpointReward(service.url, "rm", "classify", label=1, value="log-odds", **NOW)("x", drafts("a")) == [1.5]
    with pytest.raises(ModelError, match="gives 2 labels and label=None"):
        EndpointReward(service.url, "rm", "classify", **NOW)
    with pytest.raises(ModelError, match="gives 2 labels and label=2"):
        EndpointReward(service.url, "rm", "classify", label=2, **NOW)
    service.logits = [[0.5, 2.0], [1.0, -1.0], [0.0, 3.0]]
    cases: tuple[tuple[Reduce, float], ...] = (("last", 3.0), ("min", -1.0), ("mean", 4 / 3))
    for reduce, expected in cases:
        found = EndpointReward(service.url, "rm", "pooling", label=1, reduce=reduce, **NOW)("x", drafts("a"))
        assert found == pytest.approx([expected])


def test_failures_in_passing_are_tried_again(service: Service) -> None:
    reward = ours(service, timeout=0.3)
    service.failures.extend([(500, {}, "oh"), (429, {"retry-after": "0.01"}, {"error": "slower"}), (503, {}, ""), 0.6])
    assert reward("x", drafts("abc")) == [3.0]
    assert len(service.seen) == 5


def test_retry_after_is_waited_for(service: Service) -> None:
    reward = ours(service)
    service.failures.append((429, {"retry-after": "0.2"}, "slower"))
    began = time.monotonic()
    assert reward("x", drafts("abc")) == [3.0]
    assert time.monotonic() - began >= 0.2


def test_what_fails_in_the_end_is_an_error_of_the_prompt_and_the_run_goes_on(service: Service) -> None:
    reward = ours(service, attempts=2)
    engine = TableEngine(lambda prefix: (0.5, 0.5), 2, 1, symbols=("a", ""))
    service.failures.extend([(500, {}, "out of memory")] * 2)
    with pytest.raises(RewardError, match=r"gives no score: no answer after 2 attempts: .* answers 500 \(out of memory\)"):
        reward("x", drafts("abc"))
    service.failures.extend([(500, {}, "out of memory")] * 2)
    failed, good = xt.run(xt.Target(engine, reward, 1.0), ["x", "y"], xt.Independent(2), concurrency=1)
    assert isinstance(failed, xt.Failure)
    assert failed.error == "RewardError"
    assert isinstance(good, xt.Result)


@pytest.mark.parametrize(("status", "said"), [(401, "refuses"), (403, "refuses"), (404, "no such path or model")])
def test_what_concerns_every_prompt_ends_the_run(service: Service, status: int, said: str) -> None:
    """Every prompt was drawn and paid for, and failed by a reward that none could be given by."""
    reward = ours(service)
    engine = TableEngine(lambda prefix: (0.5, 0.5), 2, 1, symbols=("a", ""))
    service.failures.extend([(status, {}, "no")] * 9)
    with pytest.raises(ModelError, match=said):
        xt.run(xt.Target(engine, reward, 1.0), ["x", "y"], xt.Independent(2), concurrency=1)
    service.failures.clear()
    assert all(isinstance(each, xt.Result) for each in xt.run(xt.Target(engine, reward, 1.0), ["x"], xt.Independent(2)))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"rewards": [1.0]}, r"rewards of shape \(1,\) for 2 responses"),
        ({"rewards": [[1.0], [2.0]]}, r"rewards of shape \(2, 1\) for 2 responses"),
        ({"rewards": [1.0, None]}, "gives nan for the response 'b'"),
        ({"rewards": "good"}, "is not of the protocol"),
        ({"rewards": ["1.0", "2.0"]}, "is not of the protocol"),
        ({"rewards": {"0": 1.0, "1": 2.0}}, "is not of the protocol"),
        ({"rewards": []}, "is not of the protocol"),
        ({"scores": [1.0, 2.0]}, "is not of the protocol"),
        ('{"rewards": [1.0, NaN]}', "gives nan for the response 'b'"),
        ("<html>welcome</html>", "is not a JSON object"),
    ],
)
def test_answers_that_make_no_sense_are_errors_and_never_scores(service: Service, answer: Any, said: str) -> None:
    reward = ours(service, attempts=1)
    service.failures.append((200, {}, answer))
    with pytest.raises(RewardError, match=said):
        reward("x", drafts("a", "b"))
    assert reward("x", drafts("a", "b")) == [1.0, 1.0]  # nothing of it was kept


@pytest.mark.parametrize("answer", [{"data": []}, {"data": [{"probs": None}]}, {"data": [{}]}, {"data": 3}, {}])
def test_answers_of_vllm_that_make_no_sense(service: Service, answer: Any) -> None:
    reward = EndpointReward(service.url, "rm", "classify", **NOW)
    service.failures.append((200, {}, answer))
    with pytest.raises(RewardError, match="is not of the protocol"):
        reward("x", drafts("a"))


def test_what_is_wrong_from_the_start_shows_when_it_is_made(service: Service) -> None:
    wrong = {"error": {"message": "no such model"}}
    for status, body, said in (
        (404, wrong, "status 404"), (401, wrong, "EXPTILT_REWARD_KEY"), (200, {"hello": 1}, "not of the protocol")
    ):  # fmt: skip
        service.failures.append((status, {}, body))
        with pytest.raises(ModelError, match=said):
            ours(service)
    with pytest.raises(ModelError, match="cannot be reached"):
        EndpointReward("http://127.0.0.1:9/score", attempts=1)
    with pytest.raises(ModelError, match="user, password or query"):
        EndpointReward("http://me:secret@localhost/score")
    bad: list[dict[str, Any]] = [
        {"protocol": "rest"},
        {"attempts": 0},
        {"max_length": 0},
        {"reduce": "max"},
        {"value": "log-odds"},
    ]
    for fields in bad:
        with pytest.raises(ValueError, match=f"{next(iter(fields))}="):
            ours(service, **fields)


def test_the_key_goes_into_the_header_alone(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPTILT_REWARD_KEY", "sk-secret")
    reward = ours(service)
    reward("x", drafts("a"))
    assert service.seen[0][2] == "Bearer sk-secret"
    service.failures.extend(
        [(400, {}, {"error": {"message": "bad key sk-secret"}}), (401, {}, "sk-secret"), *[(200, {}, "sk-secret")] * 6]
    )
    said = []
    for text in "bcd":
        with pytest.raises((RewardError, ModelError)) as caught:
            reward("x", drafts(text))
        said.append(str(caught.value))
    assert "sk-secret" not in f"{said} {describe(reward)} {reward!r}"


def test_settings_name_the_model_and_not_the_place(service: Service) -> None:
    named, other = ours(service, model="rm"), ours(service, model="rm-2")
    assert describe(named) == describe(EndpointReward(f"{service.url}/elsewhere/score", "rm", timeout=9.0))
    assert describe(named) != describe(other)
    assert service.url in json.dumps(describe(ours(service)))


def test_no_more_requests_at_once_than_told(service: Service) -> None:
    reward = ours(service, concurrency=3)
    service.delay = 0.02
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda number: reward(f"prompt {number}", drafts("a" * number)), range(12)))
    assert found == [[float(number)] for number in range(12)]
    assert 1 < service.most <= 3


def test_long_texts_are_cut_here_or_refused(service: Service) -> None:
    reward = ours(service, max_length=400)
    reward("p" * 500, drafts("r" * 300 + " so 7."))
    [(_, body, _)] = service.seen
    assert len(body["prompt"]) + len(body["responses"][0]) == 400
    assert body["responses"][0].endswith(" so 7.")
    with pytest.raises(RewardError, match="too long"):
        ours(service, max_length=200, long="refuse")("p" * 500, drafts("a"))
    uncut = ours(service)
    service.failures.append((400, {}, {"error": {"message": "This model's maximum context length is 256 tokens."}}))
    with pytest.raises(PromptError, match="does not fit"):
        uncut("x", drafts("a"))
