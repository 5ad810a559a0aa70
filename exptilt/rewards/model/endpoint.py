"""EndpointReward: a reward model behind a URL.

Three protocols, all POST with JSON, with one request for each response but in "rewards":

    "rewards"   ours, for a service of your own: {"prompt": text, "responses": [texts]} → {"rewards": [numbers]}, one for each
                response in their order, at the URL as given
    "classify"  vLLM serving a sequence classifier (`vllm serve MODEL --runner pooling`): /classify with the two turns as
                `messages`; the raw logits are asked for
    "pooling"   vLLM serving any pooling model: /pooling, in the same way; a model that gives a vector for each step or token is
                read by `label`, and reduced

Time-outs, lost connections, statuses 429 and 5xx and broken bodies are tried again after growing pauses, or after what
`Retry-After` asks for. What fails after that, or is refused, is a RewardError, so one prompt fails and a run goes on. What
concerns every prompt, a refused key (401, 403), a wrong address (404) or a server that cannot be reached, is a ModelError
and ends the run. The key is read from the environment and goes into the request's header alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from urllib.parse import urlsplit

import numpy as np

from exptilt.draft import Draft, Prompt, question
from exptilt.engines.requirements import require
from exptilt.errors import AnswerError, ModelError, PromptError, RewardError
from exptilt.keys import Floats, Key, digest
from exptilt.rewards.model.pairs import (
    Cutter,
    Long,
    Memory,
    Pair,
    Reduce,
    Value,
    check_reduce,
    check_value,
    chosen,
    reduced,
)

if TYPE_CHECKING:
    from exptilt.engines.transport import Transport

BATCH = 32  # responses of one request of the protocol "rewards"
PROTOCOLS = ("rewards", "classify", "pooling")
_TRIAL = ("What is 1 + 1?", "2")  # this pair is rated when the reward is made, so that errors show before any cost


@dataclass(frozen=True)
class EndpointReward:
    """The score that a service gives to (prompt, response).

    url: of the protocol "rewards" the service's own; of the others the server's, such as "http://localhost:8000".
    model: the model's name, sent with each request where given. It stands for the model in results files, and the URL does where
        there is none.
    protocol: "rewards", "classify" or "pooling", see above.
    label, value: as of `ClassifierReward`, a number here.
    reduce: of "pooling", how the vectors of several positions become one score: "last", "min", "product" or "mean".
    max_length: characters of prompt and response together, None for no limit.
    long: "cut" or "refuse" what is longer.
    key_name: the environment variable that holds the key; without it requests go without one.
    timeout: seconds until an attempt fails.
    attempts, concurrency, backoff: how often a request is sent at most, how many are under way at once, seconds of the first
        pause.

    Scores are remembered by text. Making one rates a trial pair: raises ModelError where that fails.
    """

    url: str = field(compare=False)
    model: str | None = None
    protocol: Literal["rewards", "classify", "pooling"] = "rewards"
    label: int | None = None
    value: Value = "logit"
    reduce: Reduce = "last"
    max_length: int | None = None
    long: Long = "cut"
    key_name: str = field(default="EXPTILT_REWARD_KEY", compare=False)
    timeout: float = field(default=60.0, compare=False)
    attempts: int = field(default=6, compare=False)
    concurrency: int = field(default=16, compare=False)
    backoff: float = field(default=0.5, compare=False)
    identity: str = field(init=False, repr=False)
    _transport: Transport = field(init=False, repr=False, compare=False)
    _memory: Memory = field(init=False, repr=False, compare=False)
    _cutter: Cutter = field(init=False, repr=False, compare=False)
    reads: ClassVar[str] = "text"

    def __post_init__(self) -> None:
        self._check()
        require("EndpointReward", "openai", ("httpx2",))
        from exptilt.engines.transport import Transport

        parts = urlsplit(self.url)
        root = self.url if self.protocol != "rewards" else self.url.removesuffix(parts.path)
        limits = {name: getattr(self, name) for name in ("timeout", "attempts", "concurrency", "backoff")}
        transport = Transport([root], self.key_name, **limits)
        name = f"EndpointReward({self.url!r})"
        object.__setattr__(self, "identity", self.model or self.url)
        object.__setattr__(self, "_transport", transport)
        object.__setattr__(self, "_memory", Memory(name))
        object.__setattr__(self, "_cutter", Cutter(name, self.long))
        try:
            self._memory.scores([_TRIAL], self._ask)
        except (RewardError, AnswerError, PromptError) as error:
            transport.close()
            raise ModelError(f"{name} cannot be used: {error}") from error
        except BaseException:
            transport.close()
            raise

    def _check(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise ValueError(f"protocol={self.protocol!r}: give one of {', '.join(PROTOCOLS)}")
        check_value(self.value, self.label)
        check_reduce(self.reduce)
        if self.max_length is not None and not self.max_length >= 1:
            raise ValueError(f"max_length={self.max_length!r}: give a number of characters of 1 or more, or None for no limit")
        if not (self.timeout > 0 and self.attempts >= 1 and self.concurrency >= 1 and self.backoff >= 0):
            raise ValueError(
                f"timeout={self.timeout}, attempts={self.attempts}, concurrency={self.concurrency}, backoff={self.backoff}: "
                "give a timeout above 0, at least one attempt and one request at a time, and a backoff of 0 or more seconds"
            )

    def __call__(self, prompt: Prompt, drafts: Sequence[Draft]) -> list[float]:
        return self._memory.scores([(question(prompt), draft.text) for draft in drafts], self._rate)

    def close(self) -> None:
        """Drop the connections once the requests under way are answered."""
        self._transport.close()

    def _rate(self, pairs: list[Pair]) -> list[float]:
        try:
            return self._ask(pairs)
        except AnswerError as error:
            raise RewardError(f"EndpointReward({self.url!r}) gives no score: {error}") from error

    def _ask(self, pairs: list[Pair]) -> list[float]:
        longest = math.inf if self.max_length is None else self.max_length
        fitting = [self._cutter.fit(pair, lambda each: sum(map(len, each)) <= longest) for pair in pairs]
        if self.protocol != "rewards":
            return self._transport.each([partial(self._one, pair) for pair in fitting])
        groups: dict[str, list[int]] = {}
        for number, (prompt, _) in enumerate(fitting):
            groups.setdefault(prompt, []).append(number)
        parts = [group[i : i + BATCH] for group in groups.values() for i in range(0, len(group), BATCH)]
        answers = self._transport.each([partial(self._several, [fitting[number] for number in part]) for part in parts])
        scores = {n: score for part, given in zip(parts, answers, strict=True) for n, score in zip(part, given, strict=True)}
        return [scores[number] for number in range(len(fitting))]

    def _post(self, path: str, body: Mapping[str, Any], pairs: Sequence[Pair]) -> dict[str, Any]:
        named = {"model": self.model} if self.model else {}
        return self._transport.post(path, {**named, **body}, Key(0, "reward", digest(repr(pairs))))

    def _several(self, pairs: Sequence[Pair]) -> list[float]:
        """The scores of responses to one prompt, by one request of the protocol "rewards"."""
        path = urlsplit(self.url).path or "/"
        body = {"prompt": pairs[0][0], "responses": [response for _, response in pairs]}
        answer = self._post(path, body, pairs)
        scores = _numbers(answer.get("rewards"), answer)
        if scores.shape != (len(pairs),):
            raise RewardError(f"{self.url} gave rewards of shape {scores.shape} for {len(pairs)} responses: give one for each")
        return scores.tolist()

    def _one(self, pair: Pair) -> float:
        """The score of one response, by one request to vLLM."""
        messages = [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
        answer = self._post(f"/{self.protocol}", {"messages": messages, "use_activation": False}, [pair])
        try:
            [found] = answer["data"]
            given = _numbers(found["probs" if self.protocol == "classify" else "data"], answer)
        except (KeyError, TypeError, ValueError):
            raise _malformed(answer) from None
        vectors = np.atleast_2d(given)
        labels = vectors.shape[1]
        if labels == 0 or (self.label is None and labels > 1) or (self.label or 0) >= labels:
            raise RewardError(f"{self.url} gives {labels} labels and label={self.label}: choose one by its number from 0")
        return reduced(
            np.array([chosen(vector, self.label if labels > 1 else None, self.value) for vector in vectors]), self.reduce
        )


def _numbers(given: Any, answer: Mapping[str, Any]) -> Floats:
    """Numbers of an answer, finite or not: the memory of scores refuses those that are not."""
    try:
        if np.asarray(given).dtype.kind in "US":  # a text is refused, also one of digits
            raise TypeError
        numbers = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError):
        raise _malformed(answer) from None
    if numbers.ndim == 0 or numbers.size == 0:
        raise _malformed(answer)
    return numbers


def _malformed(answer: Mapping[str, Any]) -> RewardError:
    return RewardError(f"the answer {str(dict(answer))[:200]} is not of the protocol: check the URL and protocol=")
