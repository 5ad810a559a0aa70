"""`try_program`: a program examined by tasks, each on its own, in the sandbox.

`examiner.py` says how the examination is kept out of the program's reach. A task that hangs, uses up the memory or kills the
examination fails alone: the tasks after it are examined in a new sandbox.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Literal

from exptilt.errors import SandboxError
from exptilt.sandbox.launch import Isolation, script
from exptilt.sandbox.run import DEFAULT, Finished, Limits, execute, run
from exptilt.sandbox.view import PYTHON

_OVERHEAD = 128 << 20  # bytes resident in the two processes that examine, where a test uses numpy
_SERVICE = 4.0  # CPU seconds that examining one task may take besides the program's own
_LINE = 50_000  # bytes that a verdict may have

# Starts the last of the modules whose sources the first argument holds. None of them is a file in the sandbox, so the program
# can neither change one nor add another.
_START = """
import json, sys, types
sources = json.loads(sys.argv.pop(1))
for name in ("exptilt", "exptilt.sandbox", *sources):
    sys.modules[name] = types.ModuleType(name)
    exec(compile(sources.get(name, ""), name, "exec"), vars(sys.modules[name]))
sys.modules[name].main()
"""
_SHARED = ("plain", "messages", "copies")  # the modules that both processes use


def _started(*names: str) -> list[str]:
    """The arguments with which an interpreter starts the last of some modules of this package."""
    return ["-c", _START, json.dumps({f"exptilt.sandbox.{name}": script(name) for name in names})]


@dataclass(frozen=True)
class Task:
    """Python code about a program, which may use the program's names.

    code: a test, which passes if its last line is reached; or, with `wants_value`, an expression to be evaluated.
    wants_value: whether the value of an expression is wanted.
    """

    code: str
    wants_value: bool = False


@dataclass(frozen=True)
class InputOutput:
    """A test of a whole program, as in programming contests.

    The output is right where each line has the same words, with numbers compared by value; blanks between words and empty lines
    at the end do not count.

    stdin: what the program is given on standard input.
    stdout: what it should print.
    tolerance: how far a number may be off, absolutely or relative to the one wanted.
    """

    stdin: str
    stdout: str
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"InputOutput(tolerance={self.tolerance}): give a number of 0 or more, and less than 1")


@dataclass(frozen=True)
class Outcome:
    """The result of a task.

    kind: "passed"; "failed", which is the program's fault; or "broken": the task could not be carried out, so it says nothing
        about the program.
    detail: why, in words.
    value: the value of an expression in canonical form, equal for equal values; None where there is none.
    any_program: whether a broken task is broken for every program, so that it has to be changed; if not, another program may
        pass it.
    """

    kind: Literal["passed", "failed", "broken"]
    detail: str = ""
    value: str | None = None
    any_program: bool = False


def try_program(
    program: str,
    tasks: Sequence[Task | InputOutput],
    *,
    limits: Limits = DEFAULT,
    python: str = PYTHON,
    isolation: Isolation | None = None,
) -> list[Outcome]:
    """The outcomes of the tasks, in their order; each task has a fresh process of the program and `limits` of its own.

    Raises SandboxError where the sandbox cannot be built; what the program does only decides the outcomes.
    """
    code = [task for task in tasks if isinstance(task, Task)]
    examined = iter(_examined(program, code, limits, python, isolation) if code else [])
    return [next(examined) if isinstance(task, Task) else _dialogue(program, task, limits, python, isolation) for task in tasks]


def _dialogue(program: str, task: InputOutput, limits: Limits, python: str, isolation: Isolation | None) -> Outcome:
    """The outcome of a test by input and output. What should be printed never enters the sandbox."""
    finished = run(program, stdin=task.stdin.encode(), limits=limits, python=python, isolation=isolation)
    if finished.stopped:
        return Outcome("failed", f"stopped at its limit of {finished.stopped}")
    if finished.returncode:
        said = finished.stderr.decode(errors="replace").strip().splitlines()
        return Outcome("failed", f"ended with status {finished.returncode}: {said[-1][:300] if said else 'it printed nothing'}")
    return difference(finished.stdout.decode(errors="replace"), task)


def difference(printed: str, task: InputOutput) -> Outcome:
    """Whether a text is what the task wants printed, and if not, where it begins to differ."""
    lines, wanted = ([line.split() for line in text.rstrip().splitlines()] for text in (printed, task.stdout))
    for number, (line, want) in enumerate(zip(lines, wanted, strict=False), 1):
        if len(line) != len(want) or not all(_same(*words, task.tolerance) for words in zip(line, want, strict=True)):
            return Outcome("failed", f"line {number} is {' '.join(line)[:100]!r} instead of {' '.join(want)[:100]!r}")
    if len(lines) != len(wanted):
        return Outcome("failed", f"{len(lines)} lines instead of {len(wanted)}")
    return Outcome("passed")


_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,6})?", re.ASCII)


def _same(word: str, wanted: str, tolerance: float) -> bool:
    """Whether two words are the same, or the same number."""
    if word == wanted:
        return True
    if not (_NUMBER.fullmatch(word) and _NUMBER.fullmatch(wanted)):
        return False
    one, other = Decimal(word), Decimal(wanted)
    return one == other or (tolerance > 0 and abs(one - other) <= Decimal(tolerance) * max(1, abs(other)))


def _examined(program: str, tasks: Sequence[Task], limits: Limits, python: str, isolation: Isolation | None) -> list[Outcome]:
    """The outcomes of tests in Python."""
    outcomes: list[Outcome] = []
    while len(outcomes) < len(tasks):
        left = tasks[len(outcomes) :]
        finished = execute(
            ["-I", *_started(*_SHARED, "remote", "standing", "invigilator", "names", "examiner")],
            stdin=json.dumps(_order(program, left, limits, isolation)).encode(),
            limits=_for_all(limits, len(left)),
            python=python,
            isolation=isolation,
        )
        outcomes += _verdicts(finished)
        if finished.stopped == "time":
            # Each task is held to its own time, so the program must have stopped the examiner, and would do so again.
            outcomes += [Outcome("failed", "the program held up its examination")] * (len(tasks) - len(outcomes))
        elif len(outcomes) < len(tasks):
            why = f"stopped at its limit of {finished.stopped}" if finished.stopped else "the program killed its examination"
            outcomes.append(Outcome("failed", why))
    return outcomes


def _order(program: str, tasks: Sequence[Task], limits: Limits, isolation: Isolation | None) -> dict[str, Any]:
    """What the examiner is told."""
    return {
        "program": program,
        "tasks": [vars(task) for task in tasks],
        "candidate": _started(*_SHARED, "candidate"),
        "seconds": limits.seconds,
        "cpu_seconds": math.ceil(limits.cpu_seconds),
        "walls": isolation != "none",
    }


def _for_all(limits: Limits, count: int) -> Limits:
    """The limits of a sandbox in which `count` tasks are examined one after the other."""
    return replace(
        limits,
        seconds=(limits.seconds + 1.0) * count + 10.0,
        cpu_seconds=(limits.cpu_seconds + _SERVICE) * count,
        memory=limits.memory + _OVERHEAD,
        processes=limits.processes + 2,
        output=_LINE * (count + 1),
    )


def _verdicts(finished: Finished) -> list[Outcome]:
    """The outcomes that the examiner reported before it ended. Raises SandboxError where it had not even begun."""
    lines = [json.loads(line) for line in finished.stdout.split(b"\n")[:-1]]
    if not lines:
        said = finished.stderr.decode(errors="replace").strip()[-500:]
        raise SandboxError(
            f"the examination did not begin ({finished.stopped or finished.returncode}): {said or 'it printed nothing'}. "
            "Check that `python` runs and that the memory limit leaves room for it."
        )
    return [Outcome(**line) for line in lines[1:]]
