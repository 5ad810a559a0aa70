"""Requests to vLLM, as a batch that `exptilt.engines.scheduler` drives: vLLM itself decides what runs together in each step.

vLLM's engine serves one thread. The scheduler's worker is that thread: it adds the requests of all callers as they
come, steps the engine, and gives each caller its answers as soon as they are complete.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol

from exptilt.usage import Work


class Driver(Protocol):
    """vLLM's engine, called with plain values. One thread at a time may use it."""

    def add(self, name: str, tokens: Sequence[int], parameters: Mapping[str, Any], *, gradual: bool) -> None:
        """Queue a request: what the model reads, and fields of vLLM's SamplingParams. gradual: answer step by step."""
        ...

    def step(self) -> Sequence[Any]:
        """Advance; returns RequestOutputs of vLLM, with what is new where `gradual`, else of complete requests alone."""
        ...

    def abort(self, names: Sequence[str]) -> None:
        """Drop requests; unknown names are ignored."""
        ...

    def close(self) -> None:
        """Give the model's memory back; nothing may be asked afterwards."""
        ...


@dataclass(eq=False)
class Request:
    """What vLLM is to do after reading `tokens`, and its answer so far.

    parameters: fields of vLLM's SamplingParams.
    stops: whether the request is done with the tokens drawn so far, asked after every token; None where vLLM alone knows.
    rates: how many tokens it is to rate; 0 where it draws.
    drawn, logq: tokens drawn and their log-probabilities (nats) under the distribution drawn from.
    after: log-probabilities of further tokens at the position of the last one drawn.
    before: those of the tokens read, from the second on, where asked for.
    cached: tokens read from vLLM's prefix cache.
    trouble: why vLLM gave up on the request.
    """

    tokens: Sequence[int]
    parameters: Mapping[str, Any]
    stops: Callable[[Sequence[int]], bool] | None = None
    rates: int = 0
    drawn: list[int] = field(default_factory=list)
    logq: list[float] = field(default_factory=list)
    after: Mapping[int, float] = field(default_factory=dict)
    before: Sequence[float] = ()
    cached: int = 0
    trouble: str | None = None

    @property
    def cost(self) -> Work:
        """Tokens whose evaluation draws or rates another are left out of those read: they count as generated or scored."""
        drawn = len(self.drawn)
        return Work(
            len(self.tokens) - self.cached - max(1, self.rates), self.cached, generated=0 if self.rates else drawn, forwards=drawn
        )

    def take(self, output: Any) -> bool:
        """Add what a RequestOutput tells; returns whether the request is done."""
        self.cached = output.num_cached_tokens or 0
        if output.prompt_logprobs is not None:
            self.before = output.prompt_logprobs.logprobs  # flat: one for each token that has one before it
        [answer] = output.outputs
        for token, told in zip(answer.token_ids, answer.logprobs, strict=True):
            self.after = {other: entry.logprob for other, entry in told.items()}
            self.drawn.append(token)
            self.logq.append(self.after[token])
            if self.stops is not None and self.stops(self.drawn):
                return True
        if output.finished and answer.finish_reason not in ("stop", "length"):
            self.trouble = f"vLLM ended a request with {answer.finish_reason!r}"
        return output.finished


class Batch:
    """The requests under way in one vLLM engine."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self._names: dict[Request, str] = {}
        self._requests: dict[str, Request] = {}
        self._numbers = count()

    def join(self, rows: Sequence[Request]) -> None:
        for request in rows:
            name = str(next(self._numbers))
            self.driver.add(name, request.tokens, request.parameters, gradual=request.stops is not None)
            self._names[request] = name
            self._requests[name] = request

    def step(self) -> list[Request]:
        done: list[Request] = []
        unfinished: list[str] = []
        for output in self.driver.step():
            request = self._requests.get(output.request_id)
            if request is not None and request.take(output):
                done.append(request)
                self._forget(request)
                if not output.finished:
                    unfinished.append(output.request_id)
        if unfinished:
            self.driver.abort(unfinished)
        return done

    def leave(self, rows: Sequence[Request]) -> None:
        names = [self._forget(request) for request in rows if request in self._names]
        self.driver.abort(names)

    def _forget(self, request: Request) -> str:
        name = self._names.pop(request)
        del self._requests[name]
        return name
