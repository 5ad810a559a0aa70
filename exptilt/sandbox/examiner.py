"""Examines a program inside the sandbox, so that it cannot see, change or fake its examination.

This file runs inside the sandbox, so it uses the standard library alone. For each task the *examiner* forks an
*invigilator*, which knows the task, and which starts a *candidate* (candidate.py): a fresh Python that is given the program
and nothing else. The task's code runs in the invigilator; the names that it takes from the program stand for objects in the
candidate. A call sends plain values there and brings plain values back (plain.py), so no code of the program ever runs in the
process that judges: nothing it prints, patches, raises or exits with can pass a test, only the right value. What is not plain
stays in the candidate and is represented by a `Remote` (remote.py).

Examiner and invigilator are not dumpable: the candidate, although it runs as the same user, cannot read their memory or
descriptors. They import from the folders of the interpreter alone, where nobody can write. After each task every other process
is killed. The verdicts go to standard output, one JSON line each, after {"ready": true}.
"""

from __future__ import annotations

import builtins
import ctypes
import hashlib
import json
import os
import select
import signal
import sys
import time as clock
import types
from array import array
from collections import deque
from datetime import date, time, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import PurePath
from typing import Any

from exptilt.sandbox.invigilator import TEST, Invigilator
from exptilt.sandbox.names import BUILT_INS, Uses, module_named, uses
from exptilt.sandbox.plain import NotPlain
from exptilt.sandbox.remote import Broken, Lost, is_remote

PR_SET_DUMPABLE = 4
LONGEST_DETAIL, LONGEST_VALUE = 300, 20_000  # characters
RECURSION = 5000  # frames; a value that the program nests deeply must not fail here
# The types whose text is the same for equal values only; that of a generator would show its address.
_TOLD_BY_TEXT = str | bytes | bytearray | int | float | complex | Fraction | Decimal | date | time | timedelta | range | PurePath
_TOLD_BY_TEXT |= array | type | types.NoneType | types.EllipsisType
# What works only where test and program are one process.
_ONE_PROCESS = {"mock", "monkeypatch", "catch_warnings", "assertWarns", "assertLogs", "inspect", "getrefcount", "tracemalloc"}


def judge(given: dict[str, Any], task: dict[str, Any]) -> dict[str, Any]:
    """The verdict on one task: {"kind": "passed", "failed" or "broken", "detail", "value", "any_program"}."""
    sys.setrecursionlimit(RECURSION)
    invigilator = Invigilator([sys.executable, "-s", "-P", *given["candidate"], "CHANNEL", str(given["cpu_seconds"])])
    try:
        value = carry_out(invigilator, given["program"], task)
    except BaseException as error:  # noqa: BLE001 (whatever ends the task before its last line is not a pass)
        return verdict(invigilator.ended or error, invigilator, uses(task["code"]))
    return verdict(invigilator.ended, invigilator, uses(task["code"])) if invigilator.ended else _verdict("passed", value=value)


def carry_out(invigilator: Invigilator, program: str, task: dict[str, Any]) -> str | None:
    """Run the task's code to its end. Returns the canonical value of an expression."""
    code, mode = task["code"], "eval" if task["wants_value"] else "exec"
    compiled = compile(code, TEST, mode, dont_inherit=True)
    module = types.ModuleType("__main__")
    values, modules = names_for(uses(code), invigilator, program)
    vars(module).update(values | modules)
    invigilator.space, invigilator.provided = vars(module), {name: values[name] for name in values.keys() - modules.keys()}
    # Last, so that no name of the program's replaces these.
    vars(module).update(__builtins__=builtins, __name__="__main__")
    sys.modules["__main__"] = module
    if not task["wants_value"]:
        exec(compiled, vars(module))
        return None
    return canonical(eval(compiled, vars(module)))


def names_for(used: Uses, invigilator: Invigilator, program: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the test's code may use: what the program has under the names in the test, and the modules it takes for granted.

    The name of a built-in means the built-in, and that of a standard module the module, whatever the program made of it. But
    where a test uses nothing of the program except under the name of one built-in (MBPP asks for a function `sum`), the
    program's own is meant.
    """
    loaded = invigilator.load(program, list(used.words))
    hidden = used.built_ins & loaded["callables"]
    modules = {name: module for name, real in used.modules.items() if (module := module_named(real)) is not None}
    values = {name: value for name, value in loaded["values"].items() if name not in BUILT_INS and not name.startswith("__")}
    if hidden and not used.others:
        if len(hidden) > 1:
            invigilator.refuse(f"the program defines {', '.join(sorted(hidden))}, and which of them the test means is not clear")
        return values | {name: loaded["values"][name] for name in hidden}, modules
    for name in hidden | ((modules.keys() & loaded["values"].keys()) - loaded["modules"]):
        invigilator.doubts.append(f"the program defines {name}, by which the test means Python's own")
    return values, modules


def verdict(error: BaseException, invigilator: Invigilator, used: Uses) -> dict[str, Any]:
    """The verdict on a task that an error ended: whose fault it is."""
    detail = f"{type(error).__name__}: {error}"
    if isinstance(error, Broken):
        return _verdict("broken", str(error), any_program=error.any_program)
    if isinstance(error, Lost) or any(error is each for each in invigilator.own):
        return _verdict("failed", detail)
    if isinstance(error, ImportError):
        return _verdict("broken", f"the test imports something that is not installed: {error}", any_program=True)
    if isinstance(error, SystemExit) and not error.code:
        return _verdict("broken", "the test exits by SystemExit before its last line", any_program=True)
    # Besides the list of kept containers, the loop and the call refer to one; if anything else does, the test can still see it.
    if any(sys.getrefcount(value) > 3 for value in invigilator.kept):
        return _verdict("broken", f"the program returned a value and changed an argument, which the test does not see ({detail})")
    if parted := invigilator.parted():
        return _verdict("broken", f"{parted} ({detail})")
    if invigilator.doubts:
        return _verdict("broken", f"{invigilator.doubts[0]} ({detail})")
    if isinstance(error, TypeError | AttributeError) and (invigilator.reduced or "Remote" in str(error)):
        what = f"a value of the program's class {invigilator.reduced}" if invigilator.reduced else "an object of the program"
        return _verdict("broken", f"the test does something with {what} that is not passed on to it ({detail})")
    if isinstance(error, TypeError | AttributeError) and invigilator.objects and _raised_by_library(error):
        return _verdict(
            "broken", f"the test has a library do something with an object of the program that is not passed on to it ({detail})"
        )
    if invigilator.objects and "type" in used.built_ins:
        return _verdict("broken", f"the test asks for the type of an object of the program ({detail})")
    if shared := _ONE_PROCESS.intersection(used.words):
        return _verdict("broken", f"the test uses {min(shared)}, which does not reach the program in its own process ({detail})")
    return _verdict("failed", detail)


def _raised_by_library(error: BaseException) -> bool:
    """Whether an error came from code that is not the test's own."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_code.co_filename != TEST


def _verdict(kind: str, detail: str = "", value: str | None = None, any_program: bool = False) -> dict[str, Any]:
    return {"kind": kind, "detail": detail[:LONGEST_DETAIL], "value": value, "any_program": any_program}


def canonical(value: Any) -> str:
    """A plain value as text, equal for equal values: sets and dicts sorted, floats to 12 digits."""
    if is_remote(value):
        raise NotPlain("the value is an object of the program, which cannot be compared")
    if isinstance(value, dict):
        return _cut("{" + ", ".join(sorted(f"{canonical(key)}: {canonical(item)}" for key, item in value.items())) + "}")
    if isinstance(value, list | tuple | set | frozenset | deque | type({}.keys()) | type({}.items())):
        items = [canonical(item) for item in value]
        ordered = items if isinstance(value, list | tuple | deque) else sorted(items)
        return _cut(f"{'tuple' if isinstance(value, tuple) else type(value).__name__}({', '.join(ordered)})")
    if type(value).__module__ == "numpy":
        return f"{type(value).__name__}({value.dtype.kind}, {canonical(value.tolist())})"
    if not isinstance(value, _TOLD_BY_TEXT):
        raise NotPlain(f"the value is a {type(value).__name__}, which cannot be compared")
    return _cut(f"{value:.12g}" if isinstance(value, float) else ascii(value))


def _cut(text: str) -> str:
    """A text; of a long one its beginning and a digest."""
    return text if len(text) <= LONGEST_VALUE else text[:LONGEST_VALUE] + hashlib.sha256(text.encode()).hexdigest()


def examine(given: dict[str, Any], number: int) -> dict[str, Any]:
    """Judge one task in a process of its own, within its time; then kill whatever is left."""
    heard, told = os.pipe()
    os.mkdir(f"{number}")
    invigilator = os.fork()
    if invigilator == 0:
        quiet = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(quiet, stream)
        os.chdir(f"{number}")
        os.write(told, json.dumps(judge(given, given["tasks"][number])).encode())
        os._exit(0)
    os.close(told)
    told_all = listen(heard, given["seconds"])
    os.close(heard)
    os.kill(invigilator, signal.SIGKILL)
    os.waitpid(invigilator, 0)
    if given["walls"] and os.getppid() == 1:  # in a process namespace of our own, not among the user's processes
        kill_everything()
    if told_all is None:
        return _verdict("failed", f"not finished after {given['seconds']:g} s")
    return json.loads(told_all) if told_all else _verdict("failed", "the examination was killed")


def kill_everything() -> None:
    """Kill all processes of the namespace but this and the first, and wait until that one has buried them."""
    while True:
        try:
            os.kill(-1, signal.SIGKILL)
        except ProcessLookupError:
            return
        clock.sleep(0.002)


def listen(descriptor: int, seconds: float) -> bytes | None:
    """All that is written until the other end is closed; None where it is still open after `seconds`.

    By the clock, even where this process was held up: the program could do that, to gain time.
    """
    content, deadline = b"", clock.monotonic() + seconds
    while (left := deadline - clock.monotonic()) > 0:
        if select.select([descriptor], [], [], left)[0]:
            part = os.read(descriptor, 65536)
            content += part
            if not part:
                return content
    return None


def main() -> None:
    """Examine as told on standard input."""
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    os.environ["HOME"] = "/"  # libraries read their settings there, and the program could write them
    sys.argv[:] = ["test"]
    print(json.dumps({"ready": True}), flush=True)
    given = json.load(sys.stdin)
    for number in range(len(given["tasks"])):
        print(json.dumps(examine(given, number)), flush=True)
