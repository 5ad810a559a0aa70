"""What an answer is to every protocol: its text and tokens, and what exptilt found besides."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from exptilt.core import Engine
from exptilt.describe import describe
from exptilt.engines.language import LanguageEngine
from exptilt.running.result import Result
from exptilt.serve.asked import Asked
from exptilt.serve.recipes import Recipe
from exptilt.usage import Usage, Work


@dataclass(frozen=True)
class Event:
    """A server-sent event; one without data is a comment, which clients skip."""

    data: str | None = None
    name: str | None = None
    comment: str | None = None


def data(value: Mapping[str, Any], name: str | None = None) -> Event:
    """An event with JSON in it."""
    return Event(encode(value), name)


def encode(value: Any) -> str:
    """JSON on one line; numbers that JSON does not have are null."""
    return json.dumps(finite(value), allow_nan=False, separators=(",", ":"))


def finite(value: Any) -> Any:
    """The value with null for infinities and NaN."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class Answer:
    """One answer. A request has as many as prompts times `n`.

    index: its number among them.
    tokens: each token with its log-probability, where they were asked for.
    prompt_tokens, answer_tokens: how many tokens its prompt and the chosen response have.
    found: what exptilt found, as JSON values.
    result: all of it.
    """

    index: int
    text: str
    finish: str
    tokens: list[dict[str, Any]] | None
    prompt_tokens: int
    answer_tokens: int
    found: Mapping[str, Any]
    result: Result


@dataclass(frozen=True)
class Head:
    """What all parts of an answer have in common."""

    id: str
    created: int
    asked: Asked
    recipe: Recipe
    seed: int
    prompt_tokens: int

    def found(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """What exptilt found, for the whole request: the cost of all its answers, and of one alone everything."""
        first = dict(answers[0].found) if len(answers) == 1 else {}
        return first | {"cost": cost([answer.result.usage for answer in answers])}


def answer_of(result: Result, index: int, engine: Engine, logprobs: bool) -> Answer:
    """The answer that a result is."""
    draft = result.draft
    return Answer(
        index=index,
        text=draft.text,
        finish=draft.finish or "stop",
        tokens=_tokens(result, engine) if logprobs else None,
        prompt_tokens=len(engine.prompt_tokens(draft.prompt)),
        answer_tokens=draft.decided,
        found=found(result),
        result=result,
    )


def found(result: Result) -> dict[str, Any]:
    """What exptilt found for one answer, as JSON values."""
    population = result.population
    posterior = result.posterior
    return {
        "log_z": result.log_z,
        "ess": population.ess,
        "drafts": len(population),
        "reward": result.reward,
        "mean_reward": population.mean_reward,
        "posterior": None if posterior is None else [[None if key is None else str(key), p] for key, p in posterior.items()],
        "proved": result.proved,
        "stopped": result.stopped,
        "limit": result.limit,
        "warnings": list(result.warnings),
        "sampler": describe(result.sampler),
        "seed": result.seed,
        "cost": cost([result.usage]),
    }


def cost(usages: Sequence[Usage]) -> dict[str, Any]:
    """What answers cost together: tokens generated, positions computed, calls of the reward, and the longest time.

    A prefix that several drafts share is computed once.
    """
    works = [work for usage in usages for work in (usage.reference, usage.proposal)]
    parts = {name: vars(sum_of([getattr(usage, name) for usage in usages])) for name in ("reference", "proposal")}
    return {
        "generated": sum(work.generated for work in works),
        "computed": sum(work.prompt + work.generated + work.scored for work in works),
        "reward_calls": sum(usage.reward_calls for usage in usages),
        "rated": sum(usage.rated for usage in usages),
        "seconds": round(max(usage.seconds for usage in usages), 6),
        **parts,
    }


def sum_of(works: Sequence[Work]) -> Work:
    total = Work()
    for work in works:
        total.add(**vars(work))
    return total


def tokens_used(answers: Sequence[Answer]) -> tuple[int, int]:
    """How many tokens the prompts have, each once, and the answers together."""
    prompts = {answer.result.prompt: answer.prompt_tokens for answer in answers}
    return sum(prompts.values()), sum(answer.answer_tokens for answer in answers)


def tells_tokens(engine: Engine) -> bool:
    """Whether the text of each token of a response can be told."""
    return isinstance(engine, LanguageEngine)


def _tokens(result: Result, engine: Engine) -> list[dict[str, Any]]:
    """The tokens of the chosen response with their log-probabilities under p, those that end a text as the empty string."""
    draft = result.draft
    assert isinstance(engine, LanguageEngine)
    assert draft.logq is not None
    texts = engine.backend.text.decode([[token] for token in draft.tokens])
    rows = zip(texts, draft.logq, strict=True)
    return [
        {"token": text, "logprob": logq, "bytes": None if "\ufffd" in text else list(text.encode()), "top_logprobs": []}
        for text, logq in rows
    ]
