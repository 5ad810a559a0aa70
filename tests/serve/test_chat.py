"""Chat completions by OpenAI's own client: answers are those of `exptilt.sample`, streamed or not, whoever else asks."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

import exptilt as xt
from exptilt import names
from exptilt.draft import Chat
from exptilt.running.run import stream
from exptilt.serve.plan import plan
from exptilt.serve.recipes import rows
from tests.serve.served import TABLE, USER, catalogue, heads, recipe

TARGET = xt.Target(TABLE, heads, 0.5)
PROMPT = Chat.of(USER)


def ask(client: openai.OpenAI, **more: Any) -> Any:
    return client.chat.completions.create(**{"model": "table", "messages": USER, "seed": 5, **more})


def test_an_answer_is_that_of_sample_with_what_it_found(client: openai.OpenAI) -> None:
    said = ask(client)
    wanted = xt.sample(TARGET, PROMPT, xt.ETS(4, block=2), seed=5)
    assert said.choices[0].message.content == wanted.text
    assert said.choices[0].finish_reason == wanted.draft.finish
    found = said.model_extra["exptilt"]
    assert found["log_z"] == pytest.approx(wanted.log_z)
    assert found["ess"] == pytest.approx(wanted.population.ess)
    assert (found["reward"], found["seed"], found["stopped"]) == (wanted.reward, 5, "done")
    assert found["cost"]["generated"] == wanted.usage.reference.generated > 0
    assert said.usage.completion_tokens == len(wanted.draft.tokens)


def test_other_seeds_give_other_answers_and_no_seed_any(client: openai.OpenAI) -> None:
    """A server that took 0 for a seed that is not given would give everyone the same answer."""
    assert len({ask(client, seed=seed).choices[0].message.content for seed in range(12)}) > 3
    assert len({ask(client, seed=openai.omit).model_extra["exptilt"]["seed"] for _ in range(3)}) == 3


def test_a_stream_says_the_same_and_ends_with_what_was_found(client: openai.OpenAI) -> None:
    whole = ask(client)
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == whole.choices[0].finish_reason
    assert chunks[-1].usage == whole.usage
    assert chunks[-2].model_extra["exptilt"]["log_z"] == whole.model_extra["exptilt"]["log_z"]
    assert {chunk.id for chunk in chunks} == {chunks[0].id}


@pytest.mark.parametrize("streamed", [False, True])
def test_several_answers_are_those_of_a_run_of_equal_prompts(client: openai.OpenAI, streamed: bool) -> None:
    wanted = xt.run(TARGET, [PROMPT] * 3, xt.ETS(4, block=2), seed=5)
    if streamed:
        texts = [""] * 3
        for chunk in ask(client, n=3, stream=True):
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
    else:
        texts = [choice.message.content for choice in ask(client, n=3).choices]
    assert texts == [outcome.text for outcome in wanted if isinstance(outcome, xt.Result)]
    assert len(set(texts)) > 1


def test_answers_are_the_same_beside_31_others(client: openai.OpenAI) -> None:
    alone = [ask(client, seed=seed).choices[0].message.content for seed in range(32)]
    with ThreadPoolExecutor(32) as pool:
        together = list(pool.map(lambda seed: ask(client, seed=seed).choices[0].message.content, range(32)))
    assert together == alone


def test_ready_made_models_and_samplers_of_a_request(client: openai.OpenAI) -> None:
    best = xt.sample(TARGET, PROMPT, xt.Independent(16), select=xt.best, seed=5)
    assert ask(client, model="table@bon16").choices[0].message.content == best.text
    same = ask(client, extra_body={"exptilt": {"sampler": "independent", "n": 16, "select": "best"}})
    assert same.choices[0].message.content == best.text
    assert ask(client, model="table@bon3").model_extra["exptilt"]["drafts"] == 3
    plain = xt.sample(xt.Target(TABLE, xt.rewards.Zero(), 1.0), PROMPT, xt.Independent(1), seed=5)
    assert ask(client, model="table@plain").choices[0].message.content == plain.text
    votes = ask(client, model="table@majority", extra_body={"exptilt": {"answer": "exact"}}).model_extra["exptilt"]
    assert sum(share for _, share in votes["posterior"]) == pytest.approx(1)


def test_sampling_parameters_beta_and_stop_rules_reach_the_run(client: openai.OpenAI) -> None:
    asked = {"sampler": "independent", "n": 64, "batch": 4, "beta": 0.1, "until": "reward:3", "select": "best"}
    said = ask(client, temperature=0.7, max_tokens=4, extra_body={"exptilt": asked})
    target = xt.Target(TABLE.with_sampling(temperature=0.7, max_tokens=4), heads, 0.1)
    wanted = xt.sample(target, PROMPT, xt.Independent(64, 4), select=xt.best, until=xt.until.reward(3), seed=5)
    assert said.choices[0].message.content == wanted.text
    assert (said.model_extra["exptilt"]["stopped"], said.model_extra["exptilt"]["limit"]) == ("until", wanted.limit)


def test_a_budget_is_the_lowest_of_the_server_s_the_request_s_and_the_header_s(client: openai.OpenAI) -> None:
    asked = {"sampler": "independent", "n": 64, "batch": 4, "budget": {"tokens": 100}}
    said = ask(client, extra_body={"exptilt": asked}, extra_headers={"x-exptilt-budget": "tokens=40, seconds=100"})
    assert said.model_extra["exptilt"]["stopped"] == "budget"
    assert said.model_extra["exptilt"]["limit"].startswith("tokens: 36 of 40, ")
    assert ask(client, extra_body={"exptilt": asked}).model_extra["exptilt"]["limit"].startswith("tokens: 83 of 100, ")


def test_the_models_are_listed_and_found(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["table", "table@plain", "table@majority", "table@bon16", "table@ets"]
    assert client.models.retrieve("table@ets4").id == "table@ets4"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")
    with pytest.raises(openai.NotFoundError, match="Did you mean table@majority"):
        ask(client, model="table@majorty")


def test_every_stream_of_a_plan_is_the_public_one() -> None:
    """What the server runs is `exptilt.stream`, so its results are not a copy that could drift."""
    from exptilt.serve.asked import Asked

    made = plan(Asked("table", (PROMPT,), seed=5, n=2), None, catalogue(usual=recipe("smc", particles=4, block=1)), _limits())
    wanted = stream(TARGET, PROMPT, xt.SMC(4, block=1), seed=5, occurrence=1).result()
    assert made.begin(1, _Never()).result().text == wanted.text


@pytest.mark.parametrize("name", [*names.SAMPLERS.names, *names.ALIASES])
def test_no_sampler_draws_more_at_once_than_a_request_is_charged_for(name: str) -> None:
    """Admission by memory, and the cap on rows, depend on what the names of a sampler's settings tell."""
    most = 0

    class Counting:
        """The table, which counts the rows of its calls."""

        def __getattr__(self, attribute: str) -> Any:
            return getattr(TABLE, attribute)

        can, metered = TABLE.can, lambda self, work: self

        def extend(self, drafts: Any, keys: Any, tokens: Any = None) -> Any:
            nonlocal most
            most = max(most, len(drafts))
            return TABLE.extend(drafts, keys, tokens)

    chosen = names.choose_sampler(name)
    small = {"n": 6, "steps": 3, "draws": 2, "limit": 500, "reward_max": 5.0, "block": 2}
    sampler = chosen.make({key: value for key, value in small.items() if key in chosen.settings})
    xt.sample(xt.Target(Counting(), heads, 5.0), PROMPT, sampler, seed=1)  # pyright: ignore[reportArgumentType]
    assert 1 <= most <= rows(sampler)


class _Never:
    def is_set(self) -> bool:
        return False


def _limits() -> Any:
    from tests.serve.served import CONFIG

    return CONFIG.limits
