"""`/v1/completions`: texts to be continued as they are, without a chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, Field

from exptilt.running.result import Partial
from exptilt.serve import asked
from exptilt.serve.answers import Answer, Event, Head, data, tokens_used
from exptilt.serve.asked import STRICT, Asked, Changes, StreamOptions, only
from exptilt.serve.refusals import Refusal


class CompletionRequest(BaseModel):
    """Texts to be continued; several are answered in their order."""

    model_config = STRICT
    model: asked.Model
    prompt: asked.Text | Annotated[list[asked.Text], Field(min_length=1)]
    n: asked.Count | None = None
    temperature: asked.Temperature | None = None
    top_p: asked.TopP | None = None
    max_tokens: asked.Count | None = None
    stop: asked.Stop | None = None
    seed: asked.Seed | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: Annotated[int, Field(ge=0, le=0, description="0 for the tokens of the answer")] | None = None
    exptilt: Changes | None = None
    user: str | None = None
    best_of: Annotated[int, Field(ge=1, le=1)] | None = None
    echo: Annotated[bool, only(False)] | None = None
    suffix: Annotated[str, Field(max_length=0)] | None = None
    frequency_penalty: asked.Penalty | None = None
    presence_penalty: asked.Penalty | None = None
    logit_bias: asked.Biases | None = None

    def read(self) -> Asked:
        """The request in exptilt's words."""
        return Asked(
            model=self.model,
            prompts=(self.prompt,) if isinstance(self.prompt, str) else tuple(self.prompt),
            sampling=asked.sampling_of(
                temperature=self.temperature,
                top_p=self.top_p,
                max_tokens=self.max_tokens,
                stop=asked.stops(self.stop),
                frequency_penalty=self.frequency_penalty,
                presence_penalty=self.presence_penalty,
                logit_bias=self.logit_bias,
            ),
            n=self.n or 1,
            seed=self.seed,
            stream=bool(self.stream),
            logprobs=self.logprobs is not None,
            changes=self.exptilt.given if self.exptilt else {},
            budget=self.exptilt.budget.given if self.exptilt and self.exptilt.budget else {},
            raw=True,
            usage=bool(self.stream_options and self.stream_options.include_usage),
            where="prompt",
        )


class CompletionProtocol:
    """Answers as text completions."""

    prefix = "cmpl"
    grows = False

    def answer(self, head: Head, answers: Sequence[Answer]) -> dict[str, Any]:
        choices = [
            {
                **_choice(answer.index, answer.text, answer.finish, _logprobs(answer)),
                **({"exptilt": answer.found} if len(answers) > 1 else {}),
            }
            for answer in answers
        ]
        return {**_head(head), "choices": choices, "usage": _usage(answers), "exptilt": head.found(answers)}

    def begin(self, head: Head, index: int) -> list[Event]:
        return []

    def delta(self, head: Head, index: int, text: str) -> list[Event]:
        return [data({**_head(head), "choices": [_choice(index, text)]})]

    def partial(self, head: Head, index: int, partial: Partial) -> list[Event]:
        return []

    def growth(self, head: Head, index: int, trace: object) -> list[Event]:
        return []

    def finish(self, head: Head, answer: Answer, rest: str) -> list[Event]:
        """The end of one choice. rest: what was not sent yet of its text."""
        choice = _choice(answer.index, rest, answer.finish, _logprobs(answer))
        return [data({**_head(head), "choices": [choice], "exptilt": answer.found})]

    def end(self, head: Head, answers: Sequence[Answer]) -> list[Event]:
        usage = [data({**_head(head), "choices": [], "usage": _usage(answers)})] if head.asked.usage else []
        return [*usage, Event("[DONE]")]

    def error(self, head: Head, refusal: Refusal) -> list[Event]:
        return [data(refusal.body)]


def _head(head: Head) -> dict[str, Any]:
    return {"id": head.id, "object": "text_completion", "created": head.created, "model": head.asked.model}


def _choice(index: int, text: str, finish: str | None = None, logprobs: Any = None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}


def _logprobs(answer: Answer) -> dict[str, Any] | None:
    """The tokens with their log-probabilities, in the older of the two forms."""
    if answer.tokens is None:
        return None
    texts = [token["token"] for token in answer.tokens]
    starts = [sum(map(len, texts[:number])) for number in range(len(texts))]
    values = [token["logprob"] for token in answer.tokens]
    return {"tokens": texts, "token_logprobs": values, "top_logprobs": None, "text_offset": starts}


def _usage(answers: Sequence[Answer]) -> dict[str, int]:
    prompt, completion = tokens_used(answers)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
