"""Requests to servers: what they cost, how several servers share them, what they carry and what they never tell."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import Thread
from typing import Any, cast

import pytest

from exptilt.core import Engine, Target
from exptilt.draft import Draft
from exptilt.engines.loading import load
from exptilt.errors import AnswerError, ModelError
from exptilt.keys import Key
from exptilt.running.run import run
from exptilt.samplers import ETS, Independent
from exptilt.usage import Work
from tests.engines.fake_server import MODEL, Fake, serving
from tests.engines.served import CAP, draw, load_from, table

pytest.importorskip("httpx2")

SECRET = "sk-very-secret-0123456789"


# ------------------------------------------------------------------------------------------- requests and their cost


def test_copies_of_a_prefix_are_one_request_without_seeds(serve: Callable[..., Any]) -> None:
    fake = Fake(table())
    engine = serve(fake, seeds=False)
    before = len(fake.requests("/v1/completions"))
    drafts = engine.extend([engine.start("Q?")] * 5 + [engine.start("R?")] * 3, [Key(0, i) for i in range(8)])
    bodies = fake.requests("/v1/completions")[before:]
    assert sorted(body["n"] for body in bodies) == [3, 5]
    assert not any("seed" in body for body in bodies)
    assert [draft.prompt for draft in drafts] == ["Q?"] * 5 + ["R?"] * 3
    assert len({draft.tokens for draft in draw(engine, 40)}) > 5


def test_work_is_what_the_server_says(serve: Callable[..., Any]) -> None:
    work = Work()
    engine = serve(Fake(table()), seeds=False, template=False).metered(work)
    drafts = draw(engine, 6, prompt="12345678")
    drawn = sum(len(draft.tokens) for draft in drafts)
    assert work == Work(prompt=4, cached=4, generated=drawn, forwards=drawn)
    engine.score(drafts[:1])
    assert work.scored == len(drafts[0].tokens)


def test_no_more_requests_at_once_than_allowed(serve: Callable[..., Any]) -> None:
    fake = Fake(table(), delay=0.005)
    engine = serve(fake, concurrency=3)
    callers = [Thread(target=draw, args=(engine, 8, None, f"Q{number}?")) for number in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(10)
    assert fake.most == 3


# -------------------------------------------------------------------------------------------------- several servers


def test_several_servers_share_the_load_and_a_dead_one_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    one, two = Fake(table(), delay=0.002), Fake(table(), delay=0.002)
    with ExitStack() as stack:
        first, dying = ExitStack(), ExitStack()
        stack.enter_context(first)
        stack.enter_context(dying)
        urls = [first.enter_context(serving(one)), dying.enter_context(serving(two))]
        engine = load_from(",".join(urls))
        stack.callback(engine.close)
        expected = draw(engine, 40)
        shares = [len(fake.requests("/v1/completions")) for fake in (one, two)]
        assert min(shares) >= 0.3 * sum(shares)
        dying.close()
        with caplog.at_level(logging.WARNING, "exptilt"):
            assert draw(engine, 40) == expected
        reports = [
            record.getMessage() for record in caplog.records if "its share goes to the other servers" in record.getMessage()
        ]
        assert len(reports) == 1
        assert reports[0].startswith(urls[1])


def test_a_server_that_dies_during_a_run_costs_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    """Its share goes to the other, also the requests under way: the answers are those of a run on one server."""
    prompts, sampler = [f"Q{number}?" for number in range(16)], ETS(candidates=2, rollouts=2, block=2)
    kept, dying = Fake(table(), delay=0.002), Fake(table(), delay=0.002)
    seeds = [Counter[tuple[str, int]](), Counter[tuple[str, int]]()]
    with ExitStack() as stack, ExitStack() as life:
        urls = [stack.enter_context(serving(kept)), life.enter_context(serving(dying))]
        engine, alone = load_from(urls), load_from(urls[:1])
        stack.callback(engine.close)
        stack.callback(alone.close)
        for fake in (kept, dying):
            fake.seen.clear()  # of the loading

        def reward(_: str, drafts: Sequence[Draft]) -> list[float]:
            if len(dying.requests("/v1/completions")) > 20:
                dying.dead = True  # connections break off first, then nobody answers
                life.close()
            return [float(len(draft.text)) for draft in drafts]

        outcomes = run(Target(engine, reward, 1.0), prompts, sampler, store=tmp_path / "store.jsonl")
        assert dying.dead
        for fake, found in zip((kept, dying), seeds, strict=True):
            found.update((repr(body["prompt"]), body["seed"]) for body in fake.requests("/v1/completions") if "seed" in body)
        expected = run(Target(alone, reward, 1.0), prompts, sampler)
    assert [cast(Any, one).draft for one in outcomes] == [cast(Any, other).draft for other in expected]
    assert all(kinds.total() > 20 for kinds in seeds)
    assert set((seeds[0] + seeds[1]).values()) == {1}, "every draft was answered once"
    lines = [json.loads(line) for line in (tmp_path / "store.jsonl").read_text().splitlines()]
    assert sorted(line["prompt"] for line in lines if "prompt" in line) == sorted(prompts)


def test_servers_must_offer_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(Fake(table())) as one, serving(Fake(table(), processed=True)) as two:
        with pytest.raises(ModelError, match="drafts of one engine need one distribution"):
            load_from([one, two])
        monkeypatch.setenv("OPENAI_BASE_URL", one)
        assert load(f"openai:{MODEL}", max_tokens=CAP).name == "openai:table"


# ---------------------------------------------------------------------------------------------------------- secrets


def test_the_key_is_sent_and_never_told(
    serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    fake = Fake(table(), key=SECRET)
    told: list[str] = []
    with caplog.at_level(logging.DEBUG):
        engine = serve(fake)
        assert {sent for *_, sent in fake.seen} == {f"Bearer {SECRET}"}
        target = Target(engine, lambda _, drafts: [0.0] * len(drafts), 1.0)
        run(target, ["Q?", "R?"], Independent(2), store=tmp_path / "store.jsonl")
        told += [(tmp_path / "store.jsonl").read_text(), json.dumps(dict(engine.settings)), repr(engine), repr(vars(engine))]
        for status in (400, 401, 403, 500):
            fake.failures.extend([(status, {}, {"error": {"message": f"Incorrect API key provided: {SECRET}"}})] * 6)
            with pytest.raises((ModelError, AnswerError)) as caught:
                draw(engine, 1)
            told.append(str(caught.value))
            fake.failures.clear()
        fake.failures.extend([(200, {}, f"not json {SECRET}")] * 6)
        with pytest.raises(AnswerError) as caught:
            draw(engine, 1)
        told.append(str(caught.value))
        answers = [{"choices": [], "sent": SECRET}, {"choices": [{"text": SECRET}]}, {"tokens": SECRET}]
        for answer, call in zip(answers, [draw, draw, lambda engine, _: engine.start("new")], strict=True):
            fake.failures.append((200, {}, answer))
            with pytest.raises(AnswerError) as caught:
                call(engine, 1)
            told.append(str(caught.value))
    told.append(caplog.text)
    assert len(caplog.records) > 5
    assert not any(SECRET in text for text in told)
    assert "refuses the key in OPENAI_API_KEY (status 401): set OPENAI_API_KEY" in "".join(told)


def test_a_key_that_may_not_list_models_may_draw(serve: Callable[..., Any]) -> None:
    fake = Fake(table(), habit=lambda path, *_: (403, {}, {"error": "no scope"}) if path.endswith("/models") else None)
    assert draw(serve(fake, make="vllm"), 1)


@pytest.mark.parametrize("key", ["sk-\u201cquoted\u201d", "two\nlines"])
def test_a_key_that_no_header_can_carry_is_refused(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ModelError, match="characters that no header can carry"):
        load_from("http://localhost:1/v1")


def test_another_variable_may_hold_the_key(serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ModelError, match="refuses requests without a key, and OPENAI_API_KEY is not set"):
        serve(Fake(table(), key=SECRET))
    monkeypatch.setenv("MY_KEY", SECRET)
    assert serve(Fake(table(), key=SECRET), key_name="MY_KEY").can


# --------------------------------------------------------------------------------------------------------- protocol


def test_settings_name_the_law_and_views_share_the_server(serve: Callable[..., Any]) -> None:
    engine = serve(Fake(table()), extra={"min_tokens": 0})
    assert isinstance(cast(object, engine), Engine)
    colder = engine.with_sampling(temperature=0.5)
    assert colder.backend is engine.backend
    assert colder.settings == {**engine.settings, "temperature": 0.5}
    assert engine.settings["mode"] == "ids"
    assert not any("127.0.0.1" in str(value) for value in engine.settings.values())
    assert engine.alphabet == serve(Fake(table(2))).alphabet, "the same tokenizer behind another server"
    assert hash(engine) is not None


def test_a_run_over_many_prompts_resumes(serve: Callable[..., Any], tmp_path: Path) -> None:
    fake = Fake(table())
    target = Target(serve(fake), lambda _, drafts: [float(len(draft.text)) for draft in drafts], 1.0)
    prompts = [f"Q{number}?" for number in range(6)]
    first = run(target, prompts[:4], ETS(candidates=2, block=2), store=tmp_path / "s.jsonl")
    before = len(fake.seen)
    again = run(target, prompts[:4], ETS(candidates=2, block=2), store=tmp_path / "s.jsonl")
    assert len(fake.seen) == before
    assert [cast(Any, result).text for result in again] == [cast(Any, result).text for result in first]
    assert len(run(target, prompts, ETS(candidates=2, block=2), store=tmp_path / "s.jsonl")) == 6
