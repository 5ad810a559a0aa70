"""Decoding: the rows of all callers draw one token each, step after step; rows join and leave at any step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from exptilt.core import Finish
from exptilt.engines.hf.attention import LEAST_TRUNK
from exptilt.engines.hf.law import Laws, draw
from exptilt.engines.hf.network import Context, Cost, Network
from exptilt.engines.hf.prefixes import KeyValues, common_beginning
from exptilt.engines.sampling import Sampling
from exptilt.engines.text import Text


@dataclass(eq=False)
class Row:
    """One response that is being decoded: where it starts, its law, one uniform for each token it may draw."""

    context: Context
    sampling: Sampling
    uniforms: list[float]
    tokens: list[int] = field(default_factory=list)  # drawn so far
    logq: list[float] = field(default_factory=list)
    finish: Finish | None = None
    cost: Cost = field(default_factory=Cost)
    known: KeyValues | None = None  # of all tokens of the context but the last

    @property
    def response(self) -> list[int]:
        """All tokens after the prompt."""
        return [*self.context.tokens[len(self.context.prompt) :], *self.tokens]

    def take(self, token: int, logq: float, text: Text) -> bool:
        """Add a drawn token; returns whether the row is done."""
        self.tokens.append(token)
        self.logq.append(logq)
        length = len(self.context.tokens) - len(self.context.prompt) + len(self.tokens)
        if token in text.ends or (self.sampling.stop and text.stops(self.response, self.sampling.stop)):
            self.finish = "stop"
        elif length >= self.sampling.max_tokens:
            self.finish = "length"
        return self.finish is not None or len(self.tokens) == len(self.uniforms)


class Decoder:
    """The batch of rows in flight: what `exptilt.scheduler` drives."""

    def __init__(self, network: Network, text: Text) -> None:
        self.network = network
        self.text = text
        self.rows: list[Row] = []
        self.slots = network.slots(share=True)
        self._laws: Laws | None = None  # of the rows as they are now

    @torch.inference_mode()
    def join(self, rows: Sequence[Row]) -> None:
        """Prefill what is not known yet and give the new rows their trunks and slots."""
        known, costs = self.network.prefill([row.context for row in rows])
        alike: dict[tuple[int, ...], list[Row]] = {}
        for row, row.known, row.cost in zip(rows, known, costs, strict=True):
            alike.setdefault(row.context.tokens[:-1], []).append(row)
        trunks = self._trunks(rows)
        own = [len(tokens) - self._length(trunks.get(tokens)) for tokens in alike]
        self.slots.reserve(len(self.rows) + len(rows), max(own))
        for tokens, members in alike.items():
            self.slots.join(members[0].known, len(tokens), copies=len(members), trunk=trunks.get(tokens))
            self.rows += members
        self._laws = None

    def _trunks(self, rows: Sequence[Row]) -> dict[tuple[int, ...], int]:
        """The trunk of each context: what the rows of a prompt that join now have in common, or a trunk there is already."""
        slots = self.slots
        if slots.trunks is None:
            return {}
        families: dict[tuple[int, ...], list[Row]] = {}
        for row in rows:
            families.setdefault(row.context.prompt, []).append(row)
        places: dict[tuple[int, ...], int] = {}
        for family in families.values():
            common = common_beginning([row.context.tokens[:-1] for row in family])
            place = slots.trunks.find(common)
            if len(family) > 1 and len(common) >= self._length(place) + LEAST_TRUNK and family[0].known is not None:
                place = slots.trunks.add(common, family[0].known)
            if place is not None:
                places |= {row.context.tokens[:-1]: place for row in family}
        return places

    def _length(self, trunk: int | None) -> int:
        return 0 if trunk is None or self.slots.trunks is None else len(self.slots.trunks.tokens[trunk])

    @torch.inference_mode()
    def step(self) -> list[Row]:
        """Draw one token for every row; rows that are done leave and are returned."""
        device = self.network.device
        if self._laws is None:
            self._laws = Laws.of([row.sampling for row in self.rows], self.network.vocabulary, device)
        self.slots.reserve(len(self.rows), 0)
        last = [row.tokens[-1] if row.tokens else row.context.tokens[-1] for row in self.rows]
        logits = self.network.feed(self.slots, torch.tensor(last, device=device)[:, None], keep=1)[:, 0]
        uniforms = torch.tensor([row.uniforms[len(row.tokens)] for row in self.rows], dtype=torch.float64, device=device)
        tokens, logq = draw(logits, self._laws, uniforms)
        drawn = zip(self.rows, tokens.tolist(), logq.tolist(), strict=True)
        done = [i for i, (row, token, value) in enumerate(drawn) if row.take(token, value, self.text)]
        for i in done:
            self._remember(i)
        self.network.prefixes.trim()
        return self._remove(done)

    @torch.inference_mode()
    def leave(self, rows: Sequence[Row]) -> None:
        """Drop rows that nobody waits for."""
        gone = set(rows)
        self._remove([i for i, row in enumerate(self.rows) if row in gone])

    def _remember(self, index: int) -> None:
        """Keep the key-values of a row that is done: it may be continued, or redrawn from some token on."""
        row = self.rows[index]
        known = self.slots.snapshot(index, row.known)
        self.network.prefixes.put((*row.context.tokens, *row.tokens[:-1]), known, finished=row.finish is not None)

    def _remove(self, indices: Sequence[int]) -> list[Row]:
        if not indices:
            return []
        removed = [self.rows[i] for i in indices]
        self.rows = [self.rows[i] for i in self.slots.leave(indices)]
        self._laws = None
        return removed
