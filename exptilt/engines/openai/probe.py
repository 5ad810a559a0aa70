"""What a server can do, found out before anything is drawn: one-token requests when the engine is loaded.

Three modes follow from it:

"ids"   `/completions` takes and tells token ids (vLLM). Drafts have the model's own tokens, prefixes are continued
        exactly as they were drawn, and log-probabilities and scores are the model's, where they are of the law drawn.
"text"  `/completions` takes and tells text (llama.cpp's server, some hosted ones). See `pieces`.
"chat"  only `/chat/completions`: whole answers, nothing to continue.

Whether log-probabilities are those of the law drawn is measured by one token at temperature 1/2 and top_k 2: then the
gap between the two likeliest doubles and their probabilities sum to one. Raw ones, vLLM's default, do neither.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal

from exptilt.engines.openai.wire import Make, choices, law_fields
from exptilt.engines.sampling import Sampling
from exptilt.engines.transport import Refused, Transport
from exptilt.errors import ModelError
from exptilt.keys import Key

Mode = Literal["ids", "text", "chat"]
Wanted = Literal["auto", "completions", "chat"]
ABSENT = (404, 405, 501)  # how servers say that there is no such endpoint, or no such model
PROBE = "The answer is"
CLEAR_GAP = 0.01  # nats; below this, rounding could be taken for a temperature
# Its token ids tell tokenizers apart: words, numbers, code, white space, other scripts.
SPECIMEN = "Each of 12,345 möbius strips costs $6.78!\n\n\tdef f(x):\n        return x**2  # ещё 数学 🙂 <tag/> 'don't' ∑≤π"


@dataclass(frozen=True)
class Abilities:
    """What a server offers for a model.

    logq: it tells the log-probability of every token drawn; processed: taken after temperature and truncation (by
    measurement, or because the user says so). score: it rates given tokens. context: tokens of prompt and response, where told.
    cap: how the field for the most tokens is called. alphabet: see `core.Engine`.
    """

    mode: Mode
    make: Make
    alphabet: str
    logq: bool = False
    processed: bool = False
    score: bool = False
    context: int | None = None
    cap: str = "max_tokens"


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
            problem = self._text_problem(make)
            if problem is None:
                return Abilities("text", make, "text")
            if wanted == "completions" or not self.template:
                raise self._unusable(problem, cards)
        cap, problem = self._chat()
        if problem is not None:
            raise self._unusable(problem, cards)
        return Abilities("chat", make, "text", cap=cap)

    def _cards(self) -> dict[str, dict[str, Any]]:
        """What the server says of its models, by their names; nothing where it keeps no list."""
        try:
            answer = self.transport.get("models", url=self.url)
        except Refused as error:
            if error.status in ABSENT:
                return {}
            raise
        listed = answer.get("data")
        return {str(card.get("id")): card for card in listed if isinstance(card, dict)} if isinstance(listed, list) else {}

    def _unusable(self, problem: str, cards: Mapping[str, Any]) -> ModelError:
        if cards and self.model not in cards:
            some = ", ".join(sorted(cards)[:20]) + (", ..." if len(cards) > 20 else "")
            return ModelError(
                f"{self.url} has no model {self.model!r}: it offers {some}. Load 'openai:' with one of these names."
            )
        return ModelError(f"{self.url} cannot serve {self.model!r} as asked: {problem}")

    def _ask(self, path: str, body: Mapping[str, Any]) -> dict[str, Any] | None:
        """The answer; None where the server has no such endpoint or model."""
        try:
            return self.transport.post(path, {"model": self.model, **body}, Key(0, "probe", path), url=self.url)
        except Refused as error:
            if error.status in ABSENT:
                return None
            raise

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
        return Abilities("ids", make, alphabet, logq, bool(processed), score, context)

    def _tokens(self, text: str) -> list[int] | None:
        answer = self._ask("/tokenize", {"prompt": text, "add_special_tokens": False})
        tokens = None if answer is None else answer.get("tokens")
        return tokens if isinstance(tokens, list) and all(isinstance(token, int) for token in tokens) else None

    def _text_problem(self, make: Make) -> str | None:
        """Why the server cannot continue text; None where it can."""
        if self.template and make != "llamacpp":
            return (
                "its /completions takes text, and it has no way to apply the model's chat template to it. "
                'Give template=False for prompts as they are, or mode="chat".'
            )
        fields = {"prompt": PROBE, "max_tokens": 1, "logprobs": 1}
        answer = self._ask("completions", fields | law_fields(Sampling(), make))
        if answer is None:
            return 'it has no /completions for this model. Give mode="chat" and leave template as it is.'
        if choices(answer, 1)[0].pieces is None:
            return 'its /completions tells no token strings, so drafts cannot be cut and continued. Give mode="chat".'
        if self.template and self._ask("/apply-template", {"messages": [{"role": "user", "content": PROBE}]}) is None:
            return 'it has no /apply-template. Give template=False, or mode="chat".'
        return None

    def _chat(self) -> tuple[str, str | None]:
        """What the token cap is called in a chat request, and what keeps the server from answering it."""
        turns = {"messages": [{"role": "user", "content": PROBE}]}
        cap = "max_tokens"
        try:
            answer = self._ask("chat/completions", turns | {cap: 1})
        except Refused as error:
            if "max_completion_tokens" not in error.said:
                raise
            cap = "max_completion_tokens"  # OpenAI's newer models
            answer = self._ask("chat/completions", turns | {cap: 1})
        if answer is None:
            return cap, 'it has no /chat/completions for this model. Give mode="completions".'
        choices(answer, 1)
        return cap, None


def _make(cards: Mapping[str, Mapping[str, Any]]) -> Make:
    owners = {card.get("owned_by") for card in cards.values()}
    found: list[Make] = [make for make in ("vllm", "sglang", "llamacpp") if make in owners]
    return found[0] if len(found) == 1 else "other"


def _likeliest(answer: Mapping[str, Any]) -> list[float]:
    """Log-probabilities (nats) of the two likeliest tokens of the first position; fewer where they are not told."""
    told = (answer["choices"][0].get("logprobs") or {}).get("top_logprobs")
    return sorted((told[0] or {}).values(), reverse=True)[:2] if told else []


def _processed(plain: list[float], colder: list[float]) -> bool:
    """Whether log-probabilities at temperature 1/2 and top_k 2 are of that law: twice the gap, and nothing beside the two."""
    if len(plain) < 2 or len(colder) < 2 or plain[0] - plain[1] < CLEAR_GAP:
        return False
    ratio = (colder[0] - colder[1]) / (plain[0] - plain[1])
    return abs(ratio - 2.0) < 0.1 and abs(math.exp(colder[0]) + math.exp(colder[1]) - 1.0) < 0.01


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) else None
