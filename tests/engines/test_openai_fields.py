"""What is sent to which server, measured when it is loaded; and what servers tell of tokens, checked where it enters."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from exptilt.engines.openai.limits import check_sampling
from exptilt.engines.openai.wire import law_fields
from exptilt.engines.sampling import Sampling
from exptilt.errors import AnswerError, ModelError, PromptError
from tests.engines.fake_server import Fake, Habit
from tests.engines.served import CAP, draw, table

pytest.importorskip("httpx2")

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def no(said: str, status: int = 400) -> Any:
    return status, {}, {"error": {"message": said}}


# -------------------------------------------------------------------------------------------------- fields, measured


def refusing_seeds(path: str, body: dict[str, Any], answer: Any) -> Any:
    return no("unknown field seed", 422) if "seed" in body else None


def refusing_copies(path: str, body: dict[str, Any], answer: Any) -> Any:
    return no("n must be 1") if body.get("n", 1) > 1 else None


@pytest.mark.parametrize("make", ["vllm", "llamacpp", "other"])
@pytest.mark.parametrize("seeds", [True, False])
def test_a_server_that_refuses_seeds_is_asked_without(
    serve: Callable[..., Any], make: str, seeds: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The first request failed, and with it the run."""
    fake = Fake(table(), make=make, habit=refusing_seeds)
    engine = serve(fake, seeds=seeds)
    assert not engine.backend.server.abilities.seed
    assert "refuses seeds" in caplog.text
    fake.seen.clear()
    assert len(draw(engine, 6)) == 6
    asked = fake.requests(CHAT if make == "other" else COMPLETIONS)
    assert not any("seed" in body for body in asked)
    assert [body.get("n", 1) for body in asked] == ([1] * 6 if seeds else [6])


def ignoring_n(path: str, body: dict[str, Any], answer: Any) -> Any:
    return (200, {}, answer | {"choices": answer["choices"][-1:]}) if body.get("n", 1) > 1 else None


def doubling(path: str, body: dict[str, Any], answer: Any) -> Any:
    """All responses get the index 0."""
    return (200, {}, answer | {"choices": [each | {"index": 0} for each in answer["choices"]]}) if body.get("n", 1) > 1 else None


@pytest.mark.parametrize("make", ["vllm", "other"])
@pytest.mark.parametrize("habit", [refusing_copies, ignoring_n, doubling])
def test_a_server_that_gives_no_copies_works_by_single_requests(serve: Callable[..., Any], make: str, habit: Habit) -> None:
    fake = Fake(table(), make=make, habit=habit)
    engine = serve(fake, seeds=False)
    fake.seen.clear()
    assert len({draft.text for draft in draw(engine, 30)}) > 3
    bodies = [body for path, body, _ in fake.seen if path in (CHAT, COMPLETIONS)]
    assert len(bodies) == 30
    assert not any("n" in body for body in bodies)


def test_more_copies_than_a_server_gives_are_asked_for_in_parts(serve: Callable[..., Any]) -> None:
    fake = Fake(table(), make="other", habit=lambda path, body, answer: no("n: at most 4") if body.get("n", 1) > 4 else None)
    engine = serve(fake, seeds=False)
    fake.seen.clear()
    assert len(draw(engine, 11)) == 11
    taken = [body.get("n", 1) for body in fake.requests(CHAT) if body.get("n", 1) <= 4]
    assert sum(taken) == 11
    assert max(taken) <= 4


def test_fields_that_are_off_are_not_sent_to_a_server_of_unknown_make(serve: Callable[..., Any]) -> None:
    fake = Fake(table(), make="other")
    engine = serve(fake, seeds=False)
    draw(engine, 1)
    assert fake.requests(CHAT)[-1].keys() == {"model", "messages", "temperature", "max_tokens"}
    draw(engine.with_sampling(top_p=0.9, stop=["b"]), 3)
    assert fake.requests(CHAT)[-1].keys() == {"model", "messages", "temperature", "max_tokens", "top_p", "stop", "n"}


@pytest.mark.parametrize("lowest", [1, 16, 1024])
@pytest.mark.parametrize("cap", ["max_tokens", "max_completion_tokens"])
def test_the_cap_has_the_name_and_the_size_that_a_server_takes(serve: Callable[..., Any], cap: str, lowest: int) -> None:
    """A trial by a single token kept out models that think before they answer."""
    other = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}[cap]

    def habit(path: str, body: dict[str, Any], answer: Any) -> Any:
        if path != CHAT:
            return None
        if other in body:
            return no(f"unknown field {other}")
        return no("ended before any text") if body[cap] < lowest else None

    fake = Fake(table(), make="other", habit=habit, context=2000)
    engine = serve(fake, max_tokens=max(CAP, lowest))
    assert engine.backend.server.abilities.cap == cap
    assert draw(engine, 1)


def test_a_server_that_refuses_every_request_is_refused_in_its_words(serve: Callable[..., Any]) -> None:
    habit: Habit = lambda path, body, answer: no("this model is asleep") if path == CHAT else None  # noqa: E731
    for context in (200, 2000):
        with pytest.raises(ModelError, match=r"cannot be used: .*this model is asleep"):
            serve(Fake(table(), make="other", habit=habit, context=context))


def test_an_odd_list_of_models_does_not_matter(serve: Callable[..., Any]) -> None:
    for body in ([{"id": "table"}], {"data": None}, {"data": ["table"]}, "busy"):
        fake = Fake(
            table(), make="other", habit=lambda path, *_, body=body: (200, {}, body) if path.endswith("/models") else None
        )
        assert draw(serve(fake), 1)


# ---------------------------------------------------------------------------------------------- template variables


@pytest.mark.parametrize(("make", "path"), [("vllm", "/tokenize"), ("llamacpp", "/apply-template"), ("other", CHAT)])
def test_template_variables_go_where_the_template_is_applied(serve: Callable[..., Any], make: str, path: str) -> None:
    """They went to the request that draws, whose server ignored them: a model that was not to think did."""
    fake = Fake(table(), make=make)
    engine = serve(fake, extra={"chat_template_kwargs": {"enable_thinking": False}, "user": "me"})
    plain = serve(fake)
    fake.seen.clear()
    draw(engine, 2)
    draw(plain, 1)
    variables = [body.get("chat_template_kwargs") for where, body, _ in fake.seen if where == path]
    assert variables == [{"enable_thinking": False}] * (2 if make == "other" else 1) + [None], "and prompts are kept apart"
    drawing = [body for where, body, _ in fake.seen if where in (COMPLETIONS, CHAT)]
    assert [body.get("user") for body in drawing] == ["me", "me", None]
    assert [body for body in drawing if "chat_template_kwargs" in body] == (drawing[:2] if make == "other" else [])


def test_template_variables_do_not_change_what_an_engine_can(serve: Callable[..., Any]) -> None:
    fake = Fake(table())
    assert serve(fake, extra={"chat_template_kwargs": {"a": 1}}).can == serve(fake).can
    with pytest.raises(ValueError, match="chat_template_kwargs, which the chat template reads"):
        serve(fake, extra={"chat_template_kwargs": {}}, template=False)
    with pytest.raises(ValueError, match="not JSON compliant"):
        serve(fake, extra={"bias": float("nan")})


# ------------------------------------------------------------------------------------------ tokens and probabilities


def told(**fields: Any) -> Habit:
    """Changes what is told of the tokens of each response; a function changes what is there."""

    def habit(path: str, body: dict[str, Any], answer: Any) -> Any:
        if path != COMPLETIONS:
            return None
        answer = json.loads(json.dumps(answer))
        for each in answer["choices"]:
            for where in (each, each["logprobs"]):
                for name, change in fields.items():
                    if name in where:
                        where[name] = change(where[name]) if callable(change) else change
        return 200, {}, answer

    return habit


LOGPROBS = {
    "nan": (lambda values: [float("nan")] * len(values), "token 0 the log-probability nan"),
    "minus infinity": (lambda values: [float("-inf")] * len(values), "token 0 the log-probability -inf"),
    "what stands for it": (lambda values: [-9999.0] * len(values), "token 0 the log-probability -inf"),
    "positive": (lambda values: [0.5] * len(values), r"token 0 the log-probability 0\.5"),
    "null": (lambda values: [None] * len(values), "token 0 the log-probability nan"),
    "text": (lambda values: ["-0.1"] * len(values), "token 0 the log-probability nan"),
    "too few": (lambda values: values[:-1], r"\d token_logprobs for \d token ids"),
    "too many": (lambda values: [*values, -1.0], r"\d token_logprobs for \d token ids"),
    "none": (None, "0 token_logprobs for"),
    "a number": (3, "cannot be used"),
}


@pytest.mark.parametrize("kind", LOGPROBS)
def test_odd_log_probabilities_are_refused_where_they_enter(serve: Callable[..., Any], kind: str) -> None:
    """They went into drafts, and made weights that were NaN, infinite or of another distribution."""
    change, said = LOGPROBS[kind]
    fake = Fake(table())
    engine = serve(fake)
    fake.habit = told(token_logprobs=change)
    with pytest.raises(AnswerError, match=said) as caught:
        draw(engine, 1)
    assert "token_logprobs" in str(caught.value)
    if kind != "a number":
        assert draw(engine.with_sampling(temperature=0.7), 1), "where they are not used they do not matter"


def test_a_log_probability_that_rounding_made_positive_is_zero(serve: Callable[..., Any]) -> None:
    fake = Fake(table())
    engine = serve(fake)
    fake.habit = told(token_logprobs=lambda values: [1e-6] * len(values))
    assert all(set(draft.logq or ()) == {0.0} for draft in draw(engine, 3))


@pytest.mark.parametrize("ids", [None, [], ["1"], [1.5], [-1], [True], [0] * (CAP + 1), 7, "01"], ids=str)
def test_odd_token_ids_are_refused(serve: Callable[..., Any], ids: Any) -> None:
    fake = Fake(table())
    engine = serve(fake)
    fake.habit = told(token_ids=ids)
    with pytest.raises(AnswerError, match="cannot be used"):
        draw(engine, 1)


@pytest.mark.parametrize(
    "change",
    [
        None, "text", [], lambda values: values[1:], lambda values: [None] * len(values), lambda values: [{}] * len(values),
        lambda values: [dict.fromkeys(value or ()) for value in values],
        lambda values: [{key: {"logprob": float("nan")} for key in value or ()} for value in values],
        lambda values: [{key: {"logprob": 1.0} for key in value or ()} for value in values],
    ],
)  # fmt: skip
def test_odd_ratings_are_refused(serve: Callable[..., Any], change: Any) -> None:
    fake = Fake(table())
    engine = serve(fake)
    drafts = draw(engine, 1)
    fake.habit = told(prompt_logprobs=change)
    with pytest.raises(AnswerError):
        engine.score(drafts)
    fake.habit = lambda path, *_: (200, {}, {"choices": []}) if path == COMPLETIONS else None
    with pytest.raises(AnswerError, match="no prompt_logprobs"):
        engine.score(drafts)


def test_token_strings_that_are_fewer_than_the_text_are_refused(serve: Callable[..., Any]) -> None:
    """The rest of the text counted as no token, and a draft could grow beyond its cap."""
    fake = Fake(table(), make="llamacpp")
    engine = serve(fake)

    def short(path: str, body: dict[str, Any], answer: Any) -> Any:
        if path == COMPLETIONS:
            tokens = {"content": [{"token": "a", "logprob": -1.0}]}
            return 200, {}, answer | {"choices": [{"index": 0, "text": "abab", "finish_reason": "length", "logprobs": tokens}]}

    fake.habit = short
    with pytest.raises(AnswerError, match="token strings end before the text"):
        draw(engine, 1)


@pytest.mark.parametrize("tokens", [None, "01", [1, "2"], [1.0], {"0": 1}], ids=str)
def test_prompts_that_are_encoded_oddly_fail_alone(serve: Callable[..., Any], tokens: Any) -> None:
    fake = Fake(table())
    engine = serve(fake)
    fake.habit = lambda path, *_: (200, {}, {"tokens": tokens}) if path == "/tokenize" else None
    with pytest.raises(AnswerError, match="whole numbers"):
        engine.start("Q?")
    fake.habit = lambda path, *_: no("this template takes no system text") if path == "/tokenize" else None
    with pytest.raises(PromptError, match=r"cannot encode the prompt \(this template takes no system text\)"):
        engine.start("Q?")
    fake.habit = lambda path, *_: (500, {}, "") if path == "/tokenize" else None
    with pytest.raises(AnswerError, match="no answer after"):
        engine.start("Q?")


# ------------------------------------------------------------------------------------------- penalties, bias, stop ids


@pytest.mark.parametrize("make", ["vllm", "sglang", "llamacpp", "other"])
def test_requests_name_penalties_bias_and_stop_tokens(make: Any) -> None:
    """A server of known make gets every parameter; one of unknown make those of OpenAI's protocol that are on."""
    plain = law_fields(Sampling(), make)
    assert ("repetition_penalty" in plain) == (make in ("vllm", "sglang"))
    assert not {"logit_bias", "stop_token_ids", "repeat_last_n"} & {*plain}
    assert plain.get("samplers", ["temperature", "top_k", "top_p"]) == ["temperature", "top_k", "top_p"]
    counted = law_fields(Sampling(presence_penalty=0.5, frequency_penalty=-1.0, logit_bias={7: -3}), make)
    assert (counted["presence_penalty"], counted["frequency_penalty"], counted["logit_bias"]) == (0.5, -1.0, {"7": -3.0})
    if make == "other":
        return
    more = law_fields(Sampling(min_p=0.1, repetition_penalty=1.2, stop_token_ids=[4, 3]), make)
    assert more["min_p"] == 0.1
    if make == "llamacpp":  # its default looks at the last 64 tokens, and applies penalties only where the list names them
        assert more["samplers"] == ["penalties", "temperature", "top_k", "top_p", "min_p"]
        assert (more["repeat_penalty"], more["repeat_last_n"]) == (1.2, -1)
    else:
        assert (more["repetition_penalty"], more["stop_token_ids"]) == (1.2, [3, 4])


@pytest.mark.parametrize(
    ("make", "mode", "law", "message"),
    [
        ("other", "chat", {"min_p": 0.1}, "min_p=0.1 is not part of OpenAI's protocol, .* say what the server is by make="),
        ("other", "chat", {"repetition_penalty": 1.1}, "repetition_penalty=1.1 is not part of OpenAI's protocol"),
        ("other", "chat", {"stop_token_ids": [3]}, "stop_token_ids=.* is not part of OpenAI's protocol"),
        ("other", "chat", {"top_k": 3}, "top_k=3 is not part of OpenAI's protocol"),
        ("other", "text", {"presence_penalty": 1.0}, 'count the response alone.*mode="chat"'),
        ("vllm", "ids", {"frequency_penalty": 1.0}, "count the response alone"),
        ("llamacpp", "chat", {"presence_penalty": 1.0}, "count the response alone"),
        ("sglang", "ids", {"repetition_penalty": 1.1}, "does not count the prompt with SGLang"),
        ("llamacpp", "text", {"stop_token_ids": [3]}, "takes no stop_token_ids: give their texts as stop="),
        ("vllm", "ids", {"min_p": 0.1, "top_p": 0.5}, "applies min_p before top_p"),
    ],
)
def test_what_a_server_takes_in_another_sense_is_refused(make: Any, mode: str, law: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_sampling(Sampling(**law), make, mode, "openai:model")


@pytest.mark.parametrize(
    ("make", "mode", "law"),
    [
        ("other", "chat", {"presence_penalty": 1.0, "frequency_penalty": 1.0, "logit_bias": {3: 1.0}}),
        ("vllm", "chat", {"presence_penalty": 1.0, "repetition_penalty": 1.1}),
        ("vllm", "ids", {"repetition_penalty": 1.1, "min_p": 0.1, "top_k": 5, "logit_bias": {3: 1.0}, "stop_token_ids": [4]}),
        ("llamacpp", "text", {"repetition_penalty": 1.1, "min_p": 0.1, "top_p": 0.5}),
    ],
)
def test_what_a_server_can_follow_is_taken(make: Any, mode: str, law: dict[str, Any]) -> None:
    check_sampling(Sampling(**law), make, mode, "openai:model")


def test_scores_of_a_server_are_those_of_the_plain_model_alone(serve: Callable[..., Any]) -> None:
    engine = serve(Fake(table(), make="vllm"))
    assert "score" in engine.can
    assert "score" not in engine.with_sampling(logit_bias={1: 2.0}).can
    assert "score" not in engine.with_sampling(min_p=0.1).can
    with pytest.raises(ValueError, match="count the response alone"):
        engine.with_sampling(presence_penalty=0.1)
