"""What surrounds every request: its id, the API key, its line in the log, and an answer in OpenAI's form whatever fails."""

from __future__ import annotations

import hmac
import re
import secrets
import time
from hashlib import sha256

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from exptilt.serve.answers import encode
from exptilt.serve.config import Config
from exptilt.serve.logs import LOGGER, Record
from exptilt.serve.metrics import Metrics
from exptilt.serve.refusals import Refusal, refusal

OPEN = ("/healthz", "/")  # paths that need no key: the page asks for it
RECORD = "exptilt.record"  # where a request's scope holds its record
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Guard:
    """The outermost part of the server. paths: those that metrics count by name."""

    def __init__(self, app: ASGIApp, config: Config, metrics: Metrics, paths: frozenset[str]) -> None:
        self._app = app
        self._key = None if config.api_key is None else sha256(config.api_key.encode()).digest()
        self._most = config.limits.body
        self._metrics = metrics
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        given = headers.get("x-request-id", "")
        client = scope.get("client")
        record = Record(
            given if _ID.fullmatch(given) else f"req_{secrets.token_hex(12)}",
            scope["method"],
            scope["path"],
            client and client[0],
        )
        scope[RECORD] = record

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = record.status or message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", record.id.encode())]
            await send(message)

        try:
            if not self._may(scope["path"], headers.get("authorization", "")):
                await _send(unauthorized(), scope, receive, told)
            elif (size := headers.get("content-length", "")).isdigit() and int(size) > self._most:
                await _send(too_large(self._most), scope, receive, told)
            else:
                await self._app(scope, receive, told)
        except Exception as error:  # noqa: BLE001 - nothing comes after this but the connection
            LOGGER.error({"event": "failure", "id": record.id}, exc_info=error)
            if not record.status:
                await _send(refusal(error), scope, receive, told)
        finally:
            path = record.path if record.path in self._paths else "other"
            self._metrics.request(path, record.status or 499, time.monotonic() - record.began)
            LOGGER.info(record.line)

    def _may(self, path: str, authorization: str) -> bool:
        """Whether the key is right, in the same time for every wrong one."""
        if self._key is None or path in OPEN:
            return True
        kind, _, key = authorization.partition(" ")
        given = sha256(key.strip().encode("latin-1", "replace")).digest()
        return hmac.compare_digest(given, self._key) and kind.lower() == "bearer"


async def _send(told: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
    await answer_of_refusal(told)(scope, receive, send)


def answer_of_refusal(told: Refusal) -> Response:
    return Response(encode(told.body), told.status, told.headers, media_type="application/json")


def too_large(most: int) -> Refusal:
    return Refusal(f"the request is above this server's limit of {most} bytes", 413, code="too_large")


def unauthorized() -> Refusal:
    return Refusal("the API key is missing or wrong: send the header Authorization: Bearer KEY", 401, code="invalid_api_key")
