"""Replies of HTTP servers: which are answers, which are worth another attempt, and whether the others concern one prompt or all.

    a dict        the answer: a JSON object, with a status of success and without an error in it
    Trouble       an attempt that failed for a passing reason (a busy server, a broken body): the request is sent again
    PromptError   the prompt is too long, or filtered
    AnswerError   this request was refused, or its reply cannot be read
    ModelError    all prompts are concerned: the key is refused (401, 403), or there is no such path or model (404)

Servers report the same error in different words and statuses, some with a status of success. What cannot be classified is
taken for the fault of the one prompt, so that no odd reply ends a run.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

from exptilt.errors import AnswerError, ModelError, PromptError

ABSENT = (404, 405, 501)  # how servers say that they have no such path, or no such model
_IN_PASSING = frozenset({408, 409, 425, 429, 498, 499})  # and all from 500 on but 501
_FOR_GOOD = frozenset({"insufficient_quota", "billing_hard_limit_reached"})  # codes of a 429 that waiting does not cure
_EPOCH = 1e8  # a Retry-After beyond it is a moment since 1970, not a number of seconds
_TOO_LONG = re.compile(
    r"context[ _-]?(length|size|window)|max(imum)?[ _](prompt|input|sequence|model|allowed)[ _]?(length|len\b)"
    r"|\b(prompts?|inputs?|requests?|messages?|text|string|context)\b.{0,60}\b(too (long|large|big|many)|longer than|exceed)"
    r"|input length|too many (input |prompt )?tokens|reduce the length|exceed.{0,60}\btokens?\b"
    r"|\btokens?\b.{0,60}(exceed|must be <=)|prompt_tokens_exceeded|string_above_max_length"
)
_CAP = re.compile(r"max_(completion_|new_|output_)?tokens\W.{0,40}(too large|exceed|at most)|(completion|output) tokens")
_FILTERED = re.compile(
    r"content[ _-]?(filter|management|moderation|polic)|moderation|was flagged|guardrail|inappropriate|content exists risk"
    r"|responsibleai|data_inspection|sensitive content|safety (filter|polic|system)"
)


@dataclass(frozen=True)
class Reply:
    """What a server sent back. headers: by their names in small letters."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Trouble:
    """One attempt that failed for a passing reason. pause: seconds that the server asks to wait.

    unreachable: no connection came about.
    broken: a connection ended before the reply was whole, which a kept one may do on its own.
    unreadable: what came back with a success is not a JSON object.
    """

    what: str
    pause: float = 0.0
    unreachable: bool = False
    broken: bool = False
    unreadable: bool = False


@dataclass(frozen=True)
class Reader:
    """Reads the replies of one server.

    base: its URL.
    key_name: the variable that holds its key.
    keyed: whether a key was sent.
    scrub: strikes the key out of what the server says.
    """

    base: str
    key_name: str
    keyed: bool
    scrub: Callable[[str], str]

    def read(self, reply: Reply) -> dict[str, Any] | Trouble:
        """The answer, or the trouble. Raises PromptError, AnswerError and ModelError: see the overview."""
        body = _json(reply)
        if reply.status >= 400:
            return self._refuse(reply, body if body is not None else reply.body.decode(errors="replace"), reply.status)
        if reply.status >= 300 or not isinstance(body, dict):
            return self._unreadable(reply)
        error = _error(body)
        return self._refuse(reply, error, _status(error)) if error else body

    def _refuse(self, reply: Reply, body: Any, status: int) -> Trouble:
        """What an error comes to. status: the one it tells in its body where it came with a success; 0 where it tells none."""
        said, code = _said(body)
        said, words = self.scrub(said)[:500].strip().removesuffix("."), f"{code} {said}".lower()
        if (status == 403 and "flagged" in words) or (status not in (401, 403, 404, 429) and _FILTERED.search(words)):
            raise PromptError(f"{self.base} filters this prompt: {said}. Leave the prompt out, or use another server.")
        if status == 413 or (status in (0, 400, 422, 500) and _TOO_LONG.search(words) and not _CAP.search(words)):
            raise PromptError(f"{self.base} says that the prompt does not fit: {said}. Shorten the prompt or lower max_tokens.")
        if status in (401, 403):  # what the server says may quote the key
            sent = f"the key in {self.key_name}" if self.keyed else f"requests without a key, and {self.key_name} is not set"
            raise ModelError(f"{self.base} refuses {sent} (status {status}): set {self.key_name} to a key of this server")
        if status == 404:
            raise ModelError(f"{self.base} has no such path or model (status 404): {said}. Check base_url and the model's name.")
        if code not in _FOR_GOOD and (status in _IN_PASSING or status == 0 or (status >= 500 and status != 501)):
            inside = "" if reply.status == status else ", inside a status of success"
            return Trouble(f"answers {status or 'an error'} ({said}{inside})", retry_after(reply.headers))
        error = AnswerError(f"{self.base} refuses the request (status {status}): {said}. Change what it names.")
        error.status, error.said = status, said
        raise error

    def _unreadable(self, reply: Reply) -> Trouble:
        """What a reply is that is neither a JSON object nor an error."""
        if 300 <= reply.status < 400:
            aim = reply.headers.get("location", "").split("?")[0]
            raise AnswerError(f"{self.base} redirects to {aim!r} (status {reply.status}): give the final address as the base URL")
        start = self.scrub(reply.body[:200].decode(errors="replace").strip())[:80]
        if "event-stream" in reply.headers.get("content-type", "") or start.startswith(("data:", "event:")):
            raise AnswerError(
                f"{self.base} answers by an event stream ({start!r}), which was not asked for: turn streaming off in the "
                "gateway, or ask the server behind it"
            )
        return Trouble(f"answers {start!r} (status {reply.status}), which is not a JSON object", unreadable=True)


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float:
    """Seconds that the server asks to wait: by a number, a date, or a number of milliseconds; 0 where nothing can be read.

    now: seconds since 1970; the clock's where not given.
    """
    now = time.time() if now is None else now
    if (pause := _number(headers.get("retry-after-ms", ""))) is not None:
        return pause / 1000
    given = headers.get("retry-after", "")
    if (pause := _number(given)) is not None:
        return max(0.0, pause - now) if _EPOCH < pause < math.inf else pause
    try:
        moment = parsedate_to_datetime(given)
        return max(0.0, moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() - now)  # dates of HTTP are GMT
    except (ValueError, TypeError, IndexError, OverflowError):
        return 0.0


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return None if math.isnan(value) else max(0.0, value)


def _json(reply: Reply) -> Any:
    """The body as JSON values; None where it is not JSON."""
    [charset] = re.findall(r"charset=([\w-]+)", reply.headers.get("content-type", ""))[:1] or ["utf-8"]
    try:
        try:
            return json.loads(reply.body)
        except UnicodeDecodeError:  # JSON is UTF-8, whatever a header says; where it is not, the header may be right
            return json.loads(reply.body.decode(charset))
    except (ValueError, LookupError, RecursionError):
        return None


def _error(answer: Mapping[str, Any]) -> Any:
    """The error inside a status of success, in one of the forms that servers give it; None or empty where there is none."""
    if answer.get("choices"):
        return None
    failed = answer.get("object") == "error" or answer.get("status") == "error" or answer.get("success") is False
    return answer.get("error") or (answer if failed else None)


def _said(body: Any) -> tuple[str, str]:
    """What an error says, and its code or type. Servers nest it differently, some as the only item of a list."""
    found = body[0] if isinstance(body, list) and body else body
    error = (found.get("error") or found.get("errors") or found) if isinstance(found, dict) else found
    error = error[0] if isinstance(error, list) and error else error
    if not isinstance(error, dict):
        return str(error)[:2000], ""
    said = error.get("message") or error.get("detail") or error
    return str(said)[:2000], str(error.get("code") or error.get("type") or "")


def _status(error: Any) -> int:
    """The status that an error inside a success tells, as a number or in digits; 0 where it tells none."""
    told = [str(error.get(name)) for name in ("code", "status")] if isinstance(error, dict) else []
    return next((int(value) for value in told if re.fullmatch("[45][0-9][0-9]", value)), 0)
