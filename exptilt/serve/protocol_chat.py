"""`/v1/chat/completions`: requests and answers as OpenAI's API writes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from exptilt.draft import Chat
from exptilt.running.result import Partial
from exptilt.serve import asked
from exptilt.serve.answers import Answer, Event, Head, data, tokens_used
from exptilt.serve.asked import STRICT, Asked, Changes, StreamOptions, only
from exptilt.serve.refusals import Refusal

Role = Literal["system", "developer", "user", "assistant"]


class TextPart(BaseModel):
    """A part of a message."""

    model_config = STRICT
    type: Literal["text"]
    text: str


class Message(BaseModel):
    """A turn of the conversation; a last one of the assistant is the start of the answer."""

    model_config = STRICT
    role: Role
    content: str | list[TextPart]

    @property
    def turn(self) -> dict[str, str]:
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class TextFormat(BaseModel):
    """The form of the answer."""

    model_config = STRICT
    type: Literal["text"]


class Continuing(BaseModel):
    """How vLLM's clients say whether the last message is continued; some send it inside of a field `extra_body`, too."""

    model_config = STRICT
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    include_stop_str_in_output: Annotated[bool, only(False)] | None = None

    def check(self, prefilled: bool) -> None:
        """Raises Refusal where it is not as the last message says."""
        for name, wanted in (("continue_final_message", prefilled), ("add_generation_prompt", not prefilled)):
            if getattr(self, name) not in (None, wanted):
                raise Refusal(
                    f"{name} must be {str(wanted).lower()} here: a last message of the assistant is continued, and no other",
                    param=name,
                    code="invalid_value",
                )


class ChatRequest(BaseModel):
    """A conversation to be continued."""

    model_config = STRICT
    model: asked.Model
    messages: Annotated[list[Message], Field(min_length=1)]
    n: asked.Count | None = None
    temperature: asked.Temperature | None = None
    top_p: asked.TopP | None = None
    max_tokens: asked.Count | None = None
    max_completion_tokens: asked.Count | None = None
    stop: asked.Stop | None = None
    seed: asked.Seed | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    exptilt: Changes | None = None
    user: str | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=0)] | None = None
    frequency_penalty: asked.Penalty | None = None
    presence_penalty: asked.Penalty | None = None
    logit_bias: asked.Biases | None = None
    response_format: TextFormat | None = None
    tools: asked.NoneOf | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    store: Annotated[bool, only(False)] | None = None
    service_tier: Literal["auto", "default"] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    include_stop_str_in_output: Annotated[bool, only(False)] | None = None
    extra_body: Continuing | None = None

    def read(self) -> Asked:
        """The request in exptilt's words. Raises Refusal or PromptError."""
        if self.max_tokens and self.max_completion_tokens and self.max_tokens != self.max_completion_tokens:
            raise Refusal(
                "max_tokens and max_completion_tokens differ: give one of them", param="max_tokens", code="invalid_value"
            )
        own = Continuing(add_generation_prompt=self.add_generation_prompt, continue_final_message=self.continue_final_message)
        for each in (own, self.extra_body or own):
            each.check(prefilled=self.messages[-1].role == "assistant")
        return Asked(
            model=self.model,
            prompts=(Chat.of([message.turn for message in self.messages]),),
            sampling=asked.sampling_of(
                temperature=self.temperature,
                top_p=self.top_p,
                max_tokens=self.max_completion_tokens or self.max_tokens,
                stop=asked.stops(self.stop),
                frequency_penalty=self.frequency_penalty,
                presence_penalty=self.presence_penalty,
                logit_bias=self.logit_bias,
            ),
            n=self.n or 1,
            seed=self.seed,
            stream=bool(self.stream),
            logprobs=bool(self.logprobs),
            changes=self.exptilt.given if self.exptilt else {},
            budget=self.exptilt.budget.given if self.exptilt and self.exptilt.budget else {},
            usage=bool(self.stream_options and self.stream_options.include_usage),
        )


class ChatProtocol:
    """Answers as chat completions."""

    prefix = "chatcmpl"
    grows = False

    def answer(self, head: Head, answers: Sequence[Answer]) -> dict[str, Any]:
        choices = [
            {
                "index": answer.index,
                "message": {"role": "assistant", "content": answer.text, "refusal": None},
                "logprobs": None if answer.tokens is None else {"content": answer.tokens, "refusal": None},
                "finish_reason": answer.finish,
                **({"exptilt": answer.found} if len(answers) > 1 else {}),
            }
            for answer in answers
        ]
        return {
            **self._head(head, "chat.completion"),
            "choices": choices,
            "usage": _usage(answers),
            "exptilt": head.found(answers),
        }

    def begin(self, head: Head, index: int) -> list[Event]:
        return [data(self._chunk(head, index, {"role": "assistant", "content": ""}))]

    def delta(self, head: Head, index: int, text: str) -> list[Event]:
        return [data(self._chunk(head, index, {"content": text}))]

    def partial(self, head: Head, index: int, partial: Partial) -> list[Event]:
        return []

    def growth(self, head: Head, index: int, trace: object) -> list[Event]:
        return []

    def finish(self, head: Head, answer: Answer, rest: str) -> list[Event]:
        """The end of one choice. rest: what was not sent yet of its text."""
        logprobs = None if answer.tokens is None else {"content": answer.tokens, "refusal": None}
        events = [data(self._chunk(head, answer.index, {"content": rest}, logprobs=logprobs))] if rest or logprobs else []
        return [*events, data({**self._chunk(head, answer.index, {}, answer.finish), "exptilt": answer.found})]

    def end(self, head: Head, answers: Sequence[Answer]) -> list[Event]:
        events = []
        if head.asked.usage:
            events.append(data({**self._head(head, "chat.completion.chunk"), "choices": [], "usage": _usage(answers)}))
        return [*events, Event("[DONE]")]

    def error(self, head: Head, refusal: Refusal) -> list[Event]:
        return [data(refusal.body)]

    def _head(self, head: Head, kind: str) -> dict[str, Any]:
        return {"id": head.id, "object": kind, "created": head.created, "model": head.asked.model, "system_fingerprint": None}

    def _chunk(
        self, head: Head, index: int, delta: dict[str, Any], finish: str | None = None, logprobs: Any = None
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        usage = {"usage": None} if head.asked.usage else {}
        return {**self._head(head, "chat.completion.chunk"), "choices": [choice], **usage}


def _usage(answers: Sequence[Answer]) -> dict[str, int]:
    prompt, completion = tokens_used(answers)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
