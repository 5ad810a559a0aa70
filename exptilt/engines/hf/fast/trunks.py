"""Trunks: prefixes that several rows in flight share, held once for all of them.

    system text and examples          a root: what the prompts in flight have in common
         ├── question 1, chosen steps       a trunk on top of it, with the rows of a prompt
         └── question 2, chosen steps       another

A row stands on one trunk, or on a trunk and the root below it, and its own columns begin where the trunk ends.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from exptilt.engines.hf.banks import Layout
from exptilt.engines.hf.fast.attention import Shared, Tier, TrunkPart
from exptilt.engines.hf.fast.parts import parts
from exptilt.engines.hf.prefixes import KeyValues, common_length

LEAST_TRUNK = 16  # a prefix of at least as many tokens is worth a trunk
LEAST_ROOT = 128  # a prefix of several prompts of at least as many tokens is worth a root
EXTRA_TRUNK = 3000  # a further part of the trunks must save as many rows times tokens


@dataclass
class Trunk:
    """tokens: those of the whole prefix. root: the slot of the trunk that holds the first `start` of them. rows: its users."""

    tokens: tuple[int, ...]
    root: int | None
    start: int
    rows: int = 0

    @property
    def columns(self) -> int:
        return len(self.tokens) - self.start


class Trunks:
    """The trunks of the rows in flight, side by side; a trunk goes with the last of its rows."""

    def __init__(self, layout: Layout, device: torch.device) -> None:
        self.layout, self.device = layout, device
        self.held: list[Trunk | None] = []  # by slot
        self.banks = [kind.zeros(states, 0, 0) for states, kind in layout.banks]  # [states, slots, heads, columns, size]

    def length(self, slot: int | None) -> int:
        """How many tokens the trunk in a slot has; 0 without one."""
        return 0 if slot is None else len(self._at(slot).tokens)

    def find(self, tokens: tuple[int, ...]) -> int | None:
        """The slot of the longest trunk that is a prefix of these tokens."""
        fitting = [slot for slot, trunk in self._used() if tokens[: len(trunk.tokens)] == trunk.tokens]
        return max(fitting, key=self.length, default=None)

    def add(self, tokens: tuple[int, ...], known: KeyValues, root: int | None = None) -> int:
        """A new trunk on top of a root; `known` begins with its key-values. Returns its slot."""
        trunk = Trunk(tokens, root, self.length(root))
        if None not in self.held:
            self.held.append(None)
        slot = self.held.index(None)
        self.held[slot] = trunk
        self._reserve()
        for first, end, pieces in known.parts(trunk.start, len(tokens)):
            for bank, states in zip(self.banks, pieces, strict=True):
                bank[:, slot, :, first - trunk.start : end - trunk.start] = states
        return slot

    def root(self, prompt: tuple[int, ...], others: Iterable[tuple[int, ...]], known: KeyValues) -> int | None:
        """The slot of a root for a prompt, old or new, where it shares a long prefix with other prompts or trunks.

        A longer prefix that some of the prompts share by chance does not make another root.
        """
        if len(prompt) <= LEAST_ROOT:
            return None
        lengths = [common_length(prompt, other) for other in (*others, *(trunk.tokens for _, trunk in self._used()))]
        lengths = [length for length in lengths if LEAST_ROOT <= length < len(prompt)]
        if not lengths:
            return None
        longest = max(lengths)
        shared = prompt[: min(length for length in lengths if length > longest - LEAST_TRUNK)]
        old = (slot for slot, trunk in self._used() if trunk.root is None and trunk.tokens == shared)
        slot = next(old, None)
        return self.add(shared, known) if slot is None else slot

    def hold(self, slot: int, rows: int) -> None:
        """Count so many more, or fewer, rows as users of a trunk."""
        for each in self._chain(slot):
            self._at(each).rows += rows

    def tidy(self) -> None:
        """Free the slots that no row uses: their rows left, or memory was too short when they joined."""
        self.held = [trunk if trunk is not None and trunk.rows else None for trunk in self.held]

    def shared(self, slots: Sequence[int | None], own: Sequence[tuple[slice, int]], even: bool = False) -> Shared:
        """What `attend` needs of rows on the trunks in these slots. own, even: as in `Shared`.

        Free slots within a part are included, without rows: leaving them out would mean copying the others.
        """
        chains = [self._chain(slot) for slot in slots]
        if len(own) == 1 and own[0][0] == slice(0, len(slots)) and (tiers := self._tiers(chains)) is not None:
            return Shared(own, [], [], tiers, even)
        groups: list[list[tuple[int, int]]] = [[] for _ in range(max((max(chain) for chain in chains if chain), default=-1) + 1)]
        for row, chain in enumerate(chains):
            for level, slot in enumerate(chain):
                groups[slot].append((level, row))
        sizes = [(len(group), trunk.columns if trunk else 0) for group, trunk in zip(groups, self.held, strict=False)]
        found: list[TrunkPart] = []
        where = [[0] * len(slots) for _ in range(max(map(len, chains), default=0))]  # by level and row
        stand = 0
        for run in parts(sizes, EXTRA_TRUNK):
            part = self._part(run, [[row for _, row in group] for group in groups[run]], max(size[1] for size in sizes[run]))
            found.append(part)
            trunks, most = part.members.shape
            for number, group in enumerate(groups[run]):
                for index, (level, row) in enumerate(group, stand + number * most):
                    where[level][row] = index
            stand += trunks * most
        levels: list[tuple[Tensor, Tensor]] = []
        for level, stands in enumerate(where):
            # A row without a trunk at this level is counted with any trunk, and what it finds there is ignored.
            bare = torch.tensor([len(chain) <= level for chain in chains], device=self.device)
            hidden = torch.where(bare, -math.inf, 0.0)[:, None, None, None]
            levels.append((torch.tensor(stands, dtype=torch.int64, device=self.device), hidden))
        return Shared(own, found, levels)

    def _tiers(self, chains: Sequence[Sequence[int]]) -> list[Tier] | None:
        """The first trunks of all rows, and the second; None where those of a level are better parted."""
        tiers: list[Tier] = []
        for level in range(max(map(len, chains), default=0)):
            tier = self._tier([chain[level] if len(chain) > level else None for chain in chains])
            if tier is None:
                return None
            tiers.append(tier)
        return tiers

    def _tier(self, slots: Sequence[int | None]) -> Tier | None:
        """The trunks in these slots, one for each row."""
        used = [slot for slot in slots if slot is not None]
        run = slice(min(used), max(used) + 1)
        groups: list[list[int]] = [[] for _ in range(run.start, run.stop)]
        for row, slot in enumerate(slots):
            if slot is not None:
                groups[slot - run.start].append(row)
        columns = [self._at(slot).columns if group else 0 for slot, group in enumerate(groups, run.start)]
        if len(parts([*zip(map(len, groups), columns, strict=True)], EXTRA_TRUNK)) > 1:
            return None
        part = self._part(run, groups, max(columns))
        most = part.members.shape[1]
        where = {row: number * most + index for number, group in enumerate(groups) for index, row in enumerate(group)}
        stands = torch.tensor([where.get(row, 0) for row in range(len(slots))], dtype=torch.int64, device=self.device)
        bare = torch.tensor([slot is None for slot in slots], device=self.device)[:, None, None, None] if None in slots else None
        return Tier(part, stands, bare, alone=groups == [[*range(len(slots))]])

    def _part(self, run: slice, groups: Sequence[list[int]], longest: int) -> TrunkPart:
        """The trunks of a run of slots, whose rows are `groups`."""
        most = max(map(len, groups))
        members = [group + [0] * (most - len(group)) for group in groups]
        columns = [trunk.columns if trunk else longest for trunk in self.held[run]]  # those of a free slot do not matter
        seen = torch.arange(longest, device=self.device) < torch.tensor(columns, device=self.device)[:, None]
        return TrunkPart(
            self.layout.layers([bank[:, run, :, :longest].unbind() for bank in self.banks]),
            torch.where(seen, 0.0, -math.inf)[:, None, None],
            torch.tensor(members, dtype=torch.int64, device=self.device),
        )

    def _at(self, slot: int) -> Trunk:
        trunk = self.held[slot]
        assert trunk is not None
        return trunk

    def _used(self) -> list[tuple[int, Trunk]]:
        return [(slot, trunk) for slot, trunk in enumerate(self.held) if trunk is not None]

    def _chain(self, slot: int | None) -> list[int]:
        """The trunk in a slot and its root."""
        if slot is None:
            return []
        root = self._at(slot).root
        return [slot] if root is None else [slot, root]

    def _reserve(self) -> None:
        """Make room for all slots and their columns."""
        slots, columns = len(self.held), max(trunk.columns for _, trunk in self._used())
        for number, (old, (states, kind)) in enumerate(zip(self.banks, self.layout.banks, strict=True)):
            had, width = old.shape[1], old.shape[3]
            if had < slots or width < columns:
                more = (max(slots * 3 // 2, had), max(columns * 5 // 4, width)) if had else (slots, columns)
                self.banks[number] = kind.zeros(states, *more)
                self.banks[number][:, :had, :, :width] = old
