"""A model behind one or several servers: connections, what they can do, and what answers cost."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from exptilt.engines.openai.probe import Abilities, Probe, Wanted
from exptilt.engines.openai.wire import MAKES, Make, Spent
from exptilt.engines.transport import Transport
from exptilt.errors import AnswerError, ModelError, PromptError
from exptilt.keys import Key
from exptilt.usage import Work

LOGGER = logging.getLogger("exptilt")
T = TypeVar("T")
HOSTED = "https://api.openai.com/v1"


class Server:
    """A model that servers offer, with what they can do. Many engines may share it."""

    def __init__(self, transport: Transport, model: str, abilities: Abilities) -> None:
        self.model, self.abilities = model, abilities
        self._transport = transport
        self._untold = False  # whether a missing usage was reported already

    @property
    def concurrency(self) -> int:
        """How many requests are under way at most."""
        return self._transport.concurrency

    def ask(self, path: str, body: dict[str, Any], key: Key) -> dict[str, Any]:
        return self._transport.post(path, {"model": self.model, **body}, key)

    def each(self, jobs: Sequence[Callable[[], T]]) -> list[T]:
        """Run jobs side by side, as many at once as the limit allows; results in their order."""
        return self._transport.each([partial(self.private, job) for job in jobs])

    def private(self, job: Callable[[], T]) -> T:
        """Run code whose errors may quote an answer, which may quote the key."""
        try:
            return job()
        except (AnswerError, PromptError) as error:
            if (told := self._transport.scrub(str(error))) == str(error):
                raise
            raise type(error)(told) from None

    def cost(self, told: Spent, *, scored: int = 0, drawn: int = 0) -> Work:
        """What an answer has cost. Rated tokens are left out, and so counted once.

        drawn: the tokens that the answer holds, which count where the server says nothing of those generated.
        """
        if told.prompt is None and not self._untold:
            self._untold = True
            LOGGER.warning("the server of %s reports no usage: prompt tokens are not counted", self.model)
        prompt, generated = told.prompt or 0, drawn if told.generated is None else told.generated
        return Work(max(0, prompt - told.cached - scored), told.cached, generated=generated, forwards=generated)

    def close(self) -> None:
        """Drop the connections once the requests under way are answered."""
        self._transport.close()


def _measured(probe: Probe, mode: Wanted, make: Make | None, processed: bool | None) -> Abilities:
    try:
        return probe.abilities(mode, make, processed)
    except (AnswerError, PromptError) as error:
        raise ModelError(f"{probe.model!r} at {probe.url} cannot be used: {error}") from error


def connect(
    model: str,
    base_url: str | Sequence[str] | None = None,
    *,
    mode: Wanted = "auto",
    make: Make | None = None,
    template: bool = True,
    processed: bool | None = None,
    key_name: str = "OPENAI_API_KEY",
    timeout: float = 300.0,
    attempts: int = 6,
    concurrency: int = 16,
    backoff: float = 0.5,
) -> Server:
    """Find out what the servers at `base_url` can do for a model, by requests for one token each.

    base_url: one URL or several (a list, or separated by commas), which must serve the same model in the same way;
        OPENAI_BASE_URL where not given, else OpenAI's own.
    mode: "completions" to have prefixes continued, "chat" for whole answers; "auto" takes the first that works.
    make: "vllm", "sglang", "llamacpp" or "other", where the list of models does not tell (behind a proxy).
    processed: True to state that log-probabilities are taken after temperature and truncation, False that they are
        not; None to measure it.
    key_name: the environment variable that holds the API key; without it requests go without a key.
    timeout, attempts, concurrency, backoff: see `Transport`.

    Raises ModelError where a server cannot be reached, refuses the key, has no such model or cannot do what is asked.
    """
    if mode not in ("auto", "completions", "chat"):
        raise ValueError(f'mode={mode!r} is unknown: give "auto", "completions" or "chat"')
    if make is not None and make not in MAKES:
        raise ValueError(f"make={make!r} is unknown: give one of {', '.join(MAKES)}, or None to ask the server")
    if not (timeout > 0 and attempts >= 1 and concurrency >= 1 and backoff >= 0):
        raise ValueError(
            f"timeout={timeout}, attempts={attempts}, concurrency={concurrency}, backoff={backoff}: give a timeout above 0, "
            "at least one attempt and one request at a time, and a backoff of 0 or more seconds"
        )
    urls = _addresses(base_url)
    transport = Transport(urls, key_name, timeout=timeout, attempts=attempts, concurrency=concurrency, backoff=backoff)
    try:
        found = {url: _measured(Probe(transport, url, model, template), mode, make, processed) for url in transport.urls}
        return Server(transport, model, _common(found))
    except BaseException:
        transport.close()
        raise


def _addresses(base_url: str | Sequence[str] | None) -> list[str]:
    """The servers that are named, each once."""
    given = base_url if base_url is not None else os.environ.get("OPENAI_BASE_URL") or HOSTED
    urls = [url.strip() for url in given.split(",")] if isinstance(given, str) else list(given)
    urls = list(dict.fromkeys(url for url in urls if url))
    if not urls:
        raise ModelError("base_url names no server: give one such as http://localhost:8000/v1")
    return urls


def _common(found: Mapping[str, Abilities]) -> Abilities:
    """What all servers can do. Raises ModelError where they differ."""
    (first, abilities), *others = found.items()
    for url, theirs in others:
        if theirs != abilities:
            raise ModelError(
                f"{url} offers {theirs} but {first} {abilities}: drafts of one engine need one distribution. "
                "Start all servers with the same model and options."
            )
    return abilities
