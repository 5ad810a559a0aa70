"""A model behind a server as a backend of `exptilt.engines.language`.

What an engine `can` depends on the server (`probe`) and on the sampling parameters:

    ids    "continue"; "logq" where the recorded log-probabilities are those of the distribution drawn: at temperature 1 without
           truncation, or where the server takes them after both (vLLM: --logprobs-mode processed_logprobs); "score" at
           temperature 1 without truncation, because servers rate given tokens by the model's own distribution
    text   "continue", up to the server's encoding of the prefix (`pieces`)
    chat   whole answers only

Ends. A response ends as `Sampling` says, wherever it was cut into calls: a stop string that begins in the prefix and
ends in what was drawn now is not seen by the server, and is found here. Draws are those of the server, so a draft
depends on its neighbours in the server's batch as far as the server's rounding does.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from exptilt.draft import Finish
from exptilt.engines.openai.limits import check_sampling
from exptilt.engines.openai.pieces import END, split
from exptilt.engines.openai.server import Server
from exptilt.engines.openai.text import ServedText
from exptilt.engines.openai.wire import Choice, checked_logq, choices, law_fields, malformed, rated, spent
from exptilt.engines.row import Context, LeftToRight, Rated, Row
from exptilt.engines.sampling import Sampling
from exptilt.errors import AnswerError, CapabilityError, PromptError
from exptilt.keys import Key

MOST_COPIES = 128  # responses to one request; OpenAI's own limit
SEEDS = 2**31  # servers differ in the width of a seed; all take 31 bits
OWN_FIELDS = frozenset(
    {"model", "prompt", "messages", "n", "seed", "stream", "echo", "logprobs", "return_token_ids", "stop", "max_tokens"}
    | {"max_completion_tokens", "temperature", "top_p", "top_k"}
)
TEMPLATE_FIELDS = frozenset({"chat_template_kwargs", "chat_template", "documents", "tools"})  # read where the template is applied


class OpenAIBackend:
    """A served model.

    server: the model with its connections (`connect`).
    seeds: send every draft as a request of its own with a seed from its key, so that a run can be repeated. Without,
        equal prefixes go as one request for n responses, which a hosted server bills for one prompt instead of n; a
        server that caches prefixes, as vLLM does, computes the prompt once either way.
    extra: further fields for every request, as JSON values; they are part of the distribution and of `settings`. Those that
        the chat template reads, such as chat_template_kwargs, go to the request that applies it.
    template: whether engines will apply the chat template.

    Costs are what the servers' `usage` says: cached tokens where they tell them (vLLM: --enable-prompt-tokens-details).
    """

    layout = LeftToRight()
    vocabulary = None  # drafts of other engines are told by their alphabet

    def __init__(
        self, server: Server, *, seeds: bool = True, extra: Mapping[str, Any] | None = None, template: bool = True
    ) -> None:
        self.server, self.seeds, self.extra = server, seeds, dict(extra or {})
        if server.abilities.mode == "chat" and not template:
            raise ValueError(f"{self.name} is a chat server, which always applies its chat template: leave template=True")
        if taken := sorted(OWN_FIELDS & set(self.extra)):
            raise ValueError(f"extra holds {', '.join(taken)}, which the engine sets itself: leave them out")
        if not template and (unread := sorted(TEMPLATE_FIELDS & set(self.extra))):
            raise ValueError(f"extra holds {', '.join(unread)}, which the chat template reads: leave template=True")
        json.dumps(self.extra, allow_nan=False)  # this reports errors now rather than at the first request
        self.text = ServedText(server, {name: value for name, value in self.extra.items() if name in TEMPLATE_FIELDS})

    @property
    def name(self) -> str:
        return f"openai:{self.server.model}"

    @property
    def rows_at_once(self) -> int:
        """How many requests are at the server at once. It does not tell what its memory holds."""
        return self.server.concurrency

    @property
    def context(self) -> int | None:
        return self.server.abilities.context

    @property
    def settings(self) -> Mapping[str, Any]:
        """What fixes the model. Where the servers are does not count, so a run can be resumed on others."""
        abilities = self.server.abilities
        told = {"engine": "openai", "model": self.server.model, "make": abilities.make, "mode": abilities.mode}
        return {**told, "seeds": self.seeds, "extra": self.extra}

    def can(self, sampling: Sampling) -> frozenset[str]:
        abilities = self.server.abilities
        plain = sampling.plain and not set(self.extra) - TEMPLATE_FIELDS
        found = set[str]()
        if abilities.mode != "chat":
            found.add("continue")
        if abilities.logq and (plain or abilities.processed):
            found.add("logq")
        if abilities.score and plain:
            found.add("score")
        return frozenset(found)

    def check(self, sampling: Sampling) -> None:
        check_sampling(sampling, self.server.abilities.make, self.server.abilities.mode, self.name)

    def draw(self, rows: Sequence[Row]) -> None:
        """Draw rows. Raises CapabilityError where a chat server would have to stop early or go on from a prefix."""
        for row in rows:
            self._check_whole(row)
        self.server.each([partial(self._draw, group) for group in self._groups(rows)])

    def rate(self, rows: Sequence[Rated]) -> None:
        """Rate given tokens, one request for each row.

        vLLM reads and rates the whole of a row whatever is wanted, past its cache of prefixes: its protocol knows no start.
        """
        if "score" not in self.can(rows[0].sampling):
            raise CapabilityError(
                f"{self.name} cannot rate given drafts under these sampling parameters: that takes vLLM, temperature 1 and no "
                "truncation, or a local model"
            )
        self.server.each([partial(self._rate, row) for row in rows])

    def close(self) -> None:
        """Drop the connections once the requests under way are answered."""
        self.server.close()

    def _check_whole(self, row: Row) -> None:
        if self.server.abilities.mode == "chat" and (row.prior or row.room < row.sampling.max_tokens):
            raise CapabilityError(
                f"{self.name} is a chat server, which gives whole answers: it cannot draw {row.room} tokens after "
                f"{len(row.prior)}. Use a sampler that needs no 'continue', such as Independent, or a server that continues "
                "prefixes."
            )

    def _groups(self, rows: Sequence[Row]) -> list[Sequence[Row]]:
        """The rows of each request: one with seeds, or where the server gives no copies; else those with equal prefixes."""
        if self.seeds or not self.server.abilities.copies:
            return [[row] for row in rows]
        alike: dict[Context, list[Row]] = {}
        for row in rows:
            alike.setdefault(row.context, []).append(row)
        return [group[i : i + MOST_COPIES] for group in alike.values() for i in range(0, len(group), MOST_COPIES)]

    def _draw(self, rows: Sequence[Row]) -> None:
        """Draw rows of one prefix by one request; by two where so many copies are refused."""
        first = rows[0]
        # The text of the tokens before, which a draft that was cut does not carry.
        prior = first.prior_text or self.text.decode([first.prior])[0]
        path, body = self._request(first, prior)
        if len(rows) > 1:
            body["n"] = len(rows)
        if self.seeds and self.server.abilities.seed:
            body["seed"] = int(first.key.rng().integers(SEEDS))
        try:
            answer = self.server.ask(path, body, first.key)
        except AnswerError as error:
            if len(rows) == 1 or error.status not in (400, 422):
                raise
            half = len(rows) // 2
            self._draw(rows[:half])
            self._draw(rows[half:])
            return
        take = self._take_ids if self.server.abilities.mode == "ids" else self._take_text
        try:
            for row, choice in zip(rows, choices(answer, len(rows)), strict=True):
                take(row, prior, choice)
        finally:  # an answer that cannot be used was paid for too
            first.cost = self.server.cost(spent(answer), drawn=sum(len(row.tokens) for row in rows))

    def _request(self, row: Row, prior: str) -> tuple[str, dict[str, Any]]:
        """Where to ask for what follows a row's context, and by which fields."""
        abilities = self.server.abilities
        body = law_fields(row.sampling, abilities.make) | {abilities.cap: row.room, **self.extra}
        if abilities.mode == "chat":
            return "chat/completions", body | self.text.messages(row.context.prompt)
        body = {name: value for name, value in body.items() if name not in TEMPLATE_FIELDS}
        if abilities.mode == "ids":
            return "completions", body | {"prompt": list(row.context.tokens), "logprobs": 1, "return_token_ids": True}
        return "completions", body | {"prompt": self.text.pieces.text(row.context.prompt) + prior, "logprobs": 1}

    def _take_ids(self, row: Row, prior: str, choice: Choice) -> None:
        claimed = "logq" in self.can(row.sampling)
        ids, logq = choice.ids, choice.logq if claimed else None
        if ids is None or not 0 < len(ids) <= row.room:
            told = None if ids is None else len(ids)
            raise malformed({"choice": choice}, f"{told} token ids where 1 to {row.room} were asked for")
        if claimed and (logq is None or len(logq) != len(ids)):
            raise malformed({"choice": choice}, f"{0 if logq is None else len(logq)} token_logprobs for {len(ids)} token ids")
        if choice.finish == "length" and len(ids) < row.room:
            raise PromptError(
                f"the context of {self.name} ended after {len(ids)} of {row.room} tokens: shorten the prompt or max_tokens"
            )
        logq = None if logq is None else checked_logq(logq, "token_logprobs", self.name)
        text, finish = prior + choice.text, choice.finish
        if _has_stop(text, row.sampling):
            ids, finish = ids[: self._stop_place(row, ids)], "stop"
        row.tokens, row.logq = list(ids), None if logq is None else list(logq[: len(ids)])
        row.text, row.finish = text, _ended(finish, row)

    def _stop_place(self, row: Row, ids: Sequence[int]) -> int:
        """How many of the new tokens it takes to complete a stop string that began in the prefix."""
        counts = range(1, len(ids) + 1)

        def complete(count: int) -> bool:
            return _has_stop(self.text.decode([[*row.prior, *ids[:count]]])[0], row.sampling)

        return counts[min(bisect_left(counts, True, key=complete), len(ids) - 1)]

    def _take_text(self, row: Row, prior: str, choice: Choice) -> None:
        text, finish = prior + choice.text, choice.finish
        if self.server.abilities.mode == "chat":
            strings = [choice.text]
        elif choice.pieces is None:
            raise malformed({"choice": choice}, "no token strings")
        else:
            strings = split(choice)
        if _has_stop(text, row.sampling):
            grown = [prior + "".join(strings[:count]) for count in range(1, len(strings) + 1)]
            strings = strings[: 1 + bisect_left(grown, True, key=lambda text: _has_stop(text, row.sampling))]
            finish = "stop"
        row.tokens, row.logq = [*self.text.pieces.ids(strings), *([END] if finish == "stop" else [])], None
        row.text, row.finish = text, _ended(finish, row)

    def _rate(self, row: Rated) -> None:
        body = law_fields(replace(row.sampling, stop=()), self.server.abilities.make)
        # 0: of the tokens given alone, not of the likeliest beside them
        body |= {"prompt": [*row.context.tokens, *row.targets], "max_tokens": 1, "prompt_logprobs": 0}
        answer = self.server.ask("completions", body, Key(0, "score"))
        row.cost = self.server.cost(spent(answer), scored=len(row.targets))
        row.values = np.array(rated(answer, body["prompt"], len(row.targets), self.name), dtype=np.float64)[:, None]


def _has_stop(text: str, sampling: Sampling) -> bool:
    return any(stop in text for stop in sampling.stop)


def _ended(finish: Finish, row: Row) -> Finish | None:
    """How a response ended: "length" is an end only at the engine's own cap."""
    return None if finish == "length" and len(row.prior) + row.room < row.sampling.max_tokens else finish
