"""Rewards for generated programs: the share of unit tests that they pass, or their agreement with other samples.

Programs run in the sandbox of `exptilt.sandbox` and nowhere else; docs/sandbox.md says what it withstands. `UnitTests` needs
tests. `OutputAgreement` needs none: it draws pilot programs from p and holds their outputs fixed, as `Agreement` does with
answers, so that the reward is a function of (x, y) and π exists. Comparing samples by what they compute is the idea of
MBR-EXEC (Shi et al., 2204.11454) and, with generated tests, of CodeT (Chen et al., 2207.10397).

A sandbox that cannot be built and a test that cannot be carried out on any program are errors; a program that fails is not.
"""

from __future__ import annotations

import ast
import os
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, Literal

from exptilt import answers
from exptilt.answers import Answer
from exptilt.core import Engine
from exptilt.draft import Draft, Prompt, beginning, prompt_text
from exptilt.errors import RewardError
from exptilt.keys import Key
from exptilt.sandbox import InputOutput, Limits, Outcome, Task, try_program
from exptilt.sandbox.launch import Isolation
from exptilt.sandbox.run import DEFAULT

ForPrompt = Sequence[str] | Mapping[str, Sequence[str]] | Callable[[str], Sequence[str]]
"""Pieces of code for each prompt: the same for all, by prompt, or from a function of the prompt."""
Tests = Sequence[str | InputOutput]
TestsForPrompt = Tests | Mapping[Any, Tests] | Callable[[Any], Tests]
"""The same of tests: pieces of code, or inputs with the outputs that are wanted."""


Tasks = tuple[Task | InputOutput, ...]


@dataclass(frozen=True)
class Programs:
    """How programs are found in drafts and put to tasks, with the fields of `UnitTests` and `OutputAgreement` that say so.

    extract: finds the program in a response, None where there is none.
    continues: whether a response continues its prompt, so that `extract` is given both as one text.
    limits: those of each task alone.
    workers: how many programs run at once, counted over all rewards with the same number; None for one on each processor.
    isolation: as in `exptilt.sandbox.run`.
    """

    extract: Answer
    continues: bool
    limits: Limits
    workers: int | None = field(compare=False)
    isolation: Isolation | None
    _known: dict[tuple[str, Tasks], list[Outcome]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not (self.workers is None or (isinstance(self.workers, int) and self.workers >= 1)):
            raise ValueError(f"workers={self.workers!r}: give a whole number of 1 or more, or None for one on each processor")

    def outcomes(self, drafts: Sequence[Draft], tasks: Tasks) -> list[list[Outcome] | None]:
        """The outcomes of the tasks for each draft, None for a draft without a program. Equal programs run once.

        Raises SandboxError where the sandbox cannot be built, RewardError where a task cannot be carried out on any program;
        warns where it could not be carried out on one.
        """
        programs = [self.extract(beginning(draft.prompt) + draft.text if self.continues else draft.text) for draft in drafts]
        fresh = [each for each in dict.fromkeys(programs) if each is not None and (each, tasks) not in self._known]
        for program, found in zip(fresh, _pool(self.workers).map(lambda each: self._try(each, tasks), fresh), strict=True):
            self._known[program, tasks] = found
        return [None if program is None else self._known[program, tasks] for program in programs]

    def _try(self, program: str, tasks: Tasks) -> list[Outcome]:
        outcomes = try_program(program, tasks, limits=self.limits, isolation=self.isolation)
        for task, outcome in zip(tasks, outcomes, strict=True):
            if outcome.kind != "broken" or isinstance(task, InputOutput):
                continue
            if outcome.any_program:
                raise RewardError(f"{task.code[:200]!r} cannot be carried out: {outcome.detail}. Change the test.")
            warnings.warn(
                f"the test {task.code[:200]!r} could not be carried out on a program, which gets nothing for it: "
                f"{outcome.detail}. "
                "The program may be right: let the test compare plain values, such as an object's attributes.",
                stacklevel=2,
            )
        return outcomes


@lru_cache
def _pool(workers: int | None) -> ThreadPoolExecutor:
    """One pool for all rewards with this number of workers, however many prompts are in flight."""
    return ThreadPoolExecutor(workers or os.cpu_count() or 1, thread_name_prefix="sandbox")


@dataclass(frozen=True)
class UnitTests:
    """The share of its prompt's tests that a draft's program passes; 0.0 for a draft without a program.

    tests: for each prompt one or more tests; a sequence, a mapping from prompts, or a function of the prompt. A test is a block
    of Python, passed where its last line is reached, or an `InputOutput` for a program that reads standard input and prints. A
    block may use the names of the program, and should import whatever else it uses.
    extract, continues, limits, workers, isolation: as of `Programs`.

    Each test has a fresh process of the program and limits of its own, and runs where the program cannot reach it: only
    values cross (`exptilt.sandbox.examiner`). Raises ValueError for a test that is not Python or in which nothing can fail,
    RewardError for a prompt without tests and for a test that cannot be carried out on any program, such as one that imports a
    missing package. Warns where a test could not be carried out on one program, which gets nothing for that test.
    """

    tests: TestsForPrompt
    extract: Answer = answers.code
    continues: bool = False
    limits: Limits = DEFAULT
    workers: int | None = field(default=None, compare=False)
    isolation: Isolation | None = None
    _programs: Programs = field(init=False, repr=False, compare=False)
    reads: ClassVar[str] = "text"

    def __post_init__(self) -> None:
        given = {} if callable(self.tests) else self.tests if isinstance(self.tests, Mapping) else {"": self.tests}
        for prompt, tests in given.items():
            _tasks(prompt, tests, wants_value=False)
        programs = Programs(self.extract, self.continues, self.limits, self.workers, self.isolation)
        object.__setattr__(self, "_programs", programs)

    def __call__(self, prompt: Prompt, drafts: Sequence[Draft]) -> list[float]:
        tasks = _tasks(prompt, _given(self.tests, prompt), wants_value=False)
        return [0.0 if found is None else _share(found) for found in self._programs.outcomes(drafts, tasks)]


@dataclass(frozen=True)
class OutputAgreement:
    """Reward programs that compute the same as pilot programs drawn beforehand, whose outputs are then held fixed.

    inputs: for each prompt one or more expressions that call the program, such as "add(2, 3)"; a sequence, a mapping from
        prompts, or a function of the prompt such as `CallsLike`.
    pilot: n0, how many responses are drawn from the engine for each prompt, before and apart from the sampler's own.
    kind: "share" scores the share of the pilot that agrees, averaged over the inputs; "all" the share of the pilot that
        agrees on all inputs at once. Both lie in [0, 1].
    extract, continues, limits, workers, isolation: as of `Programs`.

    Outputs are compared as values, floats to 12 digits. An error, a time-out, an object that is not a plain value, and a draft
    without a program give no output: they agree with nothing, not even with each other.
    """

    inputs: ForPrompt
    pilot: int = 16
    kind: Literal["share", "all"] = "share"
    extract: Answer = answers.code
    continues: bool = False
    limits: Limits = DEFAULT
    workers: int | None = field(default=None, compare=False)
    isolation: Isolation | None = None
    _programs: Programs = field(init=False, repr=False, compare=False)
    fixed = True

    def __post_init__(self) -> None:
        if not (isinstance(self.pilot, int) and self.pilot >= 1):
            raise ValueError(f"OutputAgreement(pilot={self.pilot!r}): give a whole number of 1 or more")
        if self.kind not in ("share", "all"):
            raise ValueError(f'OutputAgreement(kind={self.kind!r}): give "share" or "all"')
        programs = Programs(self.extract, self.continues, self.limits, self.workers, self.isolation)
        object.__setattr__(self, "_programs", programs)

    def needs(self) -> frozenset[str]:
        """Nothing: the pilot is drawn from the start to the end."""
        return frozenset()

    def bind(self, engine: Engine, prompt: Prompt, key: Key) -> BoundOutputAgreement:
        """Draw the pilot, run it, and freeze the reward of `prompt`."""
        tasks = _tasks(prompt, _given(self.inputs, prompt), wants_value=True)
        keys = [key.child("pilot", number) for number in range(self.pilot)]
        drafts = engine.extend([engine.start(prompt)] * self.pilot, keys)
        ways = _by_input if self.kind == "share" else _all_at_once
        outputs = [ways(found) for found in self._programs.outcomes(drafts, tasks) if found is not None]
        counts = tuple(Counter(column) for column in zip(*outputs, strict=True))
        return BoundOutputAgreement(self._programs, tasks, ways, counts, self.pilot)


Outputs = tuple[str | None, ...]


@dataclass(frozen=True)
class BoundOutputAgreement:
    """The frozen reward of one prompt: counts of the pilot's outputs, one Counter for each thing compared."""

    programs: Programs
    tasks: Tasks
    ways: Callable[[list[Outcome]], Outputs]
    counts: tuple[Counter[str | None], ...]
    pilot: int
    reads: ClassVar[str] = "text"

    def __call__(self, prompt: Prompt, drafts: Sequence[Draft]) -> list[float]:
        return [0.0 if found is None else self._share(found) for found in self.programs.outcomes(drafts, self.tasks)]

    def _share(self, found: list[Outcome]) -> float:
        outputs = self.ways(found)
        # Where no pilot response held a program there is nothing to count.
        agreeing = sum(counts[output] for counts, output in zip(self.counts, outputs, strict=False) if output is not None)
        return agreeing / (self.pilot * len(outputs))


def _by_input(outcomes: list[Outcome]) -> Outputs:
    """The output for each input; None where there is none."""
    return tuple(outcome.value for outcome in outcomes)


def _all_at_once(outcomes: list[Outcome]) -> Outputs:
    """All outputs as one; None where one is missing."""
    values = [outcome.value for outcome in outcomes]
    return (None if None in values else repr(values),)


def _share(outcomes: list[Outcome]) -> float:
    return sum(outcome.kind == "passed" for outcome in outcomes) / len(outcomes)


def _given(pieces: TestsForPrompt, prompt: Prompt) -> Tests:
    """The tests or inputs for one prompt."""
    if callable(pieces):
        return pieces(prompt)
    if isinstance(pieces, Mapping):
        if prompt not in pieces:
            raise RewardError(f"there are no tests or inputs for the prompt {prompt_text(prompt)[:80]!r}: add it to the mapping")
        return pieces[prompt]
    return pieces


def _tasks(prompt: Prompt, pieces: Tests, wants_value: bool) -> Tasks:
    """The pieces as tasks, checked. Raises ValueError for none, and for what is not Python or cannot fail."""
    if isinstance(pieces, str | InputOutput) or not pieces:
        raise ValueError(
            f"the prompt {prompt_text(prompt)[:80]!r} has {pieces!r} for tests or inputs: give a sequence of one text or more"
        )
    return tuple(piece if isinstance(piece, InputOutput) and not wants_value else _task(piece, wants_value) for piece in pieces)


def _task(piece: Any, wants_value: bool) -> Task:
    kind = "expression" if wants_value else "test"
    try:
        tree = compile(piece, "test", "eval" if wants_value else "exec", ast.PyCF_ONLY_AST, dont_inherit=True)
        compile(piece, "test", "eval" if wants_value else "exec", dont_inherit=True)
    except (SyntaxError, ValueError, TypeError) as error:
        raise ValueError(f"the {kind} {piece[:200]!r} is not Python: {error}") from error
    if isinstance(tree, ast.Module) and all(map(_only_defines, tree.body)):
        raise ValueError(f"nothing can fail in the test {piece[:200]!r}: it only defines names. Have it call what it defines.")
    return Task(piece, wants_value)


def _only_defines(statement: ast.stmt) -> bool:
    """Whether a statement makes functions, classes or imports, or is a text on its own."""
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant)
    return isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom | ast.Pass)
