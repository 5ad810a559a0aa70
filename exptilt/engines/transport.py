"""Requests to one or several servers of one model: a limit on those under way, retries, and errors in plain words.

A request that fails in passing (no connection, time-out, status 408, 429 or 5xx) is sent again after a pause that
doubles each time, times a factor between 1/2 and 1 drawn from the request's key, and that is never shorter than the
server's `Retry-After`. With several base URLs each attempt goes to the one with the fewest requests under way; one
that could not be reached rests for a while and is reported to the logger "exptilt".

The API key is read from the environment and lives in the client's headers alone. It is in no settings, and is struck
out of whatever a server says before that becomes an error message.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2

from exptilt.errors import ModelError, PromptError
from exptilt.keys import Key

T = TypeVar("T")
LOGGER = logging.getLogger("exptilt")
IN_PASSING = frozenset({408, 429, 500, 502, 503, 504, 529})
LONGEST_PAUSE = 30.0  # seconds; a server that asks for more by Retry-After gets more
LONGEST_RETRY_AFTER = 300.0  # seconds; beyond that the run should end rather than seem to hang
REST = 30.0  # seconds for which a server that cannot be reached is left alone while there are others
TOO_LONG = ("context_length_exceeded", "exceed_context_size_error")


class Refused(ModelError):
    """The server understood the request and said no: `status` and its own words."""

    status: int = 0
    said: str = ""


@dataclass(frozen=True)
class Trouble:
    """One attempt that failed in passing. pause: seconds that the server asks to wait."""

    what: str
    pause: float = 0.0
    unreachable: bool = False


class Transport:
    """A pool of connections to `urls`, which serve the same model.

    key_name: the environment variable that holds the API key; without one no key is sent. timeout: seconds until an
    attempt counts as failed. attempts: how often a request is sent at most. concurrency: requests under way at most,
    all servers together. backoff: seconds of the first pause.
    """

    def __init__(
        self, urls: Sequence[str], key_name: str, *, timeout: float, attempts: int, concurrency: int, backoff: float
    ) -> None:
        self.urls = tuple(_checked(url) for url in urls)
        self._key_name, self._timeout, self._attempts, self._backoff = key_name, timeout, attempts, backoff
        self._secret = os.environ.get(key_name, "").strip()
        headers = {"Authorization": f"Bearer {self._secret}"} if self._secret else {}
        limits = httpx2.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
        self._client = httpx2.Client(headers=headers, timeout=timeout, limits=limits)
        self._slots = threading.Semaphore(concurrency)
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="exptilt-request")
        self._lock = threading.Lock()
        self._under_way = dict.fromkeys(self.urls, 0)
        self._given = dict.fromkeys(self.urls, 0)  # attempts so far
        self._rests_until = dict.fromkeys(self.urls, 0.0)

    def each(self, jobs: Sequence[Callable[[], T]]) -> list[T]:
        """Run the jobs side by side, results in their order. If one raises, those that have not begun are dropped."""
        futures = [self._pool.submit(job) for job in jobs]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()

    def get(self, path: str, *, url: str) -> Any:
        return self._ask("GET", path, None, Key(0, "get", path), url)

    def post(self, path: str, body: dict[str, Any], key: Key, *, url: str | None = None) -> Any:
        """The JSON answer of a server, of `url` where given.

        path: below the base URL; beginning with "/" it is below the root of the server, where servers keep what is
        not part of OpenAI's protocol. key: what the pauses between attempts are drawn from.

        Raises PromptError where the request does not fit the model's context, Refused where the server says no, and
        ModelError where no attempt succeeds or the answer is not JSON.
        """
        return self._ask("POST", path, body, key, url)

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._client.close()

    def _ask(self, method: str, path: str, body: dict[str, Any] | None, key: Key, url: str | None) -> Any:
        troubles: list[str] = []
        for attempt in range(self._attempts):
            with self._server(url) as base:
                outcome = self._attempt(method, _join(base, path), body)
                if not isinstance(outcome, Trouble):
                    return self._read(outcome, base)
                if outcome.unreachable and len(self.urls) > 1:
                    self._rest(base, outcome.what)
            troubles.append(f"{base} {outcome.what}")
            if outcome.pause > LONGEST_RETRY_AFTER:
                raise ModelError(
                    f"{base} asks to wait {outcome.pause:.0f} seconds ({outcome.what}): run again later; "
                    "with a store, finished prompts are kept"
                )
            if attempt + 1 < self._attempts:
                time.sleep(max(outcome.pause, self._pause(attempt, key)))
        raise ModelError(
            f"no answer after {self._attempts} attempts: {'; '.join(dict.fromkeys(troubles))}. "
            "Check that the server runs and base_url is right; a busy server needs a lower concurrency, a slow one a longer "
            "timeout."
        )

    def _attempt(self, method: str, url: str, body: dict[str, Any] | None) -> httpx2.Response | Trouble:
        try:
            with self._slots:
                response = self._client.request(method, url, json=body)
        except httpx2.TimeoutException as error:
            slow = f"did not answer within {self._timeout:g} seconds ({type(error).__name__})"
            return Trouble(slow, unreachable=isinstance(error, httpx2.ConnectTimeout))
        except httpx2.TransportError as error:
            why = self._scrub(f"{type(error).__name__}: {error}")
            if isinstance(error, httpx2.ConnectError):
                return Trouble(f"cannot be reached ({why})", unreachable=True)
            return Trouble(f"broke off ({why})")  # a connection kept open may have been closed by a server that is well
        said, code = _said(response)
        if response.status_code in IN_PASSING and code != "insufficient_quota":
            return Trouble(f"answers {response.status_code} ({self._scrub(said)})", _retry_after(response))
        return response

    def _read(self, response: httpx2.Response, base: str) -> Any:
        """The JSON of a good answer; an error in words for a bad one."""
        status = response.status_code
        if status in (401, 403):  # what the server says may quote the key
            held = f"the key in {self._key_name}" if self._secret else f"requests without a key, and {self._key_name} is not set"
            raise _refused(f"{base} refuses {held} (status {status}): set {self._key_name} to a key of this server", status)
        if status >= 400:
            said, code = _said(response)
            said = self._scrub(said)
            if code in TOO_LONG or (status in (400, 413) and re.search("context (length|size|window)", said.lower())):
                raise PromptError(f"{base} says that the prompt does not fit: {said}. Shorten the prompt or lower max_tokens.")
            raise _refused(f"{base} refuses the request (status {status}): {said}. Mend what it names.", status, said)
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if status >= 300 or not isinstance(answer, dict):
            raise ModelError(
                f"{base} answers {self._scrub(response.text[:80])!r} (status {status}), which is no JSON object: it does not "
                "speak the protocol there. Check the URL; one of OpenAI's protocol goes up to and with /v1."
            )
        return answer

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

    def _pause(self, attempt: int, key: Key) -> float:
        factor = 0.5 + 0.5 * key.child("pause", attempt).rng().random()
        return min(LONGEST_PAUSE, self._backoff * 2**attempt) * factor

    def _scrub(self, text: str) -> str:
        return text.replace(self._secret, "***") if self._secret else text


def _refused(message: str, status: int, said: str = "") -> Refused:
    error = Refused(message)
    error.status, error.said = status, said
    return error


def _checked(url: str) -> str:
    """A base URL without a slash at its end; refused where it could carry a secret into settings and messages."""
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ModelError("a base_url has a user, password or query in it: give the plain URL, and the key in the environment")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ModelError(f"base_url={url!r} is no URL: give one such as http://localhost:8000/v1")
    return url.rstrip("/")


def _join(base: str, path: str) -> str:
    return base.removesuffix("/v1") + path if path.startswith("/") else f"{base}/{path}"


def _said(response: httpx2.Response) -> tuple[str, str]:
    """What an answer with an error says, and its code. Servers nest it differently."""
    if response.status_code < 400:
        return "", ""
    try:
        body = response.json()
    except ValueError:
        body = response.text
    error = body.get("error", body) if isinstance(body, dict) else body
    if not isinstance(error, dict):
        return str(error)[:500], ""
    said = error.get("message") or error.get("detail") or error
    return str(said)[:500], str(error.get("code") or error.get("type") or "")


def _retry_after(response: httpx2.Response) -> float:
    """Seconds that the server asks to wait: a number, or a date of HTTP; 0 where it says nothing that can be read."""
    value = response.headers.get("retry-after", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)  # dates of HTTP are always GMT
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
