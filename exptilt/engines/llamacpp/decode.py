"""The batch of rows in flight, as the scheduler drives it: rows that are drawn and rows that are rated go together.

A row enters when its prefix is known. What no kept sequence has is evaluated first, each token once: where waiting rows have a
common prefix, one goes ahead, and the others join when that prefix is known. Then a drawn row feeds its latest token
in every step, and a rated row feeds its given tokens in as few steps as the cap on logits allows.

Drawn rows of equal tokens so far are one *branch*: one sequence, one forward for all of them, and a draw for each. When they
draw different tokens the branch parts.

All the cells that a row may need are set aside when it enters, so it never stops for lack of memory; a row that does not fit
waits, and so do those that came after it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np

from exptilt.draft import Finish
from exptilt.engines.adjustments import Before, adjustments
from exptilt.engines.distribution_numpy import Logits, adjust, draw_several
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


@dataclass(eq=False)
class Branch:
    """Drawn rows of equal tokens so far and of one law, or one row that is rated, and their sequence in `Memory`."""

    rows: list[AnyRow]
    sequence: int

    @property
    def drawn(self) -> list[Row]:
        return [row for row in self.rows if isinstance(row, Row)]

    @property
    def rated(self) -> list[Measured]:
        return [row for row in self.rows if isinstance(row, Measured)]


class Decoder:
    """The rows in flight and those that wait for room."""

    def __init__(self, network: Network, text: Text) -> None:
        self.network = network
        self.text = text
        self.memory = Memory(network)
        self.waiting: deque[AnyRow] = deque()
        self.branches: list[Branch] = []

    @property
    def rows(self) -> list[AnyRow]:
        """All rows in flight, branch by branch."""
        return [row for branch in self.branches for row in branch.rows]

    def join(self, rows: Sequence[AnyRow]) -> None:
        """Take rows in where there is room."""
        self.waiting.extend(rows)
        self._admit()

    def step(self) -> list[AnyRow]:
        """Draw one token of each drawn row, measure tokens of rated ones; rows that are done leave and are returned."""
        self._admit()
        growing = [(branch.sequence, rows) for branch in self.branches if (rows := branch.drawn)]
        feeds = [self._feed(sequence, [rows[0].last]) for sequence, rows in growing]
        room = OUTPUTS - len(feeds)
        rated: list[Measured] = []
        for branch in self.branches:
            for row in branch.rated:
                if room:
                    rated.append(row)
                    feeds.append(self._feed(branch.sequence, row.next(room)))
                    room -= len(feeds[-1].tokens)
        logits = self.network.evaluate(feeds)
        self._draw([rows for _, rows in growing], logits[: len(growing)])
        ends = np.cumsum([len(feed.tokens) for feed in feeds])
        for row, end, feed in zip(rated, ends[len(growing) :], feeds[len(growing) :], strict=True):
            row.take(logits[end - len(feed.tokens) : end])
        return self._part()

    def leave(self, rows: Sequence[AnyRow]) -> None:
        """Drop rows that nobody waits for."""
        gone = set(rows)
        self.waiting = deque(row for row in self.waiting if row not in gone)
        for branch in self.branches:
            branch.rows = [row for row in branch.rows if row not in gone]
            if not branch.rows:
                self.memory.drop(branch.sequence)
        self.branches = [branch for branch in self.branches if branch.rows]

    def _feed(self, sequence: int, tokens: Sequence[int]) -> Feed:
        start = self.memory.length(sequence)
        self.memory.grow(sequence, len(tokens))
        return Feed(sequence, start, tokens, logits=True)

    def _draw(self, branches: Sequence[Sequence[Row]], logits: Logits) -> None:
        """Draw a token for each row of each branch, whose logits are float32 [branches, vocabulary]."""
        if any(rows[0].sampling.adjusts for rows in branches):  # the rows of a branch have equal tokens before
            logits = adjust(logits, adjustments(rows[0].before for rows in branches))
        laws, uniforms = [rows[0].sampling for rows in branches], [[row.uniform for row in rows] for rows in branches]
        for rows, drawn in zip(branches, draw_several(logits, laws, uniforms), strict=True):
            for row, (token, logq) in zip(rows, drawn, strict=True):
                row.take(token, logq, self.text, forwards=int(row is rows[0]))

    def _part(self) -> list[AnyRow]:
        """Take rows that are done from their branches, and part those whose rows drew different tokens."""
        done: list[AnyRow] = []
        branches: list[Branch] = []
        for branch in self.branches:
            apart: dict[int | None, list[AnyRow]] = {}
            for row in branch.rows:
                token = row.last if isinstance(row, Row) and not row.done else None
                (done if row.done else apart.setdefault(token, [])).append(row)
            if over := [row for row in branch.rows if row.done]:
                self._keep(branch.sequence, over, going_on=bool(apart))
            for number, rows in enumerate(apart.values()):
                branches.append(Branch(rows, self.memory.copy(branch.sequence) if number else branch.sequence))
        self.branches = branches
        if done:
            self.memory.trim()
        return done

    def _keep(self, sequence: int, rows: Sequence[AnyRow], *, going_on: bool) -> None:
        """Keep the sequence of rows that are done, or a copy where others go on: to be continued, or redrawn from some token."""
        finished = all(row.finish is not None for row in rows)
        self.memory.keep(self.memory.copy(sequence) if going_on else sequence, rows[0].fed, finished=finished)

    # ------------------------------------------------------------------------------------------------- prefilling

    def _admit(self) -> None:
        """Take in waiting rows, first those whose prefixes have nothing unknown in common."""
        while group := self._next_group():
            self._prefill([(branches[0], tokens) for tokens, branches in group.items()])
            for tokens, (first, *others) in group.items():
                for branch in others:
                    self.memory.share(first.sequence, branch.sequence, len(tokens))
                for row in [*first.rows[1:], *(row for branch in others for row in branch.rows)]:
                    row.cost.cached = len(tokens)

    def _next_group(self) -> dict[tuple[int, ...], list[Branch]]:
        """Branches of the rows that enter now, by their prefixes: all that is to be fed before their first step."""
        group: dict[tuple[int, ...], list[Branch]] = {}
        alike: dict[Hashable, Branch] = {}
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
            if not self.memory.make_room(new + row.left + sum(other.left for other in self.rows)):
                self.memory.drop(sequence)
                back.append(row)
                break
            row.cost = Work(new, known, forwards=int(new > 0))
            same: Hashable = (row.context, row.sampling) if isinstance(row, Row) else row
            if same in alike:
                self.memory.drop(sequence)
                alike[same].rows.append(row)
                continue
            self.memory.grow(sequence, new)
            alike[same] = Branch([row], sequence)
            self.branches.append(alike[same])
            group.setdefault(prefix, []).append(alike[same])
        self.waiting.extendleft(reversed(back))
        return group

    def _prefill(self, branches: Sequence[tuple[Branch, tuple[int, ...]]]) -> None:
        """Evaluate the new tokens of these branches' prefixes, in blocks, and keep them for others."""
        new = [(branch.sequence, branch.rows[0].cost, prefix) for branch, prefix in branches if branch.rows[0].cost.prompt]
        feeds = [Feed(sequence, cost.cached, prefix[cost.cached :], logits=False) for sequence, cost, prefix in new]
        for block in _blocks(feeds):
            self.network.evaluate(block)
        for sequence, _, prefix in new:
            self.memory.keep(self.memory.copy(sequence), prefix, finished=False)


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
