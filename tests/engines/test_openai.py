"""Engines behind a server: the law over HTTP is the table's law."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from exptilt.core import Target
from exptilt.draft import Draft
from exptilt.errors import CapabilityError, ModelError
from exptilt.keys import Key
from exptilt.running.run import sample
from exptilt.samplers import ETS, Independent, SuffixMCMC
from exptilt.testing.enumeration import gamma
from exptilt.testing.toys import reward_of
from exptilt.usage import Work
from tests.engines.fake_server import PROMPT, Fake
from tests.engines.laws import check_law
from tests.engines.served import CAP, END, SYMBOLS, as_text, draw, seen, table

pytest.importorskip("httpx2")


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
    assert engine.can == {"continue", "logq", "score"}
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
    different = {(draft.tokens, start) for draft, start, count in zip(drafts, starts, wanted, strict=True) if count}
    assert len(fake.seen) - before == len(different) < sum(count > 0 for count in wanted), "equal drafts are asked for once"
    assert {body["prompt_logprobs"] for _, body, _ in fake.seen[before:]} == {0}, "of the given tokens alone"
    assert work.scored == sum(wanted)


@pytest.mark.parametrize("changes", [{"temperature": 0.7}, {"top_k": 2}, {"top_p": 0.8, "temperature": 1.5}])
def test_other_laws_are_sent_whole_and_their_logq_needs_processed_log_probabilities(
    serve: Callable[..., Any], changes: dict[str, Any]
) -> None:
    """vLLM tells log-probabilities before temperature and truncation unless started otherwise: weights of another law."""
    raw = serve(Fake(table()), **changes)
    assert raw.can == {"continue"}
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
    fake.seen.clear()
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
    assert all(draft.logq is None and one.backend.text.decode([draft.tokens]) == [draft.text] for draft in drafts)
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
