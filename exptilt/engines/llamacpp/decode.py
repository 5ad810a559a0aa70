"""The batch of rows in flight, as the scheduler drives it: rows that are drawn and rows that are rated go together.

A row enters when its prefix is known. What no kept sequence has is evaluated first, each token once: where waiting rows have a
common prefix, one goes ahead, and the others join when that prefix is known. Then a drawn row feeds its latest token
in every step, and a rated row feeds its given tokens in as few steps as the cap on logits allows.

All the cells that a row may need are set aside when it enters, so it never stops for lack of memory; a row that does not fit
waits, and so do those that came after it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from exptilt.draft import Finish
from exptilt.engines.adjustments import Before, adjustments
from exptilt.engines.distribution_numpy import Logits, adjust, draw
from exptilt.engines.llamacpp.memory import Memory, common_length
from exptilt.engines.llamacpp.network import BATCH_TOKENS, OUTPUTS, Feed, Network
from exptilt.engines.row import Context, Row
from exptilt.engines.text import Text
from exptilt.keys import Floats
from exptilt.usage import Work

Measure = Callable[[Logits, Sequence[int]], Floats]
"""Takes logits [tokens, vocabulary] and the tokens that followed; returns float64 [tokens, values]."""


@dataclass(eq=False)
class Measured:
    """Given tokens, one at least, whose distributions are measured: the context before the first of them, and what to measure.

    before: what each of them comes after, by its number; None where that changes no logits.
    """

    context: Context
    targets: Sequence[int]
    measure: Measure
    before: Callable[[int], Before] | None = None
    values: list[Floats] = field(default_factory=list)  # parts, in order
    measured: int = 0
    cost: Work = field(default_factory=Work)
    finish: Finish = "stop"  # what was rated is rarely continued

    @property
    def left(self) -> int:
        """Tokens that are still to be fed."""
        return len(self.targets) - self.measured

    @property
    def done(self) -> bool:
        return not self.left

    @property
    def fed(self) -> tuple[int, ...]:
        return (*self.context.tokens, *self.targets[: max(0, self.measured - 1)])

    def next(self, room: int) -> Sequence[int]:
        """The tokens to feed now, at most `room`: each is the one before a token that is measured."""
        given = (self.context.tokens[-1], *self.targets)
        return given[self.measured : min(len(self.targets), self.measured + room)]

    def take(self, logits: Logits) -> None:
        """Measure with the logits of the last tokens fed."""
        count = len(logits)
        if self.before is not None:
            logits = adjust(logits, adjustments(map(self.before, range(self.measured, self.measured + count))))
        self.values.append(self.measure(logits, self.targets[self.measured : self.measured + count]))
        self.measured += count


AnyRow = Row | Measured


class Decoder:
    """The rows in flight and those that wait for room; `memory` has the sequence of each."""

    def __init__(self, network: Network, text: Text) -> None:
        self.network = network
        self.text = text
        self.memory = Memory(network)
        self.waiting: deque[AnyRow] = deque()
        self.sequences: dict[AnyRow, int] = {}  # of the rows in flight, in their order

    def join(self, rows: Sequence[AnyRow]) -> None:
        """Take rows in where there is room."""
        self.waiting.extend(rows)
        self._admit()

    def step(self) -> list[AnyRow]:
        """Draw one token of each drawn row, measure tokens of rated ones; rows that are done leave and are returned."""
        self._admit()
        drawn = [row for row in self.sequences if isinstance(row, Row)]
        rated: list[Measured] = []
        feeds = [self._feed(row, [row.last]) for row in drawn]
        room = OUTPUTS - len(drawn)
        for row in self.sequences:
            if isinstance(row, Measured) and room:
                rated.append(row)
                feeds.append(self._feed(row, row.next(room)))
                room -= len(feeds[-1].tokens)
        logits = self.network.evaluate(feeds)
        own = logits[: len(drawn)]
        if any(row.sampling.adjusts for row in drawn):
            own = adjust(own, adjustments(row.before for row in drawn))
        chosen = draw(own, [row.sampling for row in drawn], [row.uniform for row in drawn])
        for row, token, logq in zip(drawn, *chosen, strict=True):
            row.take(token, logq, self.text)
        ends = np.cumsum([len(feed.tokens) for feed in feeds])
        for row, end, feed in zip(rated, ends[len(drawn) :], feeds[len(drawn) :], strict=True):
            row.take(logits[end - len(feed.tokens) : end])
        return self._release([*drawn, *rated])

    def leave(self, rows: Sequence[AnyRow]) -> None:
        """Drop rows that nobody waits for."""
        gone = set(rows)
        self.waiting = deque(row for row in self.waiting if row not in gone)
        for row in [row for row in self.sequences if row in gone]:
            self.memory.drop(self.sequences.pop(row))

    def _feed(self, row: AnyRow, tokens: Sequence[int]) -> Feed:
        sequence = self.sequences[row]
        start = self.memory.length(sequence)
        self.memory.grow(sequence, len(tokens))
        return Feed(sequence, start, tokens, logits=True)

    def _release(self, rows: Sequence[AnyRow]) -> list[AnyRow]:
        """Remove the rows that are done; their sequences are kept, to be continued or redrawn from some token on."""
        done = [row for row in rows if row.done]
        for row in done:
            self.memory.keep(self.sequences.pop(row), row.fed, finished=row.finish is not None)
        if done:
            self.memory.trim()
        return done

    # ------------------------------------------------------------------------------------------------- prefilling

    def _admit(self) -> None:
        """Take in waiting rows, first those whose prefixes have nothing unknown in common."""
        while group := self._next_group():
            self._prefill([(rows[0], tokens) for tokens, rows in group.items()])
            for tokens, (first, *others) in group.items():
                for row in others:
                    self.memory.share(self.sequences[first], self.sequences[row], len(tokens))
                    row.cost.cached = len(tokens)

    def _next_group(self) -> dict[tuple[int, ...], list[AnyRow]]:
        """Rows that enter now, by their prefixes: all that is to be fed before their first step."""
        group: dict[tuple[int, ...], list[AnyRow]] = {}
        back: list[AnyRow] = []
        while self.waiting:
            row = self.waiting.popleft()
            prefix = row.context.tokens[:-1]
            sequence, known = self.memory.branch(() if prefix in group else prefix)
            if prefix in group:
                new = 0
            elif any(common_length(prefix, other) > known for other in group):
                self.memory.drop(sequence)
                back.append(row)
                continue
            else:
                new = len(prefix) - known
            if not self.memory.make_room(new + row.left + sum(other.left for other in self.sequences)):
                self.memory.drop(sequence)
                back.append(row)
                break
            self.sequences[row] = sequence
            self.memory.grow(sequence, new)
            row.cost = Work(new, known, forwards=int(new > 0))
            group.setdefault(prefix, []).append(row)
        self.waiting.extendleft(reversed(back))
        return group

    def _prefill(self, rows: Sequence[tuple[AnyRow, tuple[int, ...]]]) -> None:
        """Evaluate the new tokens of these rows' prefixes, in blocks, and keep them for others."""
        feeds = [
            Feed(self.sequences[row], row.cost.cached, prefix[row.cost.cached :], logits=False)
            for row, prefix in rows
            if row.cost.prompt
        ]
        for block in _blocks(feeds):
            self.network.evaluate(block)
        for row, prefix in rows:
            if row.cost.prompt:
                self.memory.keep_copy(self.sequences[row], prefix)


def _blocks(feeds: Sequence[Feed]) -> list[list[Feed]]:
    """The same feeds, split so that no block has more than BATCH_TOKENS tokens."""
    blocks: list[list[Feed]] = []
    room = 0
    for sequence, start, tokens, logits in feeds:
        done = 0
        while done < len(tokens):
            if not room:
                blocks.append([])
                room = BATCH_TOKENS
            part = tokens[done : done + room]
            blocks[-1].append(Feed(sequence, start + done, part, logits))
            done += len(part)
            room -= len(part)
    return blocks
