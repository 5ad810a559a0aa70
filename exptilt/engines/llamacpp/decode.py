"""The batch of rows in flight, as the scheduler drives it: rows that are drawn and rows that are rated go together.

A row enters when its prefix is known. What no kept sequence has is evaluated first, each token once: of rows that wait
with a common beginning one goes ahead, and the others join when that is known. Then a drawn row feeds its latest token
in every step, and a rated row feeds its given tokens in as few steps as the cap on logits allows.

A row that enters has all the cells it may come to need set aside, so it never stops for want of memory; one that does
not fit waits, and those that came after it wait behind it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from exptilt.core import Finish
from exptilt.engines.llamacpp.law import draw
from exptilt.engines.llamacpp.memory import Memory, common_length
from exptilt.engines.llamacpp.network import BATCH_TOKENS, OUTPUTS, Feed, Logits, Network
from exptilt.engines.sampling import Sampling
from exptilt.engines.text import Text
from exptilt.keys import Floats

Measure = Callable[[Logits, Sequence[int]], Floats]
"""Takes logits [tokens, vocabulary] and the tokens that came; returns float64 [tokens, values]."""


class Context(NamedTuple):
    """The number of a prompt's tokens, and all token ids so far, the prompt's included."""

    prompt: int
    tokens: tuple[int, ...]


@dataclass
class Cost:
    """What a row's prefix took: tokens evaluated, tokens known before, evaluations of the network."""

    prompt: int = 0
    cached: int = 0
    forwards: int = 0


@dataclass(eq=False)
class Drawn:
    """One response that is being drawn: where it starts, its law, one uniform for each token it may draw."""

    context: Context
    sampling: Sampling
    uniforms: list[float]
    tokens: list[int] = field(default_factory=list)  # drawn so far
    logq: list[float] = field(default_factory=list)
    finish: Finish | None = None
    cost: Cost = field(default_factory=Cost)

    @property
    def left(self) -> int:
        """Tokens it may yet feed."""
        return len(self.uniforms) - len(self.tokens)

    @property
    def done(self) -> bool:
        return self.finish is not None or not self.left

    @property
    def fed(self) -> tuple[int, ...]:
        """All tokens evaluated so far, if it has fed at least one."""
        return (*self.context.tokens, *self.tokens[:-1])

    @property
    def response(self) -> list[int]:
        """All tokens after the prompt."""
        return [*self.context.tokens[self.context.prompt :], *self.tokens]

    def next(self, room: int) -> Sequence[int]:
        """The tokens to feed now: the latest one."""
        return self.tokens[-1:] or self.context.tokens[-1:]

    def take(self, token: int, logq: float, text: Text) -> None:
        """Add a drawn token."""
        self.tokens.append(token)
        self.logq.append(logq)
        length = len(self.context.tokens) - self.context.prompt + len(self.tokens)
        if token in text.ends or (self.sampling.stop and text.stops(self.response, self.sampling.stop)):
            self.finish = "stop"
        elif length >= self.sampling.max_tokens:
            self.finish = "length"


@dataclass(eq=False)
class Rated:
    """Given tokens, one at least, whose laws are measured: the context before the first of them, and what to measure."""

    context: Context
    targets: Sequence[int]
    measure: Measure
    values: list[Floats] = field(default_factory=list)  # parts, in order
    measured: int = 0
    cost: Cost = field(default_factory=Cost)
    finish: Finish = "stop"  # what was rated is rarely continued

    @property
    def left(self) -> int:
        """Tokens it has yet to feed."""
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
        """Measure with the logits that came of the last tokens fed."""
        count = len(logits)
        self.values.append(self.measure(logits, self.targets[self.measured : self.measured + count]))
        self.measured += count


Row = Drawn | Rated


class Decoder:
    """The rows in flight and those that wait for room; `memory` has the sequence of each."""

    def __init__(self, network: Network, text: Text) -> None:
        self.network = network
        self.text = text
        self.memory = Memory(network)
        self.waiting: deque[Row] = deque()
        self.sequences: dict[Row, int] = {}  # of the rows in flight, in their order

    def join(self, rows: Sequence[Row]) -> None:
        """Take rows in where there is room."""
        self.waiting.extend(rows)
        self._admit()

    def step(self) -> list[Row]:
        """Draw one token of each drawn row, measure tokens of rated ones; rows that are done leave and are returned."""
        self._admit()
        drawn = [row for row in self.sequences if isinstance(row, Drawn)]
        rated: list[Rated] = []
        feeds = [self._feed(row, 1) for row in drawn]
        room = OUTPUTS - len(drawn)
        for row in self.sequences:
            if isinstance(row, Rated) and room:
                rated.append(row)
                feeds.append(self._feed(row, room))
                room -= len(feeds[-1].tokens)
        logits = self.network.evaluate(feeds)
        chosen = draw(logits[: len(drawn)], [row.sampling for row in drawn], [row.uniforms[len(row.tokens)] for row in drawn])
        for row, token, logq in zip(drawn, *chosen, strict=True):
            row.take(token, logq, self.text)
        ends = np.cumsum([len(feed.tokens) for feed in feeds])
        for row, end, feed in zip(rated, ends[len(drawn) :], feeds[len(drawn) :], strict=True):
            row.take(logits[end - len(feed.tokens) : end])
        return self._release([*drawn, *rated])

    def leave(self, rows: Sequence[Row]) -> None:
        """Drop rows that nobody waits for."""
        gone = set(rows)
        self.waiting = deque(row for row in self.waiting if row not in gone)
        for row in [row for row in self.sequences if row in gone]:
            self.memory.drop(self.sequences.pop(row))

    def _feed(self, row: Row, room: int) -> Feed:
        tokens, sequence = row.next(room), self.sequences[row]
        start = self.memory.length(sequence)
        self.memory.grow(sequence, len(tokens))
        return Feed(sequence, start, tokens, logits=True)

    def _release(self, rows: Sequence[Row]) -> list[Row]:
        """Part with the rows that are done; their sequences are kept, to be continued or redrawn from some token on."""
        done = [row for row in rows if row.done]
        for row in done:
            self.memory.keep(self.sequences.pop(row), row.fed, finished=row.finish is not None)
        if done:
            self.memory.trim()
        return done

    # ------------------------------------------------------------------------------------------------- prefilling

    def _admit(self) -> None:
        """Take in waiting rows, those first whose prefixes have nothing in common that is not known."""
        while group := self._next_group():
            self._prefill([(rows[0], tokens) for tokens, rows in group.items()])
            for tokens, (first, *others) in group.items():
                for row in others:
                    self.memory.share(self.sequences[first], self.sequences[row], len(tokens))
                    row.cost.cached = len(tokens)

    def _next_group(self) -> dict[tuple[int, ...], list[Row]]:
        """Rows that enter now, by their prefixes: all that is to be fed before their first step."""
        group: dict[tuple[int, ...], list[Row]] = {}
        back: list[Row] = []
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
            row.cost = Cost(new, known, int(new > 0))
            group.setdefault(prefix, []).append(row)
        self.waiting.extendleft(reversed(back))
        return group

    def _prefill(self, rows: Sequence[tuple[Row, tuple[int, ...]]]) -> None:
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
    """The same feeds, parted so that no block has more than BATCH_TOKENS tokens."""
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
