"""Decoding: the rows of all callers draw one token each, step after step; rows join and leave at any step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from exptilt.engines.distribution_torch import Laws, draw
from exptilt.engines.hf.fast.trunks import LEAST_TRUNK
from exptilt.engines.hf.network import Network
from exptilt.engines.hf.prefixes import KeyValues, common_beginning
from exptilt.engines.row import Row
from exptilt.engines.text import Text


class Decoder:
    """The batch of rows in flight: what `exptilt.engines.scheduler` drives."""

    def __init__(self, network: Network, text: Text) -> None:
        self.network = network
        self.text = text
        self.rows: list[Row] = []
        self.slots = network.slots(share=True)
        self._known: dict[Row, KeyValues | None] = {}  # key-values of each row's context but its last token
        self._laws: Laws | None = None  # these are of the rows as they are now

    @torch.inference_mode()
    def join(self, rows: Sequence[Row]) -> None:
        """Prefill what is not known yet and give the new rows their trunks and slots."""
        found, costs = self.network.prefill([row.context for row in rows])
        known = dict(zip(rows, found, strict=True))
        alike: dict[tuple[int, ...], list[Row]] = {}
        for row, row.cost in zip(rows, costs, strict=True):
            alike.setdefault(row.context.tokens[:-1], []).append(row)
        trunks = self._trunks(known)
        own = [len(tokens) - self.slots.skipped(trunks.get(tokens)) for tokens in alike]
        self.slots.reserve(len(self.rows) + len(rows), max(own))
        for tokens, members in alike.items():
            self.slots.join(known[members[0]], len(tokens), copies=len(members), trunk=trunks.get(tokens))
            self.rows += members
            self._known |= {row: known[row] for row in members}
        self._laws = None

    def _trunks(self, known: Mapping[Row, KeyValues | None]) -> dict[tuple[int, ...], int]:
        """The trunk of each context: what the rows of a prompt that join now have in common, or a trunk there is already.

        A row that joins alone has its prompt for a trunk, so that it does not widen the columns of all other rows.
        """
        trunks = self.slots.trunks
        if trunks is None:
            return {}
        families: dict[tuple[int, ...], list[Row]] = {}
        for row in known:
            families.setdefault(row.context.prompt, []).append(row)
        places: dict[tuple[int, ...], int] = {}
        for prompt, family in families.items():
            common, state = common_beginning([row.context.tokens[:-1] for row in family]), known[family[0]]
            if state is None:  # nothing comes before the token of a context of one token
                continue
            root = trunks.root(prompt, families, state)
            place = trunks.find(common)
            if len(family) == 1:
                common = common[: len(prompt)] if place in (None, root) else ()
            if len(common) >= trunks.length(place) + LEAST_TRUNK:
                place = trunks.add(common, state, root)
            if place is not None:
                places |= {row.context.tokens[:-1]: place for row in family}
        return places

    @torch.inference_mode()
    def step(self) -> list[Row]:
        """Draw one token for every row; rows that are done leave and are returned."""
        device = self.network.device
        if self._laws is None:
            self._laws = Laws.of([row.sampling for row in self.rows], self.network.vocabulary, device)
        logits = self._logits() if self.network.caches else self._logits_of_whole_texts()
        uniforms = torch.tensor([row.uniforms[len(row.tokens)] for row in self.rows], dtype=torch.float64, device=device)
        tokens, logq = draw(logits, self._laws, uniforms)
        for row, token, value in zip(self.rows, tokens.tolist(), logq.tolist(), strict=True):
            row.take(token, value, self.text)
        done = [i for i, row in enumerate(self.rows) if row.done]
        for i in done:
            self._remember(i)
        self.network.prefixes.trim()
        return self._remove(done)

    @torch.inference_mode()
    def leave(self, rows: Sequence[Row]) -> None:
        """Drop rows that nobody waits for, and what rows that failed to join have left behind."""
        gone = set(rows)
        self._remove([i for i, row in enumerate(self.rows) if row in gone])
        if self.slots.trunks is not None:
            self.slots.trunks.tidy()

    def _logits(self) -> Tensor:
        """Logits [rows, vocabulary] of every row's next token."""
        self.slots.reserve(len(self.rows), 0)
        last = torch.tensor([row.last for row in self.rows], device=self.network.device)
        return self.network.feed(self.slots, last[:, None], keep=1)[:, 0]

    def _logits_of_whole_texts(self) -> Tensor:
        texts = [(*row.context.tokens, *row.tokens) for row in self.rows]
        for row, text in zip(self.rows, texts, strict=True):
            row.cost.prompt += len(text) - 1  # read again
        return torch.cat(self.network.whole(texts, [1] * len(texts)))

    def _remember(self, index: int) -> None:
        """Keep the key-values of a row that is done: it may be continued, or redrawn from some token on."""
        if not self.network.caches:
            return
        row = self.rows[index]
        known = self.slots.snapshot(index, self._known[row])
        self.network.prefixes.put(row.fed, known, finished=row.finish is not None)

    def _remove(self, indices: Sequence[int]) -> list[Row]:
        if not indices:
            return []
        removed = [self.rows[i] for i in indices]
        for row in removed:
            del self._known[row]
        self.rows = [self.rows[i] for i in self.slots.leave(indices)]
        self._laws = None
        return removed


class Lanes:
    """Rows of a network and of the one for longer texts, as one batch: each row in the lane of the length it may grow to."""

    def __init__(self, network: Network, text: Text) -> None:
        self.network = network
        self.decoders = {each: Decoder(each, text) for each in (network, network.beyond) if each is not None}

    @property
    def rows(self) -> list[Row]:
        return [row for decoder in self.decoders.values() for row in decoder.rows]

    def join(self, rows: Sequence[Row]) -> None:
        """Take rows in, each lane its own."""
        for network, decoder in self.decoders.items():
            if mine := [row for row in rows if self.network.of(row.context.prompt, row.sampling) is network]:
                decoder.join(mine)

    def step(self) -> list[Row]:
        """Draw one token for every row; rows that are done leave and are returned."""
        return [row for decoder in self.decoders.values() if decoder.rows for row in decoder.step()]

    def leave(self, rows: Sequence[Row]) -> None:
        """Drop rows that nobody waits for."""
        for decoder in self.decoders.values():
            decoder.leave(rows)
