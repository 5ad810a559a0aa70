"""vLLM in this process as an engine: the law p(y|x) of a causal language model, drawn and rated by vLLM.

Draws. vLLM draws the tokens, from its own generator seeded for every request by the draft's key; a draft therefore
repeats, up to the rounding of vLLM's batches, which differ from run to run. Log-probabilities are its "processed" ones:
of the law after temperature and truncation, which by default it does not tell.

Ratings. vLLM rates the tokens that it reads by the model's own law alone, whatever the mode. So a draft is rated by one
request at temperature 1 without truncation, and else by one request for each token, which asks for that token's
log-probability at the next place; prefixes come from the cache. Both are the law of `extend`.

Ends. Stop strings are looked for here and not by vLLM, which would miss those that begin before the call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from exptilt.draft import Draft, Finish
from exptilt.engines.ledger import Ledger
from exptilt.engines.sampling import Sampling, check_count
from exptilt.engines.scheduler import Scheduler
from exptilt.engines.text import Text, check_cap, check_room, check_system, check_tokens
from exptilt.engines.vllm.batch import Backend, Batch, Request
from exptilt.errors import ModelError
from exptilt.keys import Floats, Key
from exptilt.usage import Work

SEEDS = 2**63 - 1  # vLLM takes 64-bit seeds with a sign
TEMPERATURES = (0.01, 2.0)  # vLLM raises what is lower to the one and refuses what is higher than the other


class Model:
    """A model that vLLM has loaded, ready to serve many callers.

    backend: vLLM. text: its tokenizer and the tokens that end a response. context: tokens of prompt and response at
    most. vocabulary: number of token ids. max_rows: requests in flight at most; more wait. settings: what fixes the
    model's law, as JSON values.
    """

    def __init__(
        self,
        backend: Backend,
        text: Text,
        *,
        name: str,
        context: int,
        vocabulary: int,
        max_rows: int,
        settings: Mapping[str, Any],
    ) -> None:
        self.text, self.name, self.context, self.vocabulary, self.settings = text, name, context, vocabulary, settings
        self.backend = backend
        self.scheduler: Scheduler[Request] = Scheduler(Batch(backend), max_rows=max_rows, name=name)
        self.ledger = Ledger()

    def run(self, requests: Sequence[Request]) -> None:
        """Have requests answered. Raises ModelError where vLLM fails or gives up on one."""
        self.scheduler.run(requests)
        for request in requests:
            if request.trouble is not None:
                raise ModelError(f"{self.name}: {request.trouble}. Try again; lower max_rows where memory is short.")

    def close(self) -> None:
        """Stop the worker and vLLM; calls under way and calls to come raise ModelError."""
        self.scheduler.close()
        self.backend.close()


@dataclass(frozen=True)
class VLLMEngine:
    """The law p(y|x) of a model in vLLM under the given sampling parameters.

    model: the model (`exptilt.engines.vllm.loading.read_model`). sampling: temperature, truncation, stop rule and cap.
    system: a text for the system turn of the chat template; template=False feeds prompts as they are.

    Where tokens tie at the edge of top_p, vLLM keeps those that its sorting happens to put first, not all of them.
    """

    model: Model
    sampling: Sampling = field(default_factory=Sampling)
    system: str | None = None
    template: bool = True
    work: Work = field(default_factory=Work, compare=False, repr=False)

    can = frozenset({"continue", "logq", "score", "seed"})

    def __post_init__(self) -> None:
        check_system(self.model.text, self.system, self.template, self.name)
        check_cap(self.max_tokens, self.model.context, self.name)
        least, most = TEMPERATURES
        if not least <= self.sampling.temperature <= most:
            raise ValueError(
                f"temperature={self.sampling.temperature} is outside {least} to {most}, where vLLM draws: give one inside, "
                "or top_k=1 for greedy decoding"
            )

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def max_tokens(self) -> int:
        return self.sampling.max_tokens

    @property
    def alphabet(self) -> str:
        return self.model.text.alphabet

    @property
    def settings(self) -> Mapping[str, Any]:
        return {
            "engine": "vllm",
            "model": self.name,
            **self.model.settings,
            "system": self.system,
            "template": self.template,
            **self.sampling.settings(),
        }

    def with_sampling(self, **changes: Any) -> VLLMEngine:
        """The same model under other sampling parameters: any of the fields of `Sampling`."""
        return replace(self, sampling=replace(self.sampling, **changes))

    def metered(self, work: Work) -> VLLMEngine:
        return replace(self, work=work)

    def start(self, prompt: str) -> Draft:
        """The empty draft of a prompt. Raises PromptError where the prompt is empty or leaves no room for a response."""
        self._encode(prompt)
        return Draft(prompt)

    def extend(self, drafts: Sequence[Draft], keys: Sequence[Key], tokens: int | None = None) -> list[Draft]:
        """Draw up to `tokens` more tokens of each draft (None: to its end), one key per draft."""
        check_count(tokens)
        asked = [self._drawing(draft, key, self._room(draft, tokens)) for draft, key in zip(drafts, keys, strict=True)]
        requests = [request for request in asked if request is not None]
        self.model.run(requests)
        drawn = [() if request is None else tuple(request.drawn) for request in asked]
        self.model.ledger.count(self.work, (request.cost for request in requests), generated=sum(map(len, drawn)))
        texts = self.model.text.decode([draft.tokens + new for draft, new in zip(drafts, drawn, strict=True)])
        return [
            draft if draft.finish is not None else self._extended(draft, request, self.sampling.before_stop(text))
            for draft, request, text in zip(drafts, asked, texts, strict=True)
        ]

    def score(self, drafts: Sequence[Draft], starts: Sequence[int] | None = None) -> list[Floats]:
        """Log-probability (nats) of the tokens of each draft from number `starts[i]` on; -inf outside the law's support."""
        first = starts or [0] * len(drafts)
        asked = [self._ratings(draft, start) for draft, start in zip(drafts, first, strict=True)]
        requests = [request for some in asked for request in some]
        self.model.run(requests)
        costs, scored = (request.cost for request in requests), sum(request.rates for request in requests)
        self.model.ledger.count(self.work, costs, scored=scored)
        return [
            np.array([self._rated(draft, some, place) for place in range(start, len(draft.tokens))], dtype=np.float64)
            for draft, some, start in zip(drafts, asked, first, strict=True)
        ]

    def _law(self) -> dict[str, Any]:
        """The law of one token as fields of vLLM's SamplingParams."""
        sampling = self.sampling
        return {"temperature": float(sampling.temperature), "top_p": float(sampling.top_p), "top_k": sampling.top_k or 0}

    def _encode(self, prompt: str) -> tuple[int, ...]:
        ids = self.model.text.encode(prompt, self.system, self.template)
        check_room(len(ids), self.max_tokens, self.model.context, self.name)
        return ids

    def _room(self, draft: Draft, tokens: int | None) -> int:
        left = max(0, self.max_tokens - len(draft.tokens))
        return left if tokens is None else min(left, tokens)

    def _drawing(self, draft: Draft, key: Key, room: int) -> Request | None:
        """The request that extends a draft by up to `room` tokens; None where nothing is to be drawn."""
        if draft.finish is not None or not room:
            return None
        check_tokens(draft.tokens, self.model.vocabulary, self.name)
        stop, text = self.sampling.stop, self.model.text
        parameters = self._law() | {
            "max_tokens": room,
            "seed": int(key.rng().integers(SEEDS)),
            "logprobs": 0,  # of the token drawn alone
            "stop_token_ids": sorted(text.ends),
        }
        return Request(
            self._encode(draft.prompt) + draft.tokens,
            parameters,
            stops=(lambda drawn: text.stops((*draft.tokens, *drawn), stop)) if stop else None,
        )

    def _extended(self, draft: Draft, request: Request | None, text: str) -> Draft:
        """The draft with what was drawn; without log-probabilities where it had none before."""
        drawn, values = ((), ()) if request is None else (request.drawn, request.logq)
        tokens = (*draft.tokens, *drawn)
        finish: Finish | None = "length" if len(tokens) >= self.max_tokens else None
        if request is not None and (request.stopped or tokens[-1] in self.model.text.ends):
            finish = "stop"
        return Draft(draft.prompt, tokens, None if draft.logq is None else (*draft.logq, *values), text, finish)

    def _ratings(self, draft: Draft, start: int) -> list[Request]:
        """Requests that rate the tokens of a draft from number `start` on, the last one first.

        Each reads the draft up to some token and asks for the log-probability of that one; where the law is the model's
        own, a single request rates the tokens before it as well.
        """
        count = len(draft.tokens)
        if start >= count:
            return []
        check_tokens(draft.tokens, self.model.vocabulary, self.name)
        prompt, plain = self._encode(draft.prompt), self.sampling.temperature == 1 and not self.sampling.truncated
        law = self._law() | {"max_tokens": 1}
        before = {"prompt_logprobs": 0} if plain and count - start > 1 else {}
        places, rates = ([count - 1], count - start) if plain else (range(count - 1, start - 1, -1), 1)
        return [
            Request(prompt + draft.tokens[:place], law | before | {"logprob_token_ids": [draft.tokens[place]]}, rates=rates)
            for place in places
        ]

    def _rated(self, draft: Draft, requests: Sequence[Request], place: int) -> float:
        """The log-probability of token number `place`, from the requests of `_ratings`."""
        back = len(draft.tokens) - 1 - place
        if len(requests) > back:
            return requests[back].after[draft.tokens[place]]
        return requests[0].before[-back]
