"""vLLM in this process as a backend of `exptilt.engines.language`: a causal language model, drawn and rated by vLLM.

Draws. vLLM draws the tokens, from its own generator seeded for every request by the draft's key; a draft therefore
repeats, up to the rounding of vLLM's batches, which differ from run to run. Log-probabilities are its "processed" ones:
of the distribution after temperature and truncation, which by default it does not tell.

Ratings. vLLM rates the tokens that it reads by the model's own distribution alone, whatever the mode. So a draft is rated by one
request at temperature 1 without truncation, and else by one request for each token, which asks for that token's
log-probability at the next position; prefixes come from the cache. Both are the distribution of `extend`.

Ends. Stop strings and the ends of steps are looked for here and not by vLLM, which would miss those that begin before the call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from exptilt.engines.row import LeftToRight, Rated, Row
from exptilt.engines.sampling import Sampling
from exptilt.engines.scheduler import Scheduler
from exptilt.engines.text import Text
from exptilt.engines.vllm.batch import Batch, Driver, Request
from exptilt.errors import ModelError

SEEDS = 2**63 - 1  # vLLM takes 64-bit seeds with a sign
TEMPERATURES = (0.01, 2.0)  # vLLM raises what is lower to the one and refuses what is higher than the other


class Model:
    """A model that vLLM has loaded, ready to serve many callers.

    driver: vLLM.
    text: its tokenizer and the tokens that end a response.
    context: tokens of prompt and response at most.
    vocabulary: number of token ids.
    max_rows: requests in flight at most; more wait.
    settings: what fixes the model's distribution, as JSON values.
    generation: what its generation_config.json sets.

    Where tokens tie at the edge of top_p, vLLM keeps those that its sorting happens to put first, not all of them.
    """

    layout = LeftToRight()

    def __init__(
        self,
        driver: Driver,
        text: Text,
        *,
        name: str,
        context: int,
        vocabulary: int,
        max_rows: int,
        settings: Mapping[str, Any],
        generation: Mapping[str, Any] | None = None,
    ) -> None:
        self.text, self.name, self.context, self.vocabulary = text, name, context, vocabulary
        self.settings = {"engine": "vllm", "model": name, **settings}
        self.driver, self.generation = driver, generation
        self.scheduler: Scheduler[Request] = Scheduler(Batch(driver), max_rows=max_rows, name=name)

    @property
    def rows_at_once(self) -> int:
        """How many requests are in vLLM at once. How many tokens its cache holds for them is its own concern: it preempts."""
        return self.scheduler.admission.max_rows

    def can(self, sampling: Sampling) -> frozenset[str]:
        return frozenset({"continue", "steps", "logq", "score"})

    def check(self, sampling: Sampling) -> None:
        self.text.check_stop(sampling.stop)
        sampling.check_ids(self.vocabulary, self.name)
        _check_order(sampling)
        least, most = TEMPERATURES
        if not least <= sampling.temperature <= most:
            raise ValueError(
                f"temperature={sampling.temperature} is outside {least} to {most}, where vLLM draws: give one inside, "
                "or top_k=1 for greedy decoding"
            )

    def draw(self, rows: Sequence[Row]) -> None:
        """Draw rows by vLLM's own generator, seeded by each row's key."""
        asked = [self._drawing(row) for row in rows]
        self._run(asked)
        for row, request in zip(rows, asked, strict=True):
            row.tokens, row.logq, row.cost = request.drawn, request.logq, request.cost
            row.look(self.text)

    def rate(self, rows: Sequence[Rated]) -> None:
        """Rate given tokens, the last one first."""
        asked = [_ratings(row) for row in rows]
        self._run([request for some in asked for request in some])
        for row, some in zip(rows, asked, strict=True):
            row.values = np.array([_rated(row, some, position) for position in range(len(row.targets))])[:, None]
            for request in some:
                row.cost.add(**vars(request.cost))

    def _drawing(self, row: Row) -> Request:
        """The request that draws a row."""
        parameters = _distribution(row.sampling) | {
            "max_tokens": row.room,
            "seed": int(row.key.rng().integers(SEEDS)),
            "logprobs": 0,  # of the token drawn alone
            "stop_token_ids": sorted(self.text.ends | {*row.sampling.stop_token_ids}),
        }
        watched = row.sampling.stop or row.step is not None
        return Request(row.context.tokens, parameters, stops=partial(self._stops, row) if watched else None)

    def _stops(self, row: Row, drawn: Sequence[int]) -> bool:
        """Whether the tokens drawn for a row so far end with a stop string, or end its step."""
        stop = row.sampling.stop
        if stop and self.text.stops((*row.prior, *drawn), stop):
            return True
        return row.step is not None and self.text.ends_step(row.step, row.prior, drawn)

    def _run(self, requests: Sequence[Request]) -> None:
        """Have requests answered. Raises ModelError where vLLM fails or gives up on one."""
        self.scheduler.run(requests)
        for request in requests:
            if request.trouble is not None:
                raise ModelError(f"{self.name}: {request.trouble}. Try again; lower max_rows where memory is short.")

    def close(self) -> None:
        """Stop the worker and vLLM; calls under way and calls to come raise ModelError."""
        self.scheduler.close()
        self.driver.close()


def _distribution(sampling: Sampling) -> dict[str, Any]:
    """The distribution of one token as fields of vLLM's SamplingParams."""
    law: dict[str, Any] = {
        "temperature": float(sampling.temperature),
        "top_p": float(sampling.top_p),
        "top_k": sampling.top_k or 0,
    }
    law |= {"min_p": float(sampling.min_p), "repetition_penalty": float(sampling.repetition_penalty)}
    return law | ({"logit_bias": sampling.biases} if sampling.logit_bias else {})


def _check_order(sampling: Sampling) -> None:
    """Refuse what vLLM takes in another sense than `Sampling`."""
    if sampling.counts:
        raise ValueError(
            "presence_penalty and frequency_penalty count what vLLM draws in one call, and not what a draft has before: leave "
            "them out, give repetition_penalty, or load the model as hf:"
        )
    if sampling.min_p and sampling.top_p < 1:
        raise ValueError("vLLM applies min_p before top_p, and so keeps other tokens: give one of them, or load the model as hf:")


def _ratings(row: Rated) -> list[Request]:
    """Requests that rate the targets of a row, the last one first.

    Each reads up to some target and asks for the log-probability of that one; where the distribution is the model's
    own, a single request rates the targets before it as well.
    """
    count, plain = len(row.targets), row.sampling.plain
    fields = _distribution(row.sampling) | {"max_tokens": 1}
    before = {"prompt_logprobs": 0} if plain and count > 1 else {}
    positions, rates = ([count - 1], count) if plain else (range(count - 1, -1, -1), 1)
    return [
        Request(
            row.context.tokens + row.targets[:position],
            fields | before | {"logprob_token_ids": [row.targets[position]]},
            rates=rates,
        )
        for position in positions
    ]


def _rated(row: Rated, requests: Sequence[Request], position: int) -> float:
    """The log-probability of target number `position`, from the requests of `_ratings`."""
    back = len(row.targets) - 1 - position
    if len(requests) > back:
        return requests[back].after[row.targets[position]]
    return requests[0].before[-back]
