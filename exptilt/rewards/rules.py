"""Rewards from plain rules: a known answer, a pattern, your own function of the text, and weighted sums of rewards."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from exptilt.answers import exact
from exptilt.answers import reference as read_reference
from exptilt.core import Engine, PromptReward, Reward
from exptilt.describe import LATER
from exptilt.draft import Draft, Prompt, prompt_text, question
from exptilt.errors import RewardError, UsageError
from exptilt.keys import Floats, Key
from exptilt.rating import bounds, rate, reward_name, told_maximum
from exptilt.rewards.columns import Filled, ReadsColumns, filled, parameters, wanted


@dataclass(frozen=True)
class Zero:
    """0.0 for every draft, so that π is p: for a vote or a power target, which need no reward."""

    reward_max: ClassVar[float] = 0.0

    def __call__(self, prompt: Prompt, drafts: Sequence[Draft]) -> list[float]:
        return [0.0 for _ in drafts]


@dataclass(frozen=True)
class Matches:
    """1.0 where the draft's answer is the reference answer, else 0.0; a draft without an answer gets 0.0.

    answer: reads the answer of a text in canonical form, such as `exptilt.answers.number`.
    reference: the right answer as text, bare or as a solution that marks it, read by `exptilt.answers.reference`; or a mapping
        from each prompt to its right answer.
    column: the column of a data set that holds it instead.
    Raises ValueError where `answer` finds nothing in a reference, RewardError for a prompt that the mapping lacks.
    """

    answer: Callable[[str], str | None]
    reference: str | Mapping[Any, str] | None = None
    column: str | None = field(default=None, metadata=LATER)
    _expected: Mapping[Any, str] = field(init=False, repr=False, compare=False)
    reads: ClassVar[str] = "text"
    reward_max: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        if (self.reference is None) == (self.column is None):
            raise ValueError('Matches compares with a reference: give it, or the name of its column as column="answer"')
        given = {None: self.reference} if isinstance(self.reference, str) else dict(self.reference or {})
        expected: dict[Any, str] = {}
        for prompt, text in given.items():
            found = read_reference(self.answer, text)
            if found is None:
                raise ValueError(f"{reward_name(self.answer)} finds no answer in the reference {text!r}: give the answer itself")
            expected[prompt] = found
        object.__setattr__(self, "_expected", expected)

    @property
    def columns(self) -> frozenset[str]:
        """The column of the right answers, if they are in one."""
        return frozenset() if self.column is None else frozenset({self.column})

    def given(self, columns: Mapping[str, Any]) -> Matches:
        """This reward for one problem. Raises RewardError where its reference holds no answer."""
        if self.column is None:
            return self
        try:
            return Matches(self.answer, str(columns[self.column]))
        except ValueError as error:
            raise RewardError(f"the column {self.column!r}: {error}") from None

    def __call__(self, prompt: Prompt, drafts: Sequence[Draft]) -> list[float]:
        if self.column is not None:
            raise RewardError(f"Matches reads the column {self.column!r}, and the prompt has no columns: give an Example")
        place = None if isinstance(self.reference, str) else prompt
        if place not in self._expected:
            raise RewardError(f"Matches has no reference for the prompt {prompt_text(prompt)[:80]!r}: add it to the mapping")
        return [float(self.answer(draft.text) == self._expected[place]) for draft in drafts]

    def bound(self, prompt: Prompt, drafts: Sequence[Draft]) -> list[float]:
        """0.0 where the answer is the whole text, and its letters so far are not those that the reference begins with."""
        expected = self._expected.get(None if isinstance(self.reference, str) else prompt)
        if self.answer is not exact or expected is None:
            return [1.0 for _ in drafts]
        wanted = _letters(expected)
        return [float(wanted.startswith(_letters(draft.text)[:-1])) for draft in drafts]  # the last may still get an accent


@dataclass(frozen=True)
class Format:
    """1.0 where the pattern is found in the draft's text, else 0.0.

    pattern: a regular expression, as in `re`.
    full: whether it must match the whole text.
    """

    pattern: str
    full: bool = False
    _compiled: re.Pattern[str] = field(init=False, repr=False, compare=False)
    reads: ClassVar[str] = "text"
    reward_max: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        try:
            compiled = re.compile(self.pattern)
        except re.error as error:
            raise ValueError(f"Format(pattern={self.pattern!r}) is not a regular expression: {error}") from error
        object.__setattr__(self, "_compiled", compiled)

    def __call__(self, prompt: Prompt, drafts: Sequence[Draft]) -> list[float]:
        find = self._compiled.fullmatch if self.full else self._compiled.search
        return [float(find(draft.text) is not None) for draft in drafts]

    def bound(self, prompt: Prompt, drafts: Sequence[Draft]) -> list[float]:
        """0.0 where an unfinished draft begins otherwise than the pattern says that a text must, as `^Answer` does."""
        head = self._head()
        written = [draft.text.rstrip("\ufffd")[: len(head)] for draft in drafts]  # half a character may become any
        return [float(head.startswith(text)) for text in written]

    def _head(self) -> str:
        """Plain characters that every match begins with, at the beginning of the text; empty where the pattern asks for none."""
        anchor = next((each for each in ("^", r"\A") if self.pattern.startswith(each)), "")
        if "|" in self.pattern or not (anchor or self.full):
            return ""
        rest = self.pattern.removeprefix(anchor)
        plain = re.match(r"[A-Za-z0-9 _:#,\"'<>/=-]*", rest)
        head = plain[0] if plain else ""
        return head[:-1] if rest[len(head) : len(head) + 1] in ("*", "?", "{") else head


@dataclass(frozen=True)
class Each:
    """A reward from a function that rates one text: `(text) -> float` or `(prompt, text) -> float`.

    Which of the two it is follows from the number of parameters without a default, or from the place of one called `text`.
    Further parameters are columns by name (`exptilt.rewards.columns`). Errors name the function.
    """

    function: Callable[..., float]
    _takes_prompt: bool = field(init=False, repr=False, compare=False)
    reads: ClassVar[str] = "text"

    def __post_init__(self) -> None:
        needed = _required(self.function)
        first = needed.index("text") + 1 if "text" in needed[:2] else len(needed)
        if first not in (1, 2):
            raise ValueError(
                f"Each({reward_name(self.function)}) needs {first} arguments: "
                "give a function (text) -> float or (prompt, text) -> float"
            )
        object.__setattr__(self, "_takes_prompt", first == 2)
        object.__setattr__(self, "__qualname__", f"Each({reward_name(self.function)})")

    @property
    def columns(self) -> frozenset[str]:
        """The further parameters of the function that have no default."""
        named, _ = parameters(self.function, 1 + self._takes_prompt)
        return frozenset(name for name, needed in named.items() if needed)

    def given(self, columns: Mapping[str, Any]) -> Reward:
        """This reward for one problem."""
        named, takes_all = parameters(self.function, 1 + self._takes_prompt)
        values = {name: value for name, value in columns.items() if takes_all or name in named}
        return Filled(self, values) if values else self

    @property
    def reward_max(self) -> float | None:
        """The upper bound that the function gives by an attribute of this name."""
        return told_maximum(self.function)

    def __call__(self, prompt: Prompt, drafts: Sequence[Draft], **columns: Any) -> list[float]:
        if self._takes_prompt:
            return [self.function(question(prompt), draft.text, **columns) for draft in drafts]
        return [self.function(draft.text, **columns) for draft in drafts]

    def bound(self, prompt: Prompt, drafts: Sequence[Draft]) -> list[float | None]:
        """What the function says by an attribute `bound`, a function of the same parameters, of each unfinished text."""
        told = getattr(self.function, "bound", None)
        if told is None or self.columns:
            return [None] * len(drafts)
        return [told(question(prompt), draft.text) if self._takes_prompt else told(draft.text) for draft in drafts]


def _letters(text: str) -> str:
    """The letters and digits of a text as `answers.exact` compares them; what it drops at the ends is neither."""
    return "".join(character for character in exact(text) or "" if character.isalnum())


_WANTED = "give a function (text) -> float or (prompt, drafts) -> floats"


def as_reward(found: Any, spec: str) -> Any:
    """What the user wrote, as a reward: decided by the parameters that it must be given.

    (text) or (prompt, text) -> float rates one text, (prompt, drafts) -> floats rates many at once; which of the last
    two is told by the name `text`. Further parameters are columns. A class is made an object first, without arguments.
    """
    if isinstance(found, type):
        try:
            found = found()
        except TypeError as error:
            raise UsageError(f"{spec} is a class that needs arguments ({error}): give the name of an object of it") from None
    if isinstance(found, PromptReward):
        return found
    if not callable(found):
        raise UsageError(f"{spec} is {found!r} and cannot be called: {_WANTED}")
    function: Callable[..., Any] = found
    try:
        found_parameters = inspect.signature(function).parameters.values()
    except ValueError:  # some built-in functions have no signature
        return Each(function)
    if isinstance(function, ReadsColumns):
        return function
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [each.name for each in found_parameters if each.kind in positional and each.default is each.empty]
    if not needed:
        raise UsageError(f"{spec} needs 0 arguments: {_WANTED}")
    return Each(function) if len(needed) == 1 or "text" in needed[:2] else function


def _required(function: Callable[..., Any]) -> list[str]:
    """The positional parameters of the function that have no default."""
    if not callable(function):
        raise ValueError(f"Each({function!r}) is not callable: give a function (text) -> float")
    found = inspect.signature(function).parameters.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [each.name for each in found if each.kind in positional and each.default is each.empty]


@dataclass(frozen=True)
class Sum:
    """Σ_i weight_i·reward_i. A part may be a PromptReward such as Agreement; the sum is bound to each prompt as a whole.

    parts: pairs (weight, reward); weights finite and not zero, in units of the sum per unit of the part.
    The parts are checked one by one, so that an error names the part and not the sum.
    """

    parts: Sequence[tuple[float, Reward | PromptReward]]

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.parts))
        if not self.parts:
            raise ValueError("Sum has no parts: give pairs (weight, reward)")
        for weight, reward in self.parts:
            if not (math.isfinite(weight) and weight != 0):
                raise ValueError(
                    f"Sum has weight {weight} for {reward_name(reward)}: give finite weights, and leave out a part of weight 0"
                )

    @property
    def columns(self) -> frozenset[str]:
        """The columns that the parts read."""
        return frozenset().union(*(wanted(part) for _, part in self.parts))

    def given(self, columns: Mapping[str, Any]) -> Sum:
        """This sum for one problem."""
        return Sum(tuple((weight, filled(part, columns)) for weight, part in self.parts))

    @property
    def fixed(self) -> bool:
        """Whether every part is a fixed function of (x, y)."""
        return all(part.fixed for _, part in self.parts if isinstance(part, PromptReward))

    def needs(self) -> frozenset[str]:
        """What the parts need of the engine."""
        return frozenset().union(*(part.needs() for _, part in self.parts if isinstance(part, PromptReward)))

    def bind(self, engine: Engine, prompt: Prompt, key: Key) -> BoundSum:
        """The sum as a plain reward for `prompt`, each part that must be bound with a key of its own."""
        bound: list[tuple[float, Reward]] = []
        for number, (weight, part) in enumerate(self.parts):
            reward = part.bind(engine, prompt, key.child("part", number)) if isinstance(part, PromptReward) else part
            bound.append((weight, reward))
        return BoundSum(tuple(bound))


@dataclass(frozen=True)
class BoundSum:
    """A `Sum` whose parts are plain rewards."""

    parts: tuple[tuple[float, Reward], ...]

    @property
    def reward_max(self) -> float | None:
        """The sum of the parts' upper bounds; None where a part has none or has a negative weight."""
        told = [(weight, told_maximum(part)) for weight, part in self.parts]
        bounds = [weight * bound for weight, bound in told if bound is not None and weight > 0]
        return math.fsum(bounds) if len(bounds) == len(told) else None

    def bound(self, prompt: Prompt, drafts: Sequence[Draft]) -> Floats:
        """The sum of the parts' bounds; +inf where a part knows none, or has a negative weight."""
        told = [
            weight * bounds(part, prompt, drafts) if weight > 0 else np.full(len(drafts), np.inf) for weight, part in self.parts
        ]
        return np.sum(told, axis=0)

    def __call__(self, prompt: Prompt, drafts: Sequence[Draft]) -> Floats:
        return np.sum([weight * rate(reward, prompt, drafts) for weight, reward in self.parts], axis=0)
