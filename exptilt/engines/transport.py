"""Requests to one or several servers of one model: a limit on how many are open at once, retries, and errors in plain words.

A request that fails for a passing reason (`replies`; no connection, time-out, status 429 or 5xx) is sent again after a pause that
doubles each time, times a factor between 1/2 and 1 drawn from the request's key, and that is never shorter than the
server's `Retry-After`. With several base URLs each attempt goes to the one with the fewest requests under way; one
that could not be reached rests for a while and is reported to the logger "exptilt".

The API key is read from the environment and kept only in the client's headers. It is in no settings, and is removed
from whatever a server says before that becomes an error message.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, wait
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2

from exptilt.cancelling import Flag, any_of, cancelled_by, current
from exptilt.engines.daemons import Daemons
from exptilt.engines.replies import ABSENT, Reader, Reply, Trouble
from exptilt.errors import AnswerError, Cancelled, ModelError, PromptError
from exptilt.keys import Key

T = TypeVar("T")
LOGGER = logging.getLogger("exptilt")
LONGEST_PAUSE = 30.0  # seconds; a server that asks for more by Retry-After gets more
LONGEST_RETRY_AFTER = 300.0  # seconds; beyond that the request fails, or the run would seem to hang
REST = 30.0  # seconds for which a server that cannot be reached is left alone while there are others
LONGEST_BODY = 2**28  # bytes
UNLISTED = (*ABSENT, 401, 403)  # a key may draw from a model and not list the models
ENDPOINTS = ("/chat/completions", "/completions")
URL_CURE = "Check the URL; one of OpenAI's protocol goes up to and with /v1."

_GLANCE = 0.05  # seconds between two looks at whether the run was cancelled
_KNOCK = 10.0  # seconds in which a server that listens takes a connection


class Transport:
    """A pool of connections to `urls`, which serve the same model.

    key_name: the environment variable that holds the API key; without one no key is sent.
    timeout: seconds until an attempt counts as failed.
    attempts: how often a request is sent at most.
    concurrency: requests under way at most, all servers together.
    backoff: seconds of the first pause.
    """

    def __init__(
        self, urls: Sequence[str], key_name: str, *, timeout: float, attempts: int, concurrency: int, backoff: float
    ) -> None:
        self.concurrency = concurrency
        self.urls = tuple(_checked(url) for url in urls)
        self._key_name, self._timeout, self._attempts, self._backoff = key_name, timeout, attempts, backoff
        self._secret = os.environ.get(key_name, "").strip()
        if not (self._secret.isascii() and self._secret.isprintable()):
            raise ModelError(f"the key in {key_name} has characters that no header can carry: set {key_name} again")
        headers = {"Authorization": f"Bearer {self._secret}"} if self._secret else {}
        limits = httpx2.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
        self._client = httpx2.Client(headers=headers, timeout=timeout, limits=limits)
        self._slots = threading.Semaphore(concurrency)
        self._pool = Daemons(concurrency, "exptilt-request")
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._under_way = dict.fromkeys(self.urls, 0)
        self._given = dict.fromkeys(self.urls, 0)  # attempts so far
        self._rests_until = dict.fromkeys(self.urls, 0.0)

    def each(self, jobs: Sequence[Callable[[], T]]) -> list[T]:
        """Run the jobs side by side, results in their order. If one raises, the others are dropped.

        Where the run that this thread computes for is cancelled (`exptilt.cancelling`), this raises Cancelled. Once it has raised
        anything, requests under way are left to their ends, pauses end at once, and nothing is sent again.
        """
        flag, over = current(), threading.Event()
        with cancelled_by(any_of(flag, over)):
            futures = [self._pool.submit(partial(copy_context().run, job)) for job in jobs]
        waiting = set(futures)
        try:
            while waiting:
                done, waiting = wait(waiting, None if flag is None else _GLANCE, FIRST_EXCEPTION)
                for future in futures:
                    if future in done:
                        future.result()  # this raises what went wrong
                _check(flag)
            return [future.result() for future in futures]
        finally:
            over.set()
            for future in futures:
                future.cancel()

    def get(self, path: str, *, url: str) -> Any | None:
        """The JSON answer of one server; None where it has no such path, or not for this key."""
        return self._ask("GET", path, None, Key(0, "get", path), url)

    def post(self, path: str, body: dict[str, Any], key: Key) -> Any:
        """The JSON answer of a server.

        path: below the base URL; beginning with "/" it is below the root of the server, where servers keep what is not part of
            OpenAI's protocol.
        key: what the pauses between attempts are drawn from.

        Raises PromptError and AnswerError for what concerns this request alone, and ModelError where no request can do
        better: the key is refused, there is no such path, or no server can be reached.
        """
        return self._ask("POST", path, body, key, None)

    def find(self, path: str, body: dict[str, Any], key: Key, *, url: str) -> Any | None:
        """As `post` to one server; None where it has no such path or model. An unreadable reply is an error at once."""
        return self._ask("POST", path, body, key, url)

    def close(self) -> None:
        """Close the connections; what is under way fails, and what pauses ends."""
        self._closed.set()
        self._pool.close()
        self._client.close()

    def _ask(self, method: str, path: str, body: dict[str, Any] | None, key: Key, url: str | None) -> Any | None:
        """url: the server to look at; None to ask any, and for longer."""
        troubles: list[str] = []
        trouble, asked = Trouble(""), ""
        for attempt in range(self._attempts):
            _check(current())
            with self._server(url) as base:
                reply = self._attempt(method, _join(base, path), body)
                if url is not None and isinstance(reply, Reply) and reply.status in (ABSENT if method == "POST" else UNLISTED):
                    return None
                trouble = reply if isinstance(reply, Trouble) else self._reader(base).read(reply)
                if not isinstance(trouble, Trouble):
                    return trouble
                if trouble.unreachable and len(self.urls) > 1:
                    self._rest(base, trouble.what)
            asked = base
            troubles.append(f"{asked} {trouble.what}")
            if url is not None and trouble.unreadable:
                raise AnswerError(f"{troubles[-1]}: it does not speak the protocol there. {URL_CURE}")
            if trouble.pause > LONGEST_RETRY_AFTER:
                raise AnswerError(
                    f"{base} asks to wait {trouble.pause:.0f} seconds ({trouble.what}): run again later; "
                    "with a store, finished prompts are kept and retry=True runs the others"
                )
            if attempt + 1 < self._attempts:
                self._wait(max(trouble.pause, self._pause(attempt, key)))
        gone = trouble.unreachable or (trouble.broken and self._refuses(asked))
        troubles += [f"{asked} cannot be reached"] if gone and not trouble.unreachable else []
        error = ModelError if gone else AnswerError
        raise error(
            f"no answer after {self._attempts} attempts: {'; '.join(dict.fromkeys(troubles))}. "
            "Check that the server runs and base_url is right; a busy server needs a lower concurrency, a slow one a longer "
            "timeout."
        )

    def _attempt(self, method: str, url: str, body: dict[str, Any] | None) -> Reply | Trouble:
        try:
            with self._slots, self._client.stream(method, url, json=body) as response:
                return Reply(response.status_code, dict(response.headers), self._body(response))
        except UnicodeEncodeError as error:
            raise PromptError(
                f"the text {error.object[max(0, error.start - 20) : error.end]!r} ends in half of a character, which no server "
                "can be sent: take it out of the prompt"
            ) from error
        except httpx2.TimeoutException as error:
            slow = f"did not answer within {self._timeout:g} seconds ({type(error).__name__})"
            return Trouble(slow, unreachable=isinstance(error, httpx2.ConnectTimeout))
        except httpx2.RequestError as error:  # a broken encoding is a broken body too
            why = self.scrub(f"{type(error).__name__}: {error}")
            if isinstance(error, httpx2.ConnectError):
                return Trouble(f"cannot be reached ({why})", unreachable=True)
            return Trouble(f"broke off ({why})", broken=True)  # a healthy server may have closed a connection that was kept open

    def _refuses(self, base: str) -> bool:
        """Whether a server takes no new connection: all attempts may have been made on connections kept from before."""
        try:
            with httpx2.Client(timeout=min(self._timeout, _KNOCK)) as fresh:
                fresh.get(base)
        except httpx2.ConnectError:
            return True
        except httpx2.RequestError:
            return False
        return False

    def _body(self, response: httpx2.Response) -> bytes:
        """The whole body: the client's time-out is for each piece of it, and a server may send them one by one forever."""
        deadline, parts, size = time.monotonic() + self._timeout, [], 0
        for part in response.iter_bytes():
            parts.append(part)
            size += len(part)
            if time.monotonic() > deadline:
                raise httpx2.ReadTimeout("the body was not complete")
            if size > LONGEST_BODY:
                raise httpx2.ReadError(f"the body has more than {LONGEST_BODY} bytes")
        return b"".join(parts)

    def _reader(self, base: str) -> Reader:
        return Reader(base, self._key_name, bool(self._secret), self.scrub)

    @contextmanager
    def _server(self, url: str | None) -> Iterator[str]:
        """The server for an attempt: `url`, or the least busy of those that do not rest."""
        with self._lock:
            now = time.monotonic()
            awake = [each for each in self.urls if self._rests_until[each] <= now] or self.urls
            chosen = url or min(awake, key=lambda each: (self._under_way[each], self._given[each]))
            self._under_way[chosen] += 1
            self._given[chosen] += 1
        try:
            yield chosen
        finally:
            with self._lock:
                self._under_way[chosen] -= 1

    def _rest(self, url: str, what: str) -> None:
        with self._lock:
            reported, self._rests_until[url] = self._rests_until[url] > time.monotonic(), time.monotonic() + REST
        if not reported:
            LOGGER.warning("%s %s: its share goes to the other servers for %.0f seconds", url, what, REST)

    def _wait(self, seconds: float) -> None:
        """Wait before the next attempt. Raises Cancelled as soon as the run is cancelled or the connections are closed."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self._closed.wait(min(left, _GLANCE)):
            _check(current())
        _check(self._closed)

    def _pause(self, attempt: int, key: Key) -> float:
        factor = 0.5 + 0.5 * key.child("pause", attempt).rng().random()
        return min(LONGEST_PAUSE, self._backoff * 2**attempt) * factor

    def scrub(self, text: str) -> str:
        """The text without the API key."""
        return text.replace(self._secret, "***") if self._secret else text


def _checked(url: str) -> str:
    """A base URL without a slash or an endpoint at its end; refused where it could carry a secret into settings and messages."""
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ModelError("a base_url has a user, password or query in it: give the plain URL, and the key in the environment")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ModelError(f"base_url={url!r} is not a URL: give one such as http://localhost:8000/v1")
    bare = url.rstrip("/")
    for endpoint in ENDPOINTS:  # what a page of documentation shows is often pasted whole
        bare = bare.removesuffix(endpoint)
    return bare


def _join(base: str, path: str) -> str:
    return base.removesuffix("/v1") + path if path.startswith("/") else f"{base}/{path}"


def _check(flag: Flag | None) -> None:
    if flag is not None and flag.is_set():
        raise Cancelled("the run was cancelled while its requests were under way")
