"""The server's paths: which there are, what each takes, and how what is refused is told."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException

from exptilt import __version__
from exptilt.errors import did_you_mean
from exptilt.serve.desk import Desk
from exptilt.serve.growth import GrowthProtocol
from exptilt.serve.guard import RECORD, Guard, answer_of_refusal, too_large
from exptilt.serve.menu import offers
from exptilt.serve.page import page
from exptilt.serve.protocol_chat import ChatProtocol, ChatRequest
from exptilt.serve.protocol_completions import CompletionProtocol, CompletionRequest
from exptilt.serve.protocol_responses import ResponseProtocol, ResponseRequest
from exptilt.serve.refusals import Refusal, refusal
from exptilt.serve.runs import Stop


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """An error in OpenAI's form."""

    error: ErrorDetail


_STATUSES = {
    400: "The request is not of the right form; `param` names the field",
    401: "The API key is missing or wrong",
    404: "There is no such model",
    413: "The request is too large",
    422: "There is no answer: the budget ended before one, or the reward excluded all drafts",
    429: "The server is busy: come back after the seconds of Retry-After",
    500: "The server failed",
    502: "A server behind this one failed",
    503: "The model failed, or the server is about to stop",
    504: "The deadline came before the answer",
}
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": text} for status, text in _STATUSES.items()
}
_EVENT = {"type": "object", "properties": {"event": {"type": "string"}, "data": {"type": "string"}}}
_EVENTS: dict[str, Any] = {"text/event-stream": {"schema": _EVENT}}


def _answers(*fields: str) -> dict[int | str, dict[str, Any]]:
    """The responses of a path that answers, as its description has them. fields: those of a whole answer."""
    whole = {
        "application/json": {"schema": {"type": "object", "required": ["id", "object", "model", "usage", "exptilt", *fields]}}
    }
    return {**REFUSALS, 200: {"description": "The answer, or with stream=true its events", "content": {**whole, **_EVENTS}}}


class ModelEntry(BaseModel):
    """A model that is offered."""

    model_config = ConfigDict(protected_namespaces=())
    id: str
    object: str = "model"
    created: int
    owned_by: str = "exptilt"


class ModelList(BaseModel):
    """All models that are offered."""

    object: str = "list"
    data: list[ModelEntry]


async def _stop(request: Request) -> AsyncIterator[Stop]:
    """The flag of a request; it is set once the response is over, however it ended."""
    stop = request.app.state.desk.stop_of()
    try:
        yield stop
    finally:
        stop.set(Refusal("the response is over", 499, code="client_gone"))


StopFlag = Annotated[Stop, Depends(_stop)]


def create_app(desk: Desk, began: int = 0) -> Guard:
    """The server as an ASGI application. began: when it started, as clients read it in the list of models."""
    app = FastAPI(
        title="exptilt",
        version=__version__,
        summary="Draws from π(y|x) ∝ p(y|x)·exp(r(x,y)/β) behind OpenAI's protocol",
        docs_url=None,
        redoc_url=None,
        max_body_size=desk.config.limits.body,
        exception_handlers={RequestValidationError: _invalid, HTTPException: _http},
    )
    app.state.desk = desk
    _add_answers(app, desk)
    _add_state(app, desk, began)
    _add_page(app, desk)
    paths = frozenset(path for route in app.routes if (path := getattr(route, "path", None)))
    return Guard(app, desk.config, desk.metrics, paths)


def _add_answers(app: FastAPI, desk: Desk) -> None:
    @app.post("/v1/chat/completions", responses=_answers("created", "choices"), tags=["answers"])
    async def chat(body: ChatRequest, request: Request, stop: StopFlag) -> Response:
        """Continue a conversation."""
        return await _answered(desk, request, ChatProtocol(), body, stop)

    @app.post("/v1/completions", responses=_answers("created", "choices"), tags=["answers"])
    async def completions(body: CompletionRequest, request: Request, stop: StopFlag) -> Response:
        """Continue a text."""
        return await _answered(desk, request, CompletionProtocol(), body, stop)

    @app.post("/v1/responses", responses=_answers("created_at", "output"), tags=["answers"])
    async def create_response(body: ResponseRequest, request: Request, stop: StopFlag) -> Response:
        """Answer a text or a conversation."""
        return await _answered(desk, request, ResponseProtocol(body), body, stop)

    @app.post("/events", responses={**REFUSALS, 200: {"description": "Events", "content": _EVENTS}}, tags=["answers"])
    async def events(body: ChatRequest, request: Request, stop: StopFlag) -> Response:
        """Watch how the answer to a conversation comes about."""
        return await _answered(desk, request, GrowthProtocol(), body.model_copy(update={"stream": True}), stop)


async def _answered(desk: Desk, request: Request, wire: Any, body: Any, stop: Stop) -> Response:
    try:
        asked = body.read()
    except Exception as error:  # noqa: BLE001 - the client is told
        return _told(request, refusal(error))
    return await desk.answer(request, wire, asked, stop)


def _add_state(app: FastAPI, desk: Desk, began: int) -> None:
    refused: dict[int | str, dict[str, Any]] = {status: REFUSALS[status] for status in (401, 404)}

    @app.get("/v1/models", responses={401: REFUSALS[401]}, tags=["state"])
    async def models() -> ModelList:
        """The models that are offered."""
        return ModelList(data=[ModelEntry(id=name, created=began) for name in desk.catalogue.models])

    @app.get("/v1/models/{model:path}", responses=refused, tags=["state"])
    async def model(model: str, request: Request) -> ModelEntry:
        """One model."""
        desk.catalogue.recipe(model)
        return ModelEntry(id=model, created=began)

    @app.get("/healthz", tags=["state"])
    async def healthz() -> dict[str, Any]:
        """Whether the server lives; it needs no key."""
        return {"status": "ok", "running": desk.admission.running, "waiting": desk.admission.waiting}

    @app.get("/metrics", response_class=PlainTextResponse, responses={401: REFUSALS[401]}, tags=["state"])
    async def metrics() -> Response:
        """Numbers for Prometheus."""
        return Response(desk.metrics.text, media_type=CONTENT_TYPE_LATEST)

    @app.exception_handler(Refusal)
    async def refused_here(request: Request, error: Exception) -> Response:
        return _told(request, refusal(error))


def _add_page(app: FastAPI, desk: Desk) -> None:
    shown, offered = page(), offers(desk.catalogue, desk.config.limits)

    @app.get("/", response_class=HTMLResponse, tags=["page"])
    async def front() -> Response:
        """A page to ask the model and watch; it needs no key, but asks for it."""
        return shown

    @app.get("/offers", responses={401: REFUSALS[401]}, tags=["page"])
    async def choices() -> dict[str, Any]:
        """What the page lets a person choose from: models, samplers with their settings, rewards, and the rest."""
        return offered


# ---------------------------------------------------------------------------------------------------------- refusals


def _told(request: Request, told: Refusal) -> Response:
    request.scope[RECORD].more |= {"code": told.code, "param": told.param}
    return answer_of_refusal(told)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 413:
        return _told(request, too_large(request.app.state.desk.config.limits.body))
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
    told = Refusal(str(error.detail), error.status_code, code=code)
    response = _told(request, told)
    response.headers.update(error.headers or {})
    return response


async def _invalid(request: Request, error: Exception) -> Response:
    """The first thing that is wrong with a request's fields, in words that name the field and not what was sent."""
    assert isinstance(error, RequestValidationError)
    return _told(request, _field_refusal(error.errors(), request))


_BRANCH = re.compile(r"list\[.*\]|(?:constrained-)?str|\[key\]")  # what pydantic calls an alternative or the keys of a field


def _field_refusal(errors: Sequence[Mapping[str, Any]], request: Request) -> Refusal:
    first = max(errors, key=lambda each: (each["type"] == "extra_forbidden", len(each["loc"])))
    where = [part for part in map(str, first["loc"]) if part != "body" and not _BRANCH.fullmatch(part)]
    param = ".".join(where)[:200] or None
    if first["type"] == "json_invalid":
        return Refusal("the body is not JSON: send one JSON object", code="invalid_json")
    if first["type"] == "extra_forbidden":
        known = _fields(request) if len(where) == 1 else []
        return Refusal(
            f"there is no field {param!r} here: leave it out.{did_you_mean(where[-1], known)}",
            param=param,
            code="unknown_parameter",
        )
    if first["type"] == "missing":
        return Refusal(f"the field {param or 'of the body'} is missing", param=param, code="missing_parameter")
    if first["type"] == "too_long" and first["ctx"]["max_length"] == 0:
        return Refusal(f"{param}: this server has none: leave it out", param=param, code="unsupported_value")
    said = str(first["msg"]).removeprefix("Value error, ")
    return Refusal(f"{param or 'the body'}: {said}", param=param, code="invalid_value")


def _fields(request: Request) -> list[str]:
    """The fields that a path takes."""
    body = getattr(request.scope.get("route"), "body_field", None)
    kind = getattr(getattr(body, "field_info", None), "annotation", None)
    return list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, BaseModel) else []
