"""A model behind a server as an engine: the law p(y|x) of its answers under given sampling parameters.

What an engine `can` depends on the server (`probe`) and on the sampling parameters:

    ids    "continue"; "logq" where the recorded log-probabilities are those of the law drawn: at temperature 1 without
           truncation, or where the server takes them after both (vLLM: --logprobs-mode processed_logprobs); "score" at
           temperature 1 without truncation, because servers rate given tokens by the model's own law
    text   "continue", up to the server's encoding of the prefix (`pieces`)
    chat   whole answers only
    all    "seed" where seeds are sent to a server known to honour them, vLLM or llama.cpp's

Ends. A response ends as `Sampling` says, wherever it was cut into calls: a stop string that begins in the prefix and
ends in what was drawn now is not seen by the server, and is found here. Draws are those of the server, so a draft
depends on its neighbours in the server's batch as far as the server's rounding does.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from exptilt.draft import Draft, Finish
from exptilt.engines.openai.pieces import END, split
from exptilt.engines.openai.server import Server, turns
from exptilt.engines.openai.wire import Choice, checked_logq, choices, law_fields, malformed, rated, spent
from exptilt.engines.sampling import Sampling, check_count
from exptilt.engines.text import check_cap, check_room
from exptilt.errors import AnswerError, CapabilityError, PromptError
from exptilt.keys import Floats, Key
from exptilt.usage import Work

MOST_COPIES = 128  # responses to one request; OpenAI's own limit
SEEDS = 2**31  # servers differ in the width of a seed; all take 31 bits
OWN_FIELDS = frozenset(
    {"model", "prompt", "messages", "n", "seed", "stream", "echo", "logprobs", "return_token_ids", "stop", "max_tokens"}
    | {"max_completion_tokens", "temperature", "top_p", "top_k"}
)
TEMPLATE_FIELDS = frozenset({"chat_template_kwargs", "chat_template", "documents", "tools"})  # read where the template is applied


@dataclass(frozen=True)
class OpenAIEngine:
    """The law p(y|x) of a served model under the given sampling parameters.

    server: the model with its connections (`connect`). sampling: temperature, truncation, stop rule and cap.
    system: a text for the system turn; template=False sends prompts without the model's chat template.
    seeds: send every draft as a request of its own with a seed from its key, so that a run can be repeated. Without,
        equal prefixes go as one request for n responses, which a hosted server bills for one prompt instead of n; a
        server that caches prefixes, as vLLM does, computes the prompt once either way.
    extra: further fields for every request, as JSON values; they are part of the law and of `settings`. Those that the
        chat template reads, such as chat_template_kwargs, go to the request that applies it.

    Work is what the servers' `usage` says: cached tokens where they tell them (vLLM: --enable-prompt-tokens-details).
    """

    server: Server
    sampling: Sampling = field(default_factory=Sampling)
    system: str | None = None
    template: bool = True
    seeds: bool = True
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
    work: Work = field(default_factory=Work, compare=False, repr=False)

    def __post_init__(self) -> None:
        abilities = self.server.abilities
        if self.sampling.top_k is not None and abilities.make == "other":
            raise ValueError(
                f"top_k={self.sampling.top_k} is not part of OpenAI's protocol and {self.name} is of unknown make: leave it out, "
                'or say what the server is by make="vllm", "sglang" or "llamacpp"'
            )
        if abilities.mode == "chat" and not self.template:
            raise ValueError(f"{self.name} is a chat server, which always applies its chat template: leave template=True")
        if self.system is not None and not self.template:
            raise ValueError("a system text needs the chat template: leave template=True, or put the text into the prompt")
        if taken := sorted(OWN_FIELDS & set(self.extra)):
            raise ValueError(f"extra holds {', '.join(taken)}, which the engine sets itself: leave them out")
        if not self.template and (unread := sorted(TEMPLATE_FIELDS & set(self.extra))):
            raise ValueError(f"extra holds {', '.join(unread)}, which the chat template reads: leave template=True")
        json.dumps(self.extra, allow_nan=False)  # says what is wrong now rather than at the first request
        check_cap(self.max_tokens, abilities.context, self.name)

    @property
    def name(self) -> str:
        return f"openai:{self.server.model}"

    @property
    def can(self) -> frozenset[str]:
        abilities = self.server.abilities
        plain = self.sampling.temperature == 1 and not self.sampling.truncated and not set(self.extra) - TEMPLATE_FIELDS
        found = set[str]()
        if abilities.mode != "chat":
            found.add("continue")
        if abilities.logq and (plain or abilities.processed):
            found.add("logq")
        if abilities.score and plain:
            found.add("score")
        if self.seeds and abilities.seed and abilities.make in ("vllm", "llamacpp"):
            found.add("seed")
        return frozenset(found)

    @property
    def max_tokens(self) -> int:
        return self.sampling.max_tokens

    @property
    def alphabet(self) -> str:
        """A digest of how the server's tokenizer encodes a specimen text, or "text" where tokens are strings."""
        return self.server.abilities.alphabet

    @property
    def settings(self) -> Mapping[str, Any]:
        """What fixes the law. Where the servers are does not count, so a run can be resumed on others."""
        return {
            "engine": "openai",
            "model": self.server.model,
            "make": self.server.abilities.make,
            "mode": self.server.abilities.mode,
            "system": self.system,
            "template": self.template,
            "seeds": self.seeds,
            "extra": dict(self.extra),
            **self.sampling.settings(),
        }

    def with_sampling(self, **changes: Any) -> OpenAIEngine:
        """The same model under other sampling parameters: any of the fields of `Sampling`."""
        return replace(self, sampling=replace(self.sampling, **changes))

    def metered(self, work: Work) -> OpenAIEngine:
        return replace(self, work=work)

    def start(self, prompt: str) -> Draft:
        """The empty draft of a prompt. Raises PromptError where the prompt is empty, or known to be too long."""
        if not prompt.strip():
            raise PromptError(f"the prompt {prompt!r} is empty: give the model something to answer")
        if self.server.abilities.mode == "chat":
            return Draft(prompt)
        encoded = self._encoded(prompt)
        check_room(len(encoded), self.max_tokens, self.server.abilities.context, self.name)
        return Draft(prompt)

    def extend(self, drafts: Sequence[Draft], keys: Sequence[Key], tokens: int | None = None) -> list[Draft]:
        """Draw up to `tokens` more tokens of each draft (None: to its end), one key per draft.

        Raises CapabilityError where a chat server would have to stop early or go on from a prefix.
        """
        check_count(tokens)
        results = list(drafts)
        rows: list[int] = []
        for row, (draft, _) in enumerate(zip(drafts, keys, strict=True)):
            if draft.finish is None and (room := self._room(draft, tokens)) > 0:
                self._check_whole(draft, room)
                rows.append(row)
            elif draft.finish is None:
                finish = "length" if len(draft.tokens) >= self.max_tokens else None
                results[row] = replace(draft, text=self._prior(draft), finish=finish)
        groups = self._groups(drafts, rows)
        jobs = [partial(self._draw, drafts[group[0]], tokens, [keys[row] for row in group]) for group in groups]
        for group, drawn in zip(groups, self.server.each(jobs), strict=True):
            for row, draft in zip(group, drawn, strict=True):
                results[row] = draft
        return results

    def score(self, drafts: Sequence[Draft], starts: Sequence[int] | None = None) -> list[Floats]:
        """Log-probability (nats) under this law of the tokens of each draft, from number `starts[i]` on.

        One request for each draft of which something is wanted. vLLM reads and rates the whole of it whatever is wanted,
        past its cache of prefixes: its protocol knows no start.
        """
        if "score" not in self.can:
            raise CapabilityError(
                f"{self.name} cannot rate given drafts under this law: that takes vLLM, temperature 1 and no truncation, "
                "or a local model"
            )
        pairs = zip(drafts, starts or [0] * len(drafts), strict=True)
        return self.server.each([partial(self._score, draft, start) for draft, start in pairs])

    def _room(self, draft: Draft, tokens: int | None) -> int:
        left = max(0, self.max_tokens - len(draft.tokens))
        return left if tokens is None else min(left, tokens)

    def _check_whole(self, draft: Draft, room: int) -> None:
        if self.server.abilities.mode == "chat" and (draft.tokens or room < self.max_tokens):
            raise CapabilityError(
                f"{self.name} is a chat server, which gives whole answers: it cannot draw {room} tokens after "
                f"{len(draft.tokens)}. Use a sampler that needs no 'continue', such as Independent, or a server that continues "
                "prefixes."
            )

    def _groups(self, drafts: Sequence[Draft], rows: Sequence[int]) -> list[list[int]]:
        """The rows of each request: one with seeds, or where the server gives no copies; else those with equal prefixes."""
        if self.seeds or not self.server.abilities.copies:
            return [[row] for row in rows]
        alike: dict[tuple[str, tuple[int, ...]], list[int]] = {}
        for row in rows:
            alike.setdefault((drafts[row].prompt, drafts[row].tokens), []).append(row)
        return [group[i : i + MOST_COPIES] for group in alike.values() for i in range(0, len(group), MOST_COPIES)]

    def _draw(self, draft: Draft, tokens: int | None, keys: Sequence[Key]) -> list[Draft]:
        """As many extensions of one draft as there are keys, by one request; by two where so many copies are refused."""
        room, prior = self._room(draft, tokens), self._prior(draft)
        path, body = self._request(draft, prior, room)
        if len(keys) > 1:
            body["n"] = len(keys)
        if self.seeds and self.server.abilities.seed:
            body["seed"] = int(keys[0].rng().integers(SEEDS))
        try:
            answer = self.server.ask(path, body, keys[0])
        except AnswerError as error:
            if len(keys) == 1 or error.status not in (400, 422):
                raise
            half = len(keys) // 2
            return [*self._draw(draft, tokens, keys[:half]), *self._draw(draft, tokens, keys[half:])]
        extend = self._extended_ids if self.server.abilities.mode == "ids" else self._extended_text
        try:
            drawn = [extend(draft, prior, choice, room) for choice in choices(answer, len(keys))]
        except (AnswerError, PromptError):
            self.server.count(self.work, spent(answer))  # what cannot be used was paid for
            raise
        self.server.count(self.work, spent(answer), told=sum(len(each.tokens) - len(draft.tokens) for each in drawn))
        return drawn

    def _request(self, draft: Draft, prior: str, room: int) -> tuple[str, dict[str, Any]]:
        """Where to ask for up to `room` more tokens of a draft, and by which fields."""
        abilities = self.server.abilities
        body = law_fields(self.sampling, abilities.make) | {abilities.cap: room, **self.extra}
        if abilities.mode == "chat":
            return "chat/completions", body | {"messages": turns(draft.prompt, self.system)}
        body = {name: value for name, value in body.items() if name not in TEMPLATE_FIELDS}
        more = {"return_token_ids": True} if abilities.mode == "ids" else {}
        return "completions", body | {"prompt": self._context(draft, prior), "logprobs": 1} | more

    def _encoded(self, prompt: str) -> tuple[int, ...] | str:
        variables = {name: value for name, value in self.extra.items() if name in TEMPLATE_FIELDS}
        return self.server.prompt(prompt, self.system, self.template, variables)

    def _prior(self, draft: Draft) -> str:
        """The text of a draft's tokens, which a draft that was cut does not carry."""
        return draft.text or self.server.text(draft.tokens)

    def _context(self, draft: Draft, prior: str) -> list[int] | str:
        encoded = self._encoded(draft.prompt)
        return encoded + prior if isinstance(encoded, str) else [*encoded, *draft.tokens]

    def _extended_ids(self, draft: Draft, prior: str, choice: Choice, room: int) -> Draft:
        ids, logq = choice.ids, choice.logq if "logq" in self.can else None
        if ids is None or not 0 < len(ids) <= room:
            raise malformed({"choice": choice}, f"{None if ids is None else len(ids)} token ids where 1 to {room} were asked for")
        if "logq" in self.can and (logq is None or len(logq) != len(ids)):
            raise malformed({"choice": choice}, f"{0 if logq is None else len(logq)} token_logprobs for {len(ids)} token ids")
        logq = None if logq is None else checked_logq(logq, "token_logprobs", self.name)
        if choice.finish == "length" and len(ids) < room:
            raise PromptError(
                f"the context of {self.name} ended after {len(ids)} of {room} tokens: shorten the prompt or max_tokens"
            )
        text, finish = prior + choice.text, choice.finish
        if self._has_stop(text):
            ids, finish = ids[: self._stop_place(draft.tokens, ids)], "stop"
        known = None if draft.logq is None or logq is None else (*draft.logq, *logq[: len(ids)])
        return Draft(
            draft.prompt, (*draft.tokens, *ids), known, self.sampling.before_stop(text), self._ended(finish, draft, room)
        )

    def _has_stop(self, text: str) -> bool:
        return any(stop in text for stop in self.sampling.stop)

    def _stop_place(self, prefix: Sequence[int], ids: Sequence[int]) -> int:
        """How many of the new tokens it takes to complete a stop string that began in the prefix."""
        counts = range(1, len(ids) + 1)
        place = bisect_left(counts, True, key=lambda count: self._has_stop(self.server.text([*prefix, *ids[:count]])))
        return counts[min(place, len(ids) - 1)]

    def _extended_text(self, draft: Draft, prior: str, choice: Choice, room: int) -> Draft:
        pieces = self.server.pieces
        text, finish = prior + choice.text, choice.finish
        if self.server.abilities.mode == "chat":
            strings = [choice.text]
        elif choice.pieces is None:
            raise malformed({"choice": choice}, "no token strings")
        else:
            strings = split(choice)
        if self._has_stop(text):
            grown = [prior + "".join(strings[:count]) for count in range(1, len(strings) + 1)]
            strings = strings[: 1 + bisect_left(grown, True, key=self._has_stop)]
            finish = "stop"
        tokens = (*draft.tokens, *pieces.ids(strings), *((END,) if finish == "stop" else ()))
        return Draft(draft.prompt, tokens, None, self.sampling.before_stop(text), self._ended(finish, draft, room))

    def _ended(self, finish: Finish, draft: Draft, room: int) -> Finish | None:
        """How a draft ended that was drawn `room` tokens further at most: "length" is an end only at the engine's own cap."""
        return None if finish == "length" and len(draft.tokens) + room < self.max_tokens else finish

    def _score(self, draft: Draft, start: int) -> Floats:
        wanted = draft.tokens[start:]
        if not wanted:
            return np.zeros(0)
        prompt = self._encoded(draft.prompt)
        if min(draft.tokens) < 0:
            raise ValueError("a draft has masked positions: give drafts of an engine with the same alphabet")
        body = law_fields(replace(self.sampling, stop=()), self.server.abilities.make)
        # 0: of the tokens given alone, not of the likeliest beside them
        body |= {"prompt": [*prompt, *draft.tokens], "max_tokens": 1, "prompt_logprobs": 0}
        answer = self.server.ask("completions", body, Key(0, "score"))
        self.server.count(self.work, spent(answer), scored=len(wanted))
        return np.array(rated(answer, body["prompt"], len(wanted), self.name), dtype=np.float64)
