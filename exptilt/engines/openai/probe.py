"""What a server can do, found out before anything is drawn: one-token requests when the engine is loaded.

Three modes follow from it:

"ids"   `/completions` takes and returns token ids (vLLM). Drafts have the model's own tokens, prefixes are continued
        exactly as they were drawn, and log-probabilities and scores are the model's, where they are of the distribution drawn.
"text"  `/completions` takes and tells text (llama.cpp's server, some hosted ones). See `pieces`.
"chat"  only `/chat/completions`: whole answers, nothing to continue.

The same requests find out whether a server takes a seed and gives several responses to one request (some refuse the
fields, some ignore them), how it names the cap on tokens, and how low a cap it takes.

Whether log-probabilities are those of the distribution drawn is measured by one token at temperature 1/2 and top_k 2: then the
gap between the two likeliest doubles and their probabilities sum to one. Raw ones, vLLM's default, do neither.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from itertools import product
from typing import Any, Literal

from exptilt.engines.log_probs import ROUNDING
from exptilt.engines.openai.wire import Make, choices, law_fields
from exptilt.engines.sampling import Sampling
from exptilt.engines.transport import Transport
from exptilt.errors import AnswerError, ModelError, PromptError
from exptilt.keys import Key

LOGGER = logging.getLogger("exptilt")
Mode = Literal["ids", "text", "chat"]
Wanted = Literal["auto", "completions", "chat"]
CAPS = ("max_tokens", "max_completion_tokens")  # the second is that of OpenAI's newer models
LOWEST = (1, 16, 1024)  # tokens; some servers refuse less than 16, and reasoning models need more
COPIES: Mapping[str, int] = {"n": 2}
SEEDED: Mapping[str, int] = {"seed": 1}
PROBE = "The answer is"
CLEAR_GAP = 0.01  # nats; below this, rounding could be taken for a temperature
# Its token ids tell tokenizers apart: words, numbers, code, white space, other scripts.
SPECIMEN = "Each of 12,345 möbius strips costs $6.78!\n\n\tdef f(x):\n        return x**2  # ещё 数学 🙂 <tag/> 'don't' ∑≤π"


@dataclass(frozen=True)
class Abilities:
    """What a server offers for a model.

    logq: it returns the log-probability of every token drawn.
    processed: taken after temperature and truncation (by measurement, or because the user says so).
    score: it rates given tokens.
    context: tokens of prompt and response, where told.
    cap: the name of the field for the most tokens.
    alphabet: see `core.Engine`.
    seed: it takes a seed.
    copies: it gives as many responses to one request as are asked for.
    """

    mode: Mode
    make: Make
    alphabet: str
    logq: bool = False
    processed: bool = False
    score: bool = False
    context: int | None = None
    cap: str = "max_tokens"
    seed: bool = True
    copies: bool = True


@dataclass(frozen=True)
class Probe:
    """The questions to one server. template: whether the model's chat template must be applied to prompts."""

    transport: Transport
    url: str
    model: str
    template: bool

    def abilities(self, wanted: Wanted, make: Make | None, processed: bool | None) -> Abilities:
        """Raises ModelError where the server has no such model, or not what `wanted` asks for."""
        cards = self._cards()
        card = cards.get(self.model, {})
        make = make or _make(cards)
        if wanted != "chat":
            if make in ("vllm", "sglang") and (found := self._ids(make, processed, _whole(card.get("max_model_len")))):
                return found
            found = self._text(make)
            if isinstance(found, Abilities):
                return found
            if wanted == "completions" or not self.template:
                raise self._unusable(found, cards)
        if (found := self._chat(make)) is None:
            raise self._unusable('it has no /chat/completions for this model. Give mode="completions".', cards)
        return found

    def _cards(self) -> dict[str, dict[str, Any]]:
        """What the server says of its models, by their names; nothing where it keeps no list."""
        try:
            answer = self.transport.get("models", url=self.url)
        except AnswerError:  # the list is not needed to find out what the server can do
            answer = None
        listed = None if answer is None else answer.get("data")
        return {str(card.get("id")): card for card in listed if isinstance(card, dict)} if isinstance(listed, list) else {}

    def _unusable(self, problem: str, cards: Mapping[str, Any]) -> ModelError:
        if cards and self.model not in cards:
            some = ", ".join(sorted(cards)[:20]) + (", ..." if len(cards) > 20 else "")
            return ModelError(
                f"{self.url} has no model {self.model!r}: it offers {some}. Load 'openai:' with one of these names."
            )
        hint = "" if self.url.endswith("/v1") else f" base_url usually ends in /v1: try {self.url}/v1."
        return ModelError(f"{self.url} cannot serve {self.model!r} as asked: {problem}{hint}")

    def _ask(self, path: str, body: Mapping[str, Any]) -> dict[str, Any] | None:
        """The answer; None where the server has no such endpoint or model."""
        return self.transport.find(path, {"model": self.model, **body}, Key(0, "probe", path), url=self.url)

    def _grants(self, path: str, body: Mapping[str, Any], fields: Mapping[str, int]) -> bool:
        """Whether the server answers with some more fields, and gives as many responses as `n` asks for."""
        try:
            answer = self._ask(path, {**body, **fields})
            return answer is not None and bool(choices(answer, fields.get("n", 1)))
        except (AnswerError, PromptError):
            return False

    def _drawing(self, path: str, body: Mapping[str, Any]) -> tuple[bool, bool]:
        """Whether a server that answers `body` takes seeds and gives copies: one request where it does both."""
        if self._grants(path, body, {**SEEDED, **COPIES}):
            return True, True
        seed, copies = self._grants(path, body, SEEDED), self._grants(path, body, COPIES)
        if not seed:
            LOGGER.warning("%s refuses seeds for %s: drafts are drawn without, so runs cannot be repeated", self.url, self.model)
        return seed, copies

    def _ids(self, make: Make, processed: bool | None, context: int | None) -> Abilities | None:
        """Abilities in token ids; None where the server does not take or tell them."""
        prompt, specimen = self._tokens(PROBE), self._tokens(SPECIMEN)
        if prompt is None or specimen is None:
            return None
        fields = {"prompt": prompt, "max_tokens": 1, "logprobs": 2, "return_token_ids": True}
        rating = {"prompt_logprobs": 1} if make == "vllm" else {}
        answer = self._ask("completions", fields | law_fields(Sampling(), make) | rating)
        if answer is None or (drawn := choices(answer, 1)[0]).ids is None:
            return None
        logq = drawn.logq is not None and len(drawn.logq) == len(drawn.ids)
        if processed is None and logq:
            colder = self._ask("completions", fields | law_fields(Sampling(temperature=0.5, top_k=2), make))
            processed = colder is not None and _processed(_likeliest(answer), _likeliest(colder))
        rated = answer["choices"][0].get("prompt_logprobs")
        score = isinstance(rated, list) and len(rated) == len(prompt)
        alphabet = f"ids-{blake2b(repr(specimen).encode(), digest_size=16).hexdigest()}"
        seed, copies = self._drawing("completions", fields | law_fields(Sampling(), make))
        return Abilities("ids", make, alphabet, logq, bool(processed), score, context, seed=seed, copies=copies)

    def _tokens(self, text: str) -> list[int] | None:
        answer = self._ask("/tokenize", {"prompt": text, "add_special_tokens": False})
        tokens = None if answer is None else answer.get("tokens")
        return tokens if isinstance(tokens, list) and all(isinstance(token, int) for token in tokens) else None

    def _text(self, make: Make) -> Abilities | str:
        """Abilities in text, or why the server cannot continue it."""
        if self.template and make != "llamacpp":
            return (
                "its /completions takes text, and it has no way to apply the model's chat template to it. "
                'Give template=False for prompts as they are, or mode="chat".'
            )
        fields = {"prompt": PROBE, "max_tokens": 1, "logprobs": 1} | law_fields(Sampling(), make)
        answer = self._ask("completions", fields)
        if answer is None:
            return 'it has no /completions for this model. Give mode="chat" and leave template as it is.'
        if choices(answer, 1)[0].pieces is None:
            return 'its /completions returns no token strings, so drafts cannot be cut and continued. Give mode="chat".'
        if self.template and self._ask("/apply-template", {"messages": [{"role": "user", "content": PROBE}]}) is None:
            return 'it has no /apply-template. Give template=False, or mode="chat".'
        seed, copies = self._drawing("completions", fields)
        return Abilities("text", make, "text", seed=seed, copies=copies)

    def _chat(self, make: Make) -> Abilities | None:
        """Abilities of a server that gives whole answers; None where it gives none for this model."""
        turns = {"messages": [{"role": "user", "content": PROBE}]}
        refusals: list[AnswerError] = []
        for lowest, cap in product(LOWEST, CAPS):
            body = turns | {cap: lowest}
            try:
                answer = self._ask("chat/completions", body)
            except AnswerError as error:
                if error.status not in (400, 422):
                    raise
                refusals.append(error)
                continue
            except PromptError as error:  # of so many tokens: what it said of fewer tells more
                raise (refusals or [error])[0] from error
            if answer is None:
                return None
            choices(answer, 1)
            seed, copies = self._drawing("chat/completions", body)
            return Abilities("chat", make, "text", cap=cap, seed=seed, copies=copies)
        raise next((error for error in refusals if not any(cap in error.said for cap in CAPS)), refusals[0])


def _make(cards: Mapping[str, Mapping[str, Any]]) -> Make:
    owners = {str(card.get("owned_by")) for card in cards.values()}
    found: list[Make] = [make for make in ("vllm", "sglang", "llamacpp") if make in owners]
    return found[0] if len(found) == 1 else "other"


def _likeliest(answer: Mapping[str, Any]) -> list[float]:
    """Log-probabilities (nats) of the two likeliest tokens of the first position; fewer where they are not told."""
    try:
        told = [float(value) for value in answer["choices"][0]["logprobs"]["top_logprobs"][0].values()]
    except (KeyError, IndexError, TypeError, AttributeError, ValueError):
        return []
    return sorted(told, reverse=True)[:2] if all(-math.inf < value <= ROUNDING for value in told) else []


def _processed(plain: list[float], colder: list[float]) -> bool:
    """Whether log-probabilities at temperature 1/2 and top_k 2 are of that distribution: twice the gap, and no third token."""
    if len(plain) < 2 or len(colder) < 2 or plain[0] - plain[1] < CLEAR_GAP:
        return False
    ratio = (colder[0] - colder[1]) / (plain[0] - plain[1])
    return abs(ratio - 2.0) < 0.1 and abs(math.exp(colder[0]) + math.exp(colder[1]) - 1.0) < 0.01


def _whole(value: Any) -> int | None:
    return value if type(value) is int and value > 0 else None
