"""From a request to what will be run for it: everything that can be refused is refused here, before anything is drawn."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from exptilt.cancelling import Flag
from exptilt.core import Sampler, Target
from exptilt.draft import check_characters, check_filled
from exptilt.errors import ExptiltError, ModelError, PromptError, TargetError
from exptilt.populations.until import Until
from exptilt.running.request import Select
from exptilt.running.result import Result
from exptilt.running.run import stream
from exptilt.running.stream import Stream
from exptilt.serve.answers import Answer, answer_of, tells_tokens
from exptilt.serve.asked import Asked
from exptilt.serve.changes import changed
from exptilt.serve.config import Limits
from exptilt.serve.recipes import Catalogue, Recipe, parts, rows
from exptilt.serve.refusals import Refusal, refusal
from exptilt.usage import Budget

HEADER = "x-exptilt-budget"


@dataclass(frozen=True)
class Plan:
    """What will be run for a request.

    memory: key-values that each answer may hold, in tokens.
    rows: responses that each answer may draw at once.
    prompt_tokens: how many tokens the longest of its prompts has.
    """

    asked: Asked
    recipe: Recipe
    target: Target
    sampler: Sampler
    select: Select
    until: Until | None
    seed: int
    budget: Budget | None
    reward_timeout: float
    memory: int = 0
    rows: int = 0
    prompt_tokens: int = 0

    @property
    def answers(self) -> int:
        return len(self.asked.prompts) * self.asked.n

    def begin(self, number: int, flag: Flag) -> Stream:
        """The partial results of answer `number`: what `exptilt.run` gives for a list that has each prompt `n` times."""
        place, again = divmod(number, self.asked.n)
        prompt = self.asked.prompts[place]
        occurrence = self.asked.prompts[:place].count(prompt) * self.asked.n + again
        return stream(
            self.target, prompt, self.sampler, select=self.select, until=self.until, seed=self.seed, budget=self.budget,
            reward_timeout=self.reward_timeout, cancel=flag, occurrence=occurrence,
        )  # fmt: skip

    def answer(self, number: int, result: Result) -> Answer:
        """Answer `number`, which has come to this result."""
        return answer_of(result, number, self.target.engine, self.asked.logprobs)


def plan(asked: Asked, header: str | None, catalogue: Catalogue, limits: Limits) -> Plan:
    """What will be run for a request. Raises Refusal for what cannot be. This may take a while: prompts are made tokens."""
    recipe = changed(catalogue.recipe(asked.model), asked.changes, catalogue.rewards, limits)
    if (cap := asked.sampling.get("max_tokens", 0)) > limits.max_tokens:
        raise Refusal(
            f"max_tokens={cap} is above this server's limit of {limits.max_tokens}", param="max_tokens", code="too_large"
        )
    if (count := len(asked.prompts) * asked.n) > limits.threads:
        param = "n" if asked.n > 1 else "prompt"
        raise Refusal(
            f"{count} answers are asked for, and this server gives {limits.threads} at once", param=param, code="too_large"
        )
    target = catalogue.target(recipe, asked.sampling, asked.raw)
    if asked.logprobs:
        _check_logprobs(target)
    sampler, select, until = parts(recipe)
    seed = secrets.randbits(48) if asked.seed is None else asked.seed
    made = Plan(
        asked, recipe, target, sampler, select, until, seed, _budget(asked, header, limits),
        min(limits.reward_timeout, limits.deadline),
    )  # fmt: skip
    longest = 0
    try:
        for prompt in asked.prompts:
            check_filled(prompt)
            check_characters(prompt)
        for number in range(0, made.answers, asked.n):
            made.begin(number, _NEVER)  # the parts are checked against each other
            longest = max(longest, len(target.engine.prompt_tokens(asked.prompts[number // asked.n])))
    except ModelError:
        raise
    except ExptiltError as error:
        raise _at(error, asked) from error
    count = rows(sampler)
    return replace(made, memory=count * (longest + target.engine.max_tokens), rows=count, prompt_tokens=longest)


class _Never:
    def is_set(self) -> bool:
        return False


_NEVER = _Never()


def _at(error: ExptiltError, asked: Asked) -> Refusal:
    """The refusal of a prompt, or of parts that do not fit, which names the field at fault."""
    told = refusal(error)
    where = asked.where if isinstance(error, PromptError) else "exptilt" if isinstance(error, TargetError) else told.param
    return Refusal(told.message, told.status, param=where, code=told.code)


def _check_logprobs(target: Target) -> None:
    """Refuse log-probabilities that would not be those of p, or have no tokens to stand beside."""
    exact = target.proposal is None and "logq" in target.engine.can
    if not (exact and tells_tokens(target.engine)):
        why = "drafts come from a proposal" if target.proposal else "the model does not tell them for each token"
        raise Refusal(
            f"there are no exact logprobs here, because {why}: leave it out", param="logprobs", code="unsupported_value"
        )


def _budget(asked: Asked, header: str | None, limits: Limits) -> Budget | None:
    """The lowest of the server's budget, the request's, and its header's."""
    given = [asked.budget, _header(header)]
    if limits.budget is not None:
        given.append(vars(limits.budget))
    lowest: dict[str, Any] = {}
    for each in given:
        for name, value in each.items():
            if value is not None:
                lowest[name] = min(value, lowest.get(name, math.inf))
    return Budget(**lowest) if lowest else None


def _header(text: str | None) -> Mapping[str, Any]:
    """The budget in a header: "2000", which are tokens, or "tokens=2000, seconds=10, reward_calls=50"."""
    found: dict[str, Any] = {}
    if text is None:
        return found
    for part in text.split(","):
        name, sign, value = part.strip().rpartition("=")
        name = name.strip() if sign else "tokens"
        kinds: Mapping[str, type[int] | type[float]] = {"tokens": int, "seconds": float, "reward_calls": int}
        try:
            number = kinds[name](value) if name in kinds else math.nan
        except ValueError:
            number = math.nan
        if not 0 < number < math.inf:
            raise Refusal(
                f'{HEADER}: {text[:80]!r} is not a budget: write "tokens=2000, seconds=10, reward_calls=50", positive numbers',
                param=HEADER,
                code="invalid_value",
            )
        found[name] = number
    return found
