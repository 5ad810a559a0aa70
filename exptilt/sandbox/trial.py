"""`try_program`: a program examined by tasks, each on its own, in the sandbox; what it prints or exits with counts for nothing.

How the examination is kept out of the program's reach stands in `examiner.py`. A task that hangs, takes all memory or kills
the examination fails alone: the tasks after it are examined in a new sandbox.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from exptilt.errors import SandboxError
from exptilt.sandbox.launch import Isolation, script
from exptilt.sandbox.run import DEFAULT, Finished, Limits, run

_OVERHEAD = 48 << 20  # bytes resident in the two processes that examine
_SERVICE = 2.0  # CPU seconds that examining one task may take beside the program itself
_LINE = 50_000  # bytes that a verdict may have

_FILES = {f"exptilt/sandbox/{name}.py": script(name).encode() for name in ("plain", "candidate", "examiner")}
_FILES |= {"exptilt/__init__.py": b"", "exptilt/sandbox/__init__.py": b""}


@dataclass(frozen=True)
class Task:
    """Python code about a program, which may use the program's names: statements to be got through, or one expression.

    code: a test, passed where its last line is reached; or, with `wants_value`, an expression to be evaluated.
    """

    code: str
    wants_value: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a task came to.

    kind: "passed"; "failed", by the program; or "broken": the task could not have been carried out on any program.
    detail: why, in words. value: the value of an expression in canonical form, equal for equal values; None where there is none.
    """

    kind: Literal["passed", "failed", "broken"]
    detail: str = ""
    value: str | None = None


def try_program(
    program: str,
    tasks: Sequence[Task],
    *,
    limits: Limits = DEFAULT,
    python: str = sys.executable,
    isolation: Isolation | None = None,
) -> list[Outcome]:
    """The outcomes of the tasks, in their order, each with a fresh process of the program and under `limits` of its own.

    Raises SandboxError where the sandbox cannot be built; whatever the program does only decides its outcomes.
    """
    outcomes: list[Outcome] = []
    while len(outcomes) < len(tasks):
        left = tasks[len(outcomes) :]
        finished = run(
            "from exptilt.sandbox.examiner import main\nmain()\n",
            stdin=json.dumps(_order(program, left, limits, isolation)).encode(),
            files=_FILES,
            limits=_for_all(limits, len(left)),
            python=python,
            isolation=isolation,
        )
        outcomes += _verdicts(finished)
        if finished.stopped == "time":
            # Each task is held to its own time, so somebody has stopped the examiner; it would be so again.
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
    """The outcomes that the examiner had told when it ended. Raises SandboxError where it had not even begun."""
    lines = [json.loads(line) for line in finished.stdout.split(b"\n")[:-1]]
    if not lines:
        said = finished.stderr.decode(errors="replace").strip()[-500:]
        raise SandboxError(
            f"the examination did not begin ({finished.stopped or finished.returncode}): {said or 'it said nothing'}. "
            "Check that `python` runs and that the limit of memory leaves room for it."
        )
    return [Outcome(**line) for line in lines[1:]]
