"""`/v1/responses`: the part of OpenAI's newer protocol that is text in and text out, with nothing kept between requests."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from exptilt.draft import Chat
from exptilt.running.result import Partial
from exptilt.serve import asked
from exptilt.serve.answers import Answer, Event, Head, data, tokens_used
from exptilt.serve.asked import STRICT, Asked, Changes, only
from exptilt.serve.refusals import Refusal


class InputText(BaseModel):
    """A part of a message."""

    model_config = STRICT
    type: Literal["input_text", "output_text", "text"]
    text: str
    annotations: asked.NoneOf | None = None
    logprobs: asked.NoneOf | None = None


class InputMessage(BaseModel):
    """A turn of the conversation."""

    model_config = STRICT
    type: Literal["message"] | None = None
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[InputText]
    id: str | None = None
    status: Literal["completed", "incomplete", "in_progress"] | None = None
    phase: str | None = None

    @property
    def turn(self) -> dict[str, str]:
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class PlainFormat(BaseModel):
    """The form of the answer."""

    model_config = STRICT
    type: Literal["text"]


class TextOptions(BaseModel):
    """How text is written."""

    model_config = STRICT
    format: PlainFormat | None = None


class ResponseRequest(BaseModel):
    """A text or a conversation to be answered."""

    model_config = STRICT
    model: asked.Model
    input: asked.Text | Annotated[list[InputMessage], Field(min_length=1)]
    instructions: str | None = None
    temperature: asked.Temperature | None = None
    top_p: asked.TopP | None = None
    max_output_tokens: asked.Count | None = None
    seed: asked.Seed | None = None
    stream: bool | None = None
    exptilt: Changes | None = None
    user: str | None = None
    text: TextOptions | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=0)] | None = None
    tools: asked.NoneOf | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    include: asked.NoneOf | None = None
    truncation: Literal["disabled"] | None = None
    store: Annotated[bool, only(False)] | None = None
    background: Annotated[bool, only(False)] | None = None

    def read(self) -> Asked:
        """The request in exptilt's words. Raises PromptError."""
        turns = [{"role": "user", "content": self.input}] if isinstance(self.input, str) else [each.turn for each in self.input]
        if self.instructions:
            turns = [{"role": "system", "content": self.instructions}, *turns]
        return Asked(
            model=self.model,
            prompts=(Chat.of(turns),),
            sampling=asked.sampling_of(temperature=self.temperature, top_p=self.top_p, max_tokens=self.max_output_tokens),
            seed=self.seed,
            stream=bool(self.stream),
            changes=self.exptilt.given if self.exptilt else {},
            budget=self.exptilt.budget.given if self.exptilt and self.exptilt.budget else {},
            where="input",
        )


class ResponseProtocol:
    """Answers as responses; made for one request, because the events of a stream are numbered. body: the request."""

    prefix = "resp"
    grows = False

    def __init__(self, body: ResponseRequest) -> None:
        self._body = body
        self._numbers = count()
        self._text = ""

    def answer(self, head: Head, answers: Sequence[Answer]) -> dict[str, Any]:
        [answer] = answers
        prompt, completion = tokens_used(answers)
        usage = {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": completion,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt + completion,
        }
        cut = answer.finish == "length"
        return {
            **self._response(head, "incomplete" if cut else "completed"),
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": [_message(head, answer.text, "incomplete" if cut else "completed")],
            "usage": usage,
            "exptilt": head.found(answers),
        }

    def begin(self, head: Head, index: int) -> list[Event]:
        started = self._response(head, "in_progress")
        place = {"item_id": _item(head), "output_index": 0, "content_index": 0}
        return [
            self._event("response.created", response=started),
            self._event("response.in_progress", response=started),
            self._event("response.output_item.added", output_index=0, item=_message(head, None, "in_progress")),
            self._event("response.content_part.added", **place, part=_part("")),
        ]

    def delta(self, head: Head, index: int, text: str) -> list[Event]:
        self._text += text
        place = {"item_id": _item(head), "output_index": 0, "content_index": 0}
        return [self._event("response.output_text.delta", **place, delta=text, logprobs=[])]

    def partial(self, head: Head, index: int, partial: Partial) -> list[Event]:
        return []

    def growth(self, head: Head, index: int, trace: object) -> list[Event]:
        return []

    def finish(self, head: Head, answer: Answer, rest: str) -> list[Event]:
        """The end of the answer. rest: what was not sent yet of its text."""
        place = {"item_id": _item(head), "output_index": 0, "content_index": 0}
        whole = self.answer(head, [answer])
        return [
            *(self.delta(head, 0, rest) if rest else ()),
            self._event("response.output_text.done", **place, text=answer.text, logprobs=[]),
            self._event("response.content_part.done", **place, part=_part(answer.text)),
            self._event("response.output_item.done", output_index=0, item=whole["output"][0]),
            self._event(f"response.{whole['status']}", response=whole),
        ]

    def end(self, head: Head, answers: Sequence[Answer]) -> list[Event]:
        return []

    def error(self, head: Head, refusal: Refusal) -> list[Event]:
        told = {"code": refusal.code or "server_error", "message": refusal.message}
        failed = {**self._response(head, "failed"), "error": told, "output": [_message(head, self._text, "incomplete")]}
        return [self._event("error", **told, param=refusal.param), self._event("response.failed", response=failed)]

    def _event(self, kind: str, **fields: Any) -> Event:
        return data({"type": kind, "sequence_number": next(self._numbers), **fields}, kind)

    def _response(self, head: Head, status: str) -> dict[str, Any]:
        body = self._body
        return {
            "id": head.id,
            "object": "response",
            "created_at": head.created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": {},
            "model": body.model,
            "output": [],
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "store": False,
            "temperature": body.temperature,
            "text": {"format": {"type": "text"}},
            "tool_choice": "none",
            "tools": [],
            "top_p": body.top_p,
            "truncation": "disabled",
            "usage": None,
        }


def _item(head: Head) -> str:
    return f"msg_{head.id}"


def _message(head: Head, text: str | None, status: str) -> dict[str, Any]:
    content = [] if text is None else [_part(text)]
    return {"id": _item(head), "type": "message", "status": status, "role": "assistant", "content": content}


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
