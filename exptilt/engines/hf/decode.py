"""Decoding: the rows of all callers draw one token each, step after step; rows join and leave at any step.

Rows of equal tokens so far are one *branch*: one forward for all of them, and a draw for each. When they draw different tokens
the branch parts. Each row has uniforms of its own, so its draft is the one that it would have drawn alone, up to rounding.

Rows whose step has ended are likely to be drawn further at once: their branch *rests* in its slot until the next step. Rows that
go on from there take it up where it is, with nothing copied or read again.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from exptilt.engines.adjustments import adjustments
from exptilt.engines.distribution_torch import Laws, adjust, draw
from exptilt.engines.hf.fast.trunks import LEAST_TRUNK
from exptilt.engines.hf.network import Network
from exptilt.engines.hf.prefixes import KeyValues, common_beginning
from exptilt.engines.row import Row
from exptilt.engines.text import Text

NEW_TRUNK = 32  # rows that share as many tokens beyond their trunk join anew, to share a longer one


@dataclass
class Branch:
    """Rows of equal tokens so far, evaluated once for all of them: one slot, one forward, a draw for each key.

    known: the key-values of their context but its last token.
    rest: the tokens whose key-values its slot holds, while it has no rows and rests.
    """

    rows: list[Row]
    known: KeyValues | None
    rest: tuple[int, ...] | None = None


class Decoder:
    """The batch of rows in flight: what `exptilt.engines.scheduler` drives."""

    def __init__(self, network: Network, text: Text) -> None:
        self.network = network
        self.text = text
        self.slots = network.slots(share=True)
        self.branches: list[Branch] = []  # by slot
        self._laws: Laws | None = None  # these are of the branches as they are now

    @property
    def rows(self) -> list[Row]:
        """All rows in flight, branch by branch."""
        return [row for branch in self.branches for row in branch.rows]

    @torch.inference_mode()
    def join(self, rows: Sequence[Row]) -> None:
        """Take rows up where they rest; of the others prefill what is not known yet, and give them their trunks and slots."""
        rows = self._resume(rows)
        if not rows:
            return
        self.settle()
        found, costs = self.network.prefill([row.context for row in rows])
        known = dict(zip(rows, found, strict=True))
        alike: dict[Hashable, list[Row]] = {}
        for row, row.cost in zip(rows, costs, strict=True):
            alike.setdefault((row.context, row.sampling) if self.network.fast else row, []).append(row)
        trunks = self._trunks(known)
        own = [len(row.context.tokens) - 1 - self.slots.skipped(trunks.get(row.context.tokens[:-1])) for row in rows]
        self._reserve(len(rows), max(own))
        for members in alike.values():
            before, state = members[0].context.tokens[:-1], known[members[0]]
            self.slots.join(state, len(before), trunk=trunks.get(before))
            self.branches.append(Branch(members, state))
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
        self.settle()  # slots at rest would be fed with the others
        device = self.network.device
        if self._laws is None:
            self._laws = Laws.of([branch.rows[0].sampling for branch in self.branches], self.network.vocabulary, device)
        logits = self._logits() if self.network.caches else self._logits_of_whole_texts()
        if any(branch.rows[0].sampling.adjusts for branch in self.branches):  # the rows of a branch have equal tokens before
            logits = adjust(logits, adjustments(branch.rows[0].before for branch in self.branches))
        rows, counts = self.rows, [len(branch.rows) for branch in self.branches]
        uniforms = torch.tensor([row.uniform for row in rows], dtype=torch.float64, device=device)
        tokens, logq = draw(logits, self._laws, uniforms, counts)
        forwards = [int(row is branch.rows[0]) for branch in self.branches for row in branch.rows]
        for row, token, value, cost in zip(rows, tokens.tolist(), logq.tolist(), forwards, strict=True):
            row.take(token, value, self.text, forwards=cost)
        done = [row for row in rows if row.done]
        self._remember()
        self.network.prefixes.trim()
        self._part()
        return done

    @torch.inference_mode()
    def leave(self, rows: Sequence[Row]) -> None:
        """Drop rows that nobody waits for, and what rows that failed to join have left behind."""
        gone = set(rows)
        for branch in self.branches:
            branch.rows = [row for row in branch.rows if row not in gone]
        self._free()
        self.settle()
        if self.slots.trunks is not None:
            self.slots.trunks.tidy()

    def _logits(self) -> Tensor:
        """Logits [branches, vocabulary] of every branch's next token."""
        self._reserve(0, 0)
        last = torch.tensor([branch.rows[0].last for branch in self.branches], device=self.network.device)
        return self.network.feed(self.slots, last[:, None], keep=1)[:, 0]

    def _logits_of_whole_texts(self) -> Tensor:
        first = [branch.rows[0] for branch in self.branches]
        texts = [(*row.context.tokens, *row.tokens) for row in first]
        for row, text in zip(first, texts, strict=True):
            row.cost.prompt += len(text) - 1  # read again
        return torch.cat(self.network.whole(texts, [1] * len(texts)))

    def _remember(self) -> None:
        """Keep the key-values of rows that are done: they may be continued, or redrawn from some token on."""
        if not self.network.caches:
            return
        for slot, branch in enumerate(self.branches):
            done = [row for row in branch.rows if row.done]
            finished = all(row.finish is not None for row in done)
            if done and not finished and len(done) == len(branch.rows) and self.network.fast:
                branch.rest = done[0].fed
            elif done:
                self.network.prefixes.put(done[0].fed, self.slots.snapshot(slot, branch.known), finished=finished)

    @torch.inference_mode()
    def settle(self) -> None:
        """Give up the slots of branches that rest, and keep their key-values with those of all prefixes."""
        resting = [slot for slot, branch in enumerate(self.branches) if branch.rest is not None]
        for slot in resting:
            branch = self.branches[slot]
            assert branch.rest is not None
            self.network.prefixes.put(branch.rest, self.slots.snapshot(slot, branch.known))
            branch.rest = None
        if resting:
            self.network.prefixes.trim()
            self._free()

    def _resume(self, rows: Sequence[Row]) -> list[Row]:
        """Let the rows of prompts whose beginnings all rest go on in their slots; returns the others.

        Where some of a prompt's rows do not rest, their beginnings may be cut from those that do, so none goes on in place.
        """
        resting = {branch.rest: slot for slot, branch in enumerate(self.branches) if branch.rest is not None}
        families: dict[tuple[int, ...], list[Row]] = {}
        for row in rows:
            families.setdefault(row.context.prompt, []).append(row)
        others: list[Row] = []
        alike: dict[Hashable, list[Row]] = {}
        for family in families.values():
            if not self._rests(family, resting):
                others += family
                continue
            for row in family:
                row.cost.cached = len(row.context.tokens) - 1
                alike.setdefault((row.context, row.sampling), []).append(row)
        origins: list[int] = []
        for members in alike.values():
            slot = resting[members[0].context.tokens[:-1]]
            branch = self.branches[slot]
            if branch.rest is not None:
                branch.rows, branch.rest = members, None
            else:  # others go on from the same place
                origins.append(slot)
                self.branches.append(Branch(members, branch.known))
        if origins:
            self._reserve(0, 0)
            self.slots.fork(origins)
        if alike:
            self._laws = None
        return others

    def _rests(self, family: Sequence[Row], resting: Mapping[tuple[int, ...], int]) -> bool:
        """Whether the beginnings of a prompt's rows all rest, and have less in common than is worth a trunk."""
        begun = {row.context.tokens[:-1] for row in family}
        if not all(tokens in resting for tokens in begun):
            return False
        below = min(self.slots.in_trunk(resting[tokens]) for tokens in begun)
        return self.slots.trunks is None or len(begun) == 1 or len(common_beginning([*begun])) < below + NEW_TRUNK

    def _reserve(self, more: int, longest: int) -> None:
        """Room for as many branches as the rows in flight, and so many more, may become."""
        held = sum(max(1, len(branch.rows)) for branch in self.branches)
        self.slots.reserve(held + more, longest)

    def _part(self) -> None:
        """Take rows that are done from their branches, and part those whose rows drew different tokens."""
        origins: list[int] = []
        twigs: list[Branch] = []
        for slot, branch in enumerate(self.branches):
            drawn: dict[int, list[Row]] = {}
            for row in branch.rows:
                if not row.done:
                    drawn.setdefault(row.last, []).append(row)
            branch.rows, *others = [*drawn.values()] or [[]]
            twigs += [Branch(rows, branch.known) for rows in others]
            origins += [slot] * len(others)
        if twigs:
            self.slots.fork(origins)
            self.branches += twigs
            self._laws = None
        self._free()

    def _free(self) -> None:
        """Give up the slots of branches without rows."""
        empty = [slot for slot, branch in enumerate(self.branches) if not branch.rows and branch.rest is None]
        if empty:
            self.branches = [self.branches[i] for i in self.slots.leave(empty)]
            self._laws = None


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

    def settle(self) -> None:
        """Give up the slots of branches that rest."""
        for decoder in self.decoders.values():
            decoder.settle()
