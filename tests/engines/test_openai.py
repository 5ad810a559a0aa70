"""Engines behind a server: the law over HTTP is the table's law, and everything that can go wrong on the way is told."""

from __future__ import annotations

import json
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from threading import Thread
from typing import Any, cast

import numpy as np
import pytest

from exptilt.core import Engine, Target
from exptilt.draft import Draft
from exptilt.engines.load import load
from exptilt.engines.table import TableEngine
from exptilt.errors import CapabilityError, ModelError, PromptError
from exptilt.keys import Key
from exptilt.running.run import run, sample
from exptilt.samplers import ETS, Independent, SuffixMCMC
from exptilt.usage import Work
from tests.engines.fake_server import MODEL, PROMPT, Fake, serving
from tests.engines.laws import check_law
from tests.exact import gamma
from tests.toys import random_table, reward_of

pytest.importorskip("httpx2")

CAP = 4
SYMBOLS = "ab#"
END = 2
PARTS: dict[str, Any] = {"max_tokens": CAP, "backoff": 0.01}
SECRET = "sk-very-secret-0123456789"


def table(seed: int = 1, cap: int = CAP) -> TableEngine:
    return TableEngine(cache(random_table(seed, 3)), cap, END, symbols=SYMBOLS)


def load_from(url: str | list[str], **parts: Any) -> Any:
    """The engine as its own class: tests look at its server too."""
    given: dict[str, Any] = PARTS | {"base_url": url} | parts
    return load(f"openai:{MODEL}", **given)


@pytest.fixture
def serve() -> Iterator[Callable[..., Any]]:
    """Starts a fake server and loads an engine from it."""
    with ExitStack() as stack:

        def start(fake: Fake, **parts: Any) -> Any:
            engine = load_from(stack.enter_context(serving(fake)), **parts)
            stack.callback(engine.server.close)
            return engine

        yield start


def draw(engine: Engine, count: int, tokens: int | None = None, prompt: str = "Q?") -> list[Draft]:
    return engine.extend([engine.start(prompt)] * count, [Key(0, i) for i in range(count)], tokens)


def as_text(law: dict[tuple[int, ...], float]) -> dict[Any, float]:
    """A law over tokens as one over what a reader sees: the text, and how it ended."""
    named = {}
    for tokens, mass in law.items():
        stopped = tokens[-1] == END
        text = "".join(SYMBOLS[token] for token in (tokens[:-1] if stopped else tokens))
        named[text, "stop" if stopped else "length"] = mass
    return named


def seen(draft: Draft) -> Any:
    return draft.text, draft.finish


# ------------------------------------------------------------------------------------------------------- exactness


@pytest.mark.parametrize("seeds", [True, False])
@pytest.mark.parametrize("tokens", [None, 1])
def test_draws_follow_the_law_block_by_block(serve: Callable[..., Any], seeds: bool, tokens: int | None) -> None:
    engine = serve(Fake(table()), seeds=seeds)
    count = 200 if seeds else 2000
    drafts = [engine.start("Q?")] * count
    for step in range(CAP if tokens else 1):
        drafts = engine.extend(drafts, [Key(1, step, i) for i in range(count)], tokens)
    check_law(drafts, {tokens: math.exp(log_p) for tokens, log_p in table().enumerate().items()}, lambda draft: draft.tokens)
    assert all(draft.finish == ("stop" if draft.tokens[-1] == END else "length") for draft in drafts)


def test_logq_is_the_score_and_the_law(serve: Callable[..., Any]) -> None:
    engine = serve(Fake(table()))
    assert engine.can == {"continue", "logq", "score", "seed"}
    half = draw(engine, 20, 2)
    drafts = engine.extend(half, [Key(1, i) for i in range(20)])
    law = table().enumerate()
    for draft, score in zip(drafts, engine.score(drafts), strict=True):
        assert draft.logq == pytest.approx(score, abs=1e-9)
        assert math.fsum(draft.logq) == pytest.approx(law[draft.tokens], abs=1e-9)
    assert engine.score([engine.start("Q?")])[0].shape == (0,)


def test_a_score_from_some_token_on_is_the_end_of_the_whole_and_what_is_not_wanted_is_not_asked(
    serve: Callable[..., Any],
) -> None:
    fake = Fake(table())
    engine = serve(fake)
    drafts = draw(engine, 12)
    starts = [i % (len(draft.tokens) + 1) for i, draft in enumerate(drafts)]
    whole, before, work = engine.score(drafts), len(fake.seen), Work()
    for score, part, start in zip(whole, engine.metered(work).score(drafts, starts), starts, strict=True):
        assert part.tolist() == score[start:].tolist()
    wanted = [len(draft.tokens) - start for draft, start in zip(drafts, starts, strict=True)]
    assert 0 in wanted
    assert len(fake.seen) - before == sum(count > 0 for count in wanted)
    assert {body["prompt_logprobs"] for _, body, _ in fake.seen[before:]} == {0}, "of the given tokens alone"
    assert work.scored == sum(wanted)


@pytest.mark.parametrize("changes", [{"temperature": 0.7}, {"top_k": 2}, {"top_p": 0.8, "temperature": 1.5}])
def test_other_laws_are_sent_whole_and_their_logq_needs_processed_log_probabilities(
    serve: Callable[..., Any], changes: dict[str, Any]
) -> None:
    """vLLM tells log-probabilities before temperature and truncation unless started otherwise: weights of another law."""
    raw = serve(Fake(table()), **changes)
    assert raw.can == {"continue", "seed"}
    assert all(draft.logq is None for draft in draw(raw, 3))
    fake = Fake(table(), processed=True)
    processed = serve(fake, seeds=False, **changes)
    assert processed.can == {"continue", "logq"}
    body = {"temperature": 1.0, "top_p": 1.0, "top_k": -1} | changes
    law = {
        tokens: math.prod(fake._law(tokens[:i], body)[token] for i, token in enumerate(tokens)) for tokens in table().enumerate()
    }
    drafts = draw(processed, 1000)
    check_law(drafts, law, lambda draft: draft.tokens)
    assert all(math.exp(math.fsum(draft.logq or ())) == pytest.approx(law[draft.tokens]) for draft in drafts[:50])
    with pytest.raises(CapabilityError, match="temperature 1 and no truncation"):
        processed.score(drafts)


def test_what_the_user_says_of_log_probabilities_counts(serve: Callable[..., Any]) -> None:
    assert "logq" in serve(Fake(table()), temperature=0.5, processed=True).can
    assert "logq" not in serve(Fake(table(), processed=True), temperature=0.5, processed=False).can
    assert "logq" not in serve(Fake(table(), processed="temperature"), temperature=0.5, top_k=2).can, "half of it is not enough"


@pytest.mark.parametrize("make", ["vllm", "llamacpp"])
def test_the_markov_chain_targets_the_same_law(serve: Callable[..., Any], make: str) -> None:
    """Chains that redraw suffixes end at π = p·exp(r/β)/Z, in token ids as in strings, where text is told alone."""
    engine = serve(Fake(table(), make=make), seeds=False)
    rewards = {"a": 0.6, "b": -0.6}

    def reward(prompt: str, drafts: list[Draft]) -> list[float]:
        return [sum(rewards[letter] for letter in draft.text) for draft in drafts]

    law = as_text({tokens: math.exp(log_p) for tokens, log_p in table().enumerate().items()})
    weight = {(text, end): mass * math.exp(reward("", [Draft("", text=text)])[0]) for (text, end), mass in law.items()}
    *_, last = SuffixMCMC(steps=15, chains=200)(Target(engine, reward, 1.0), "Q?", Key(3))
    z = sum(weight.values())
    check_law(last.drafts[-200:], {name: mass / z for name, mass in weight.items()}, seen)


def test_guided_search_has_proper_weights(serve: Callable[..., Any]) -> None:
    """E[Σ w 1(y)] of ETS over HTTP is γ(y), within five standard errors of the runs."""
    engine = serve(Fake(table()), seeds=False)
    target = Target(engine, lambda _, drafts: [reward_of(5, draft.tokens) for draft in drafts], 1.0)
    exact = gamma(table().enumerate(), lambda tokens: reward_of(5, tokens), 1.0)
    events: list[Callable[[tuple[int, ...]], bool]] = [
        lambda _: True,
        lambda tokens: tokens[0] == 0,
        lambda tokens: len(tokens) > 2,
        lambda tokens: tokens[-1] == END,
    ]
    totals = []
    for number in range(120):
        *_, last = ETS(candidates=8, rollouts=1, block=2)(target, "Q?", Key(7, number))
        weights = np.exp(last.log_w)
        totals.append([sum(weights[[event(draft.tokens) for draft in last.drafts]]) for event in events])
    means, errors = np.mean(totals, axis=0), np.std(totals, axis=0, ddof=1) / math.sqrt(len(totals))
    sums = [sum(mass for tokens, mass in exact.items() if event(tokens)) for event in events]
    assert np.all(np.abs(means - sums) <= 5 * errors)
    assert np.all(errors < 0.1 * np.array(sums)), "precise enough to notice a wrong law"


def test_a_seed_repeats_a_run(serve: Callable[..., Any]) -> None:
    fake = Fake(table())
    engine = serve(fake)
    target = Target(engine, lambda _, drafts: [float(len(draft.text)) for draft in drafts], 1.0)
    first, again = (sample(target, "Q?", ETS(candidates=2, rollouts=1, block=2), seed=4) for _ in range(2))
    assert [draft.tokens for draft in first.population.drafts] == [draft.tokens for draft in again.population.drafts]
    assert first.draft == again.draft
    seeds = [body["seed"] for body in fake.requests("/v1/completions") if "seed" in body]
    assert len(set(seeds)) == len(seeds) // 2
    singles = [engine.extend([engine.start("Q?")], [Key(0, i)])[0] for i in range(6)]
    assert singles == draw(engine, 6), "a draft does not depend on what else is drawn"
    assert len({draft.tokens for draft in draw(engine, 40)}) > 5


# ---------------------------------------------------------------------------------------------- text, stops, caps


@pytest.mark.parametrize("make", ["vllm", "llamacpp"])
@pytest.mark.parametrize("block", [1, 2, None])
def test_stop_strings_end_a_response_also_across_calls(serve: Callable[..., Any], make: str, block: int | None) -> None:
    """The server looks for stop strings in what it generates now: one that begins in the prefix was missed, so the law
    of a response depended on the size of the blocks it was drawn in."""
    engine = serve(Fake(table(), make=make), seeds=False, stop=["ba"])
    law: dict[Any, float] = {}
    for (text, end), mass in as_text({tokens: math.exp(p) for tokens, p in table().enumerate().items()}).items():
        name = (text[: text.find("ba")], "stop") if "ba" in text else (text, end)
        law[name] = law.get(name, 0.0) + mass
    drafts = [engine.start("Q?")] * 800
    for step in range(CAP):
        drafts = engine.extend(drafts, [Key(2, step, i) for i in range(800)], block)
    check_law(drafts, law, seen)
    if make == "vllm":
        for draft in drafts:
            whole = "".join(SYMBOLS[token] for token in draft.tokens)
            assert whole.find("ba") in (-1, len(whole) - 2), "nothing is kept beyond the token that completes a stop string"
            assert draft.logq is not None
            assert len(draft.logq) == len(draft.tokens)


def test_cut_drafts_go_on_from_their_tokens(serve: Callable[..., Any]) -> None:
    fake = Fake(table())
    engine = serve(fake)
    [done] = [draft for draft in draw(engine, 30) if len(draft.tokens) == CAP][:1]
    cut = done.cut(2)
    [same] = engine.extend([cut], [Key(0)], 0)
    assert (same.text, same.finish, same.tokens) == (done.text[:2], None, cut.tokens)
    [longer] = engine.extend([cut], [Key(5)], 1)
    assert longer.tokens[:2] == cut.tokens
    assert longer.text.startswith(done.text[:2])
    assert fake.requests("/v1/completions")[-1]["prompt"][-2:] == list(cut.tokens)
    assert fake.requests("/v1/completions")[-1]["max_tokens"] == 1
    full = Draft("Q?", (0,) * CAP, (0.0,) * CAP)
    assert engine.extend([done, full], [Key(0)] * 2) == [done, Draft("Q?", full.tokens, full.logq, "a" * CAP, "length")]
    with pytest.raises(ValueError, match="tokens=-1"):
        engine.extend([cut], [Key(0)], -1)


def test_prompts_take_the_models_template_or_none(serve: Callable[..., Any]) -> None:
    fake = Fake(table())
    draw(serve(fake, system="Be brief."), 1)
    sent = fake.requests("/v1/completions")[-1]["prompt"]
    assert "".join(chr(token - PROMPT) for token in sent) == "<SYSTEM>Be brief.<USER>Q?<:>"
    bare = Fake(table())
    draw(serve(bare, template=False), 1)
    assert bare.requests("/v1/completions")[-1]["prompt"] == [PROMPT + ord(letter) for letter in "Q?"]
    llama = Fake(table(), make="llamacpp")
    draw(serve(llama), 1)
    assert llama.requests("/v1/completions")[-1]["prompt"] == "<USER>Q?<:>"


def test_strings_as_tokens_are_the_same_in_every_process_and_know_their_text(serve: Callable[..., Any]) -> None:
    one, two = (serve(Fake(table(), make="other"), template=False) for _ in range(2))
    assert one.can == {"continue"}
    drafts = draw(one, 20)
    assert drafts == draw(two, 20)
    assert all(draft.logq is None and one.server.text(draft.tokens) == draft.text for draft in drafts)
    stranger = Draft("Q?", (12345,), None)
    with pytest.raises(ValueError, match="12345 was not drawn by this engine"):
        one.extend([stranger], [Key(0)])


# ------------------------------------------------------------------------------------------------------------ chat


@pytest.mark.parametrize("fake", [Fake(table(), make="other"), Fake(table(), completions=False)], ids=["hosted", "chat only"])
def test_a_chat_server_answers_whole(serve: Callable[..., Any], fake: Fake) -> None:
    engine = serve(fake, seeds=False)
    assert "continue" not in engine.can
    target = Target(engine, lambda _, drafts: [1.0] * len(drafts), 1.0)
    law = as_text({tokens: math.exp(p) for tokens, p in table().enumerate().items()})
    *_, last = Independent(800)(target, "Q?", Key(0))
    check_law(last.drafts, law, seen)
    assert fake.requests("/v1/chat/completions")[-1]["messages"] == [{"role": "user", "content": "Q?"}]
    for sampler in (ETS(candidates=2, block=2), SuffixMCMC(steps=2)):
        with pytest.raises(CapabilityError, match=r"'continue'.* is missing"):
            sample(target, "Q?", sampler)
    with pytest.raises(CapabilityError, match="gives whole answers"):
        draw(engine, 1, 2)
    with pytest.raises(CapabilityError, match="gives whole answers"):
        engine.extend([Draft("Q?", (1,))], [Key(0)])


def test_modes_that_a_server_does_not_have_are_refused(serve: Callable[..., Any]) -> None:
    with pytest.raises(ModelError, match="no /completions"):
        serve(Fake(table(), make="llamacpp", completions=False), mode="completions")
    with pytest.raises(ModelError, match=r"no way to apply the model's chat template.*template=False"):
        serve(Fake(table(), make="other"), mode="completions")
    with pytest.raises(ModelError, match="no /chat/completions"):
        serve(Fake(table(), chat=False), mode="chat")
    with pytest.raises(ValueError, match="always applies its chat template"):
        serve(Fake(table()), mode="chat", template=False)
    with pytest.raises(ValueError, match="top_k=5 is not part of OpenAI's protocol"):
        serve(Fake(table(), make="other"), top_k=5)
    assert serve(Fake(table(), make="other"), top_k=5, make="sglang").sampling.top_k == 5


# ------------------------------------------------------------------------------------------- requests and their cost


def test_copies_of_a_prefix_are_one_request_without_seeds(serve: Callable[..., Any]) -> None:
    fake = Fake(table())
    engine = serve(fake, seeds=False)
    assert "seed" not in engine.can
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


# ------------------------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize("failure", [(500, {}, "oops"), (429, {}, {"error": {"message": "slow"}}), "reset", (503, {}, "")])
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
    with pytest.raises(ModelError, match=r"asks to wait 4000 seconds .*quota of the day"):
        draw(engine, 1)
    fake.failures.append((429, {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, ""))
    assert draw(engine, 1)


def test_a_server_that_goes_on_failing_is_one_error(serve: Callable[..., Any]) -> None:
    fake = Fake(table())
    engine = serve(fake, attempts=3)
    engine.start("Q?")
    fake.failures.extend([(500, {}, {"error": {"message": "broken"}})] * 3)
    with pytest.raises(ModelError, match=r"no answer after 3 attempts: .*answers 500 \(broken\)"):
        draw(engine, 1)
    assert draw(engine, 1), "the next call starts anew"
    fake.failures.append((429, {}, {"error": {"message": "pay first", "code": "insufficient_quota"}}))
    with pytest.raises(ModelError, match="pay first"):
        draw(engine, 1)
    assert not fake.failures


def test_a_slow_server_times_out(serve: Callable[..., Any]) -> None:
    fake = Fake(table())
    engine = serve(fake, timeout=0.2, attempts=2)
    engine.start("Q?")
    fake.failures.extend([0.5, 0.5])
    with pytest.raises(ModelError, match=r"did not answer within 0\.2 seconds .*longer timeout"):
        draw(engine, 1)
    fake.failures.append(0.4)
    assert draw(engine, 1)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("<html>hello</html>", "is no JSON object: it does not speak"),
        ({"choices": []}, "no usage"),
        ({"choices": [], "usage": {"prompt_tokens": 1}}, "0 responses instead of 1"),
        ({"choices": [{"text": "x"}], "usage": {"prompt_tokens": 1}}, "finish_reason"),
        ({"choices": [{"text": "x", "finish_reason": "stop"}], "usage": {"prompt_tokens": 1}}, "None token ids"),
        ({"choices": [{"text": "x", "finish_reason": "strange"}], "usage": {"prompt_tokens": 1}}, "strange"),
    ],
)
def test_malformed_answers_are_told(serve: Callable[..., Any], body: Any, message: str) -> None:
    fake = Fake(table())
    engine = serve(fake)
    engine.start("Q?")
    fake.failures.append((200, {}, body))
    with pytest.raises(ModelError, match=message):
        draw(engine, 1)


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
    engine.start("Q?")
    fake.failures.append(
        (
            200,
            {},
            {"choices": [{"text": "", "finish_reason": "content_filter"}], "usage": {"prompt_tokens": 1, "completion_tokens": 0}},
        )
    )
    with pytest.raises(PromptError, match="content filter"):
        draw(engine, 1)


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
    with pytest.raises(ValueError, match="a system text needs the chat template"):
        serve(Fake(table()), system="x", template=False)
    with pytest.raises(ValueError, match="server's own choice"):
        load_from("http://localhost:1/v1", dtype="bfloat16")


def test_a_missing_package_names_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exptilt.engines.requirements.importlib.util.find_spec", lambda _: None)
    with pytest.raises(ModelError, match=r"needs httpx2, .*pip install 'exptilt\[openai\]'"):
        load("openai:x", base_url="http://localhost:1/v1")


# -------------------------------------------------------------------------------------------------- several servers


def test_several_servers_share_the_load_and_a_dead_one_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    one, two = Fake(table(), delay=0.002), Fake(table(), delay=0.002)
    with ExitStack() as stack:
        first, dying = ExitStack(), ExitStack()
        stack.enter_context(first)
        stack.enter_context(dying)
        urls = [first.enter_context(serving(one)), dying.enter_context(serving(two))]
        engine = load_from(",".join(urls))
        stack.callback(engine.server.close)
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
        stack.callback(engine.server.close)
        stack.callback(alone.server.close)
        asked = len(dying.requests("/v1/completions"))  # while the engine was loaded

        def reward(_: str, drafts: Sequence[Draft]) -> list[float]:
            if len(dying.requests("/v1/completions")) > asked + 20:
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
        with pytest.raises(ModelError, match="drafts of one engine must come from one law"):
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
            with pytest.raises(ModelError) as caught:
                draw(engine, 1)
            told.append(str(caught.value))
            fake.failures.clear()
        fake.failures.append((200, {}, f"not json {SECRET}"))
        with pytest.raises(ModelError) as caught:
            draw(engine, 1)
        told.append(str(caught.value))
    told.append(caplog.text)
    assert len(caplog.records) > 5
    assert not any(SECRET in text for text in told)
    assert "refuses the key in OPENAI_API_KEY (status 401): set OPENAI_API_KEY" in "".join(told)


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
    assert colder.server is engine.server
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
