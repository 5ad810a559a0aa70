"""Generated chains: a running total of 4 to 48 steps, worked line by line, and a checker that sees each wrong line.

    question                 solution
    Start: 37                1. +8=45
    1. +8                    2. -5=40
    2. -5                    #### 40
    #### ?

Every line depends on the total before it and on the step of its number, so the length of a chain sets how many times a
solution can go wrong, and nothing else about it. Totals have two digits and changes one, so right lines are equally long.

The training and the test split cannot overlap: a hash of the question text decides its side.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from typing import ClassVar, Literal, Protocol

from exptilt.draft import Prompt, question
from exptilt.errors import RewardError
from exptilt.evaluation.tasks.word_problems import Split, split_of

SHORTEST, LONGEST = 4, 48  # steps of a chain
LOWEST, HIGHEST = 10, 99  # totals
CHANGE = 9  # the largest change in one step, up or down
_QUESTION = re.compile(r"Start: (\d{1,6})((?:\n\d{1,3}\. [-+]\d{1,6})+)\n#### \?")
_STEP = re.compile(r"\n(\d+)\. ([-+]\d+)")


@dataclass(frozen=True)
class Chain:
    """A start and the changes that follow; the first one has the number `first`."""

    start: int
    changes: tuple[int, ...]
    first: int = 1

    @property
    def question(self) -> str:
        """The chain as a prompt."""
        steps = [f"{number}. {change:+d}" for number, change in enumerate(self.changes, self.first)]
        return "\n".join([f"Start: {self.start}", *steps, "#### ?"])

    @property
    def answer(self) -> str:
        """The total at the end."""
        return str(self.start + sum(self.changes))

    @property
    def solution(self) -> str:
        """The worked solution without a mistake."""
        return self.worked([0] * len(self.changes))

    def worked(self, slips: Sequence[int]) -> str:
        """A worked solution whose results are off by `slips`; every line goes on from the total before it, right or wrong."""
        lines, total = [], self.start
        for number, (change, slip) in enumerate(zip(self.changes, slips, strict=True), self.first):
            total += change + slip
            lines.append(f"{number}. {change:+d}={total}")
        return "\n".join([*lines, f"#### {total}"])


def chains(split: Split, count: int, seed: int, steps: int | None = None) -> list[Chain]:
    """Return `count` different chains of a split, of `steps` steps or of mixed lengths; the same arguments give the same."""
    rng = random.Random(f"exptilt chains {split} {seed} {steps}")
    found: dict[str, Chain] = {}
    while len(found) < count:
        chain = compose(rng, rng.randint(SHORTEST, LONGEST) if steps is None else steps)
        if split_of(chain.question) == split:
            found.setdefault(chain.question, chain)
    return list(found.values())


def compose(rng: random.Random, steps: int, first: int = 1) -> Chain:
    """Draw one chain; a change that would leave the range of totals is drawn again."""
    start = total = rng.randint(LOWEST, HIGHEST)
    changes: list[int] = []
    while len(changes) < steps:
        change = rng.choice((1, -1)) * rng.randint(1, CHANGE)
        if LOWEST <= total + change <= HIGHEST:
            changes.append(change)
            total += change
    return Chain(start, tuple(changes), first)


@lru_cache(maxsize=4096)
def read_chain(text: str) -> Chain:
    """The chain that a question asks for; RewardError where it asks for none."""
    found = _QUESTION.fullmatch(text.strip())
    steps = [] if found is None else _STEP.findall(found[2])
    if found is None or [int(number) for number, _ in steps] != list(range(1, len(steps) + 1)):
        raise RewardError(
            f"the prompt {text[:60]!r} is not a chain: write 'Start: 37', the steps '1. +8', '2. -5', … and '#### ?', a line each"
        )
    return Chain(int(found[1]), tuple(int(change) for _, change in steps))


def count_lines(chain: Chain, text: str) -> tuple[int, int]:
    """Lines of a solution up to its first wrong one, that one included, and the number of wrong ones among them, 1 or 0.

    Summed over drafts, the second over the first is the rate of errors a step of drafts that are right so far.
    """
    right = right_lines(chain.solution, text)
    return (right + 1, 1) if right < len(chain.changes) else (len(chain.changes), 0)


def right_lines(solution: str, text: str) -> int:
    """How many lines of a text are those of the solution, before the first that is not."""
    pairs = zip(solution.split("\n"), text.split("\n"), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


class _Draft(Protocol):
    """What the checker reads of a draft."""

    @property
    def text(self) -> str: ...

    @property
    def finish(self) -> Literal["stop", "length"] | None: ...


@dataclass(frozen=True)
class ChainCheck:
    """1.0 for a chain's worked solution without a mistake and 0.0 for any other, a calculator beside the question in hand.

    graded: the share of lines before the first wrong one instead of 0.0; the final line counts as one.

    A draft that is still being written has what it can still get (`bound`): 1.0 while it begins as the solution does, then what
    its right lines are worth. That is a value for `value=` of SMC and ETS as well, and a tight bound for early abort.
    """

    graded: bool = False
    reads: ClassVar[str] = "text"
    reward_max: ClassVar[float] = 1.0

    def __call__(self, prompt: Prompt, drafts: Sequence[_Draft]) -> list[float]:
        """Score every draft by the question that the prompt asks. Raises RewardError where it asks for no chain."""
        solution = read_chain(question(prompt)).solution
        return [
            self._bound(solution, draft.text) if draft.finish is None else self._score(solution, draft.text) for draft in drafts
        ]

    def bound(self, prompt: Prompt, drafts: Sequence[_Draft]) -> list[float]:
        """The highest score that each unfinished draft can still get."""
        solution = read_chain(question(prompt)).solution
        return [self._bound(solution, draft.text) for draft in drafts]

    def _score(self, solution: str, text: str) -> float:
        return 1.0 if text == solution else self._share(solution, text)

    def _bound(self, solution: str, text: str) -> float:
        return 1.0 if solution.startswith(text) else self._share(solution, text)

    def _share(self, solution: str, text: str) -> float:
        """What a text is worth that is not, or cannot become, the solution: its lines before the first wrong one, if graded."""
        if not self.graded:
            return 0.0
        return right_lines(solution, text) / (max(solution.count("\n"), text.count("\n")) + 1)
