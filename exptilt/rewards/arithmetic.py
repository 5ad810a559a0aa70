"""A reward that checks the arithmetic of a worked solution without knowing the right answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

from exptilt.describe import LATER

_NUMBER = r"(-?[0-9]{1,12})"  # the bound keeps hostile digits from taking time
_EQUATION = re.compile(rf"{_NUMBER} ?([-+*/]) ?{_NUMBER} ?= ?{_NUMBER}")
_FINAL = re.compile(rf"#### ?{_NUMBER}")


class _Draft(Protocol):
    """What this reward reads of a draft."""

    @property
    def text(self) -> str: ...

    @property
    def finish(self) -> Literal["stop", "length"] | None: ...


@dataclass(frozen=True)
class Arithmetic:
    """Score how far the equations of a draft hold, in [0, 1]; the reference answer is never used.

    A draft is read line by line; blank lines are skipped. The first line that starts with `####` is
    the final line, every other line is a step. A step holds if the whole line is an equation
    `a op b = c` between integers, with op one of + - * /, and it is true (division must be exact). A
    malformed line is a step that does not hold, and so is anything after the final line.

        score = share * agreement

    `share` is the number of steps that hold divided by the number of steps, or 0 without any step.
    `agreement` is 1 if the final line is `#### n` and n equals the result of the last well-formed
    equation before it, and `without_final` (one half by default) if it is missing, malformed or differs.

    A draft that is still being written (`finish` is None) is judged on its complete lines only: the
    text after the last line break is ignored, a final line that has not come yet costs nothing,
    and with no complete step the score is 1, because nothing is wrong so far.

    A draft of more than `most_steps` steps scores 0, where that is given. It also bounds what an unfinished draft can still reach
    (`bound`): of S steps at most, k that do not hold leave a share of (S - k)/S. Without it a wrong step can be outweighed by
    any number of right ones, and only a final line that disagrees bounds the score.

    Only the arithmetic is seen. A solution that adds the wrong numbers correctly gets the full score.
    """

    without_final: float = 0.5
    most_steps: int | None = field(default=None, metadata=LATER)
    reads: ClassVar[str] = "text"
    reward_max: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.without_final <= 1:
            raise ValueError(f"without_final must lie in [0, 1], not {self.without_final}")
        if self.most_steps is not None and not (isinstance(self.most_steps, int) and self.most_steps >= 1):
            raise ValueError(f"most_steps={self.most_steps!r}: give a whole number of 1 or more, or None for any number of steps")

    def __call__(self, prompt: object, drafts: Sequence[_Draft]) -> list[float]:
        """Score every draft; the prompt is not used."""
        return [self._score(draft.text, finished=draft.finish is not None) for draft in drafts]

    def bound(self, prompt: object, drafts: Sequence[_Draft]) -> list[float]:
        """The highest score that each unfinished draft can still get, by its complete lines."""
        return [self._bound(draft.text) for draft in drafts]

    def _bound(self, text: str) -> float:
        lines, final, steps = _read(text[: text.rfind("\n") + 1])
        agreement = 1.0 if final is None or _agrees(lines[final], lines[:final]) else self.without_final
        if self.most_steps is None:
            return agreement
        if len(steps) > self.most_steps:
            return 0.0
        return agreement * (self.most_steps - sum(not _holds(line) for line in steps)) / self.most_steps

    def _score(self, text: str, finished: bool) -> float:
        """Score one text by the rule of the class."""
        if not finished:
            text = text[: text.rfind("\n") + 1]
        lines, final, steps = _read(text)
        if self.most_steps is not None and len(steps) > self.most_steps:
            return 0.0
        if not finished and not steps and final is None:
            return 1.0
        share = sum(map(_holds, steps)) / len(steps) if steps else 0.0
        if final is None:
            return share if not finished else share * self.without_final
        return share if _agrees(lines[final], lines[:final]) else share * self.without_final


def _read(text: str) -> tuple[list[str], int | None, list[str]]:
    """The lines of a text that are not blank, which of them is the final line, and the others."""
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    final = next((i for i, line in enumerate(lines) if line.startswith("####")), None)
    return lines, final, [line for i, line in enumerate(lines) if i != final]


def _holds(line: str) -> bool:
    """Whether a line is a true equation."""
    match = _EQUATION.fullmatch(line)
    if match is None:
        return False
    left, right, result = int(match[1]), int(match[3]), int(match[4])
    if match[2] == "/":
        return right != 0 and left == right * result
    return {"+": left + right, "-": left - right, "*": left * right}[match[2]] == result


def _agrees(final: str, before: list[str]) -> bool:
    """Whether the final line repeats the result of the last well-formed equation before it."""
    answer = _FINAL.fullmatch(final)
    equations = [match for line in before if (match := _EQUATION.fullmatch(line))]
    return answer is not None and bool(equations) and int(answer[1]) == int(equations[-1][4])
