"""Examines a program inside the sandbox, so that it cannot see, change or fake its examination.

Part of what runs inside the sandbox, so it uses the standard library alone. For each task the *examiner* forks an
*invigilator*, which knows the task, and which starts a *candidate* (candidate.py): a fresh Python that is given the program
and nothing else. The task's code runs in the invigilator; the names that it takes from the program stand for objects in the
candidate. A call sends plain values there (numbers, text, bytes, lists, tuples, dicts, sets, None) and brings plain values
back, so no code of the program ever runs in the process that judges: nothing it prints, patches, raises or exits with can pass
a test, only the right value. What is no plain value stays in the candidate and is represented by a `Remote`.

Examiner and invigilator are not dumpable: the candidate, although of the same user, cannot read their memory or descriptors.
After each task every other process is killed. The verdicts go to standard output, one JSON line each, after {"ready": true}.
"""

from __future__ import annotations

import ast
import builtins
import ctypes
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from exptilt.sandbox.plain import NotPlain, decode, encode, receive, send

PR_SET_DUMPABLE = 4
LONGEST_DETAIL, LONGEST_VALUE = 300, 20_000  # characters


class Remote:
    """An object in the candidate: to be called, asked for attributes and items, iterated, and compared with another such.

    It never equals a plain value, whatever its class says about equality.
    """

    def __init__(self, ask: Callable[..., Any], number: int) -> None:
        self.__dict__.update(_ask=ask, _number=number)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._ask("call", self, *arguments, **keywords)

    def __getattr__(self, name: str) -> Any:
        return self._ask("getattr", self, name)

    def __iter__(self) -> Iterator[Any]:
        iterator = self._ask("iter", self)
        while True:
            try:
                item = self._ask("next", iterator)
            except StopIteration:
                return
            yield item

    def __next__(self) -> Any:
        return self._ask("next", self)

    def __len__(self) -> int:
        return self._ask("len", self)

    def __getitem__(self, place: Any) -> Any:
        return self._ask("getitem", self, place)

    def __contains__(self, item: Any) -> bool:
        return self._ask("contains", self, item)

    def __bool__(self) -> bool:
        return self._ask("bool", self) is True

    def __str__(self) -> str:
        return str(self._ask("str", self))

    def __repr__(self) -> str:
        return str(self._ask("repr", self))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and bool(self._ask("eq", self, other))

    def __hash__(self) -> int:
        raise TypeError("an object of the program cannot be hashed here")


class Invigilator:
    """Runs one task's code against a candidate."""

    def __init__(self, source: str, folder: str, cpu_seconds: int) -> None:
        self.channel, theirs = socket.socketpair()
        end = str(theirs.fileno())
        subprocess.Popen(
            [sys.executable, "-s", "-m", "exptilt.sandbox.candidate", end, folder, str(cpu_seconds)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()
        self.loaded = self.exchange({"load": source})

    def exchange(self, message: dict[str, Any]) -> dict[str, Any]:
        """Ask the candidate and have its answer; what the program raised is raised here."""
        send(self.channel, message)
        answer = receive(self.channel)
        if "raised" in answer:
            raise self.exception(answer["raised"], answer["message"])
        return answer

    @staticmethod
    def exception(kinds: list[str], message: str) -> Exception:
        """The nearest built-in exception that takes a message alone."""
        for name in kinds:
            kind = getattr(builtins, name, None)
            if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, UnicodeError):
                return kind(message)
        return RuntimeError(f"{kinds[0]}: {message}")

    def ask(self, operation: str, *arguments: Any, **keywords: Any) -> Any:
        """Have the candidate do something; lists, dicts and sets that it changed in place change here too."""
        sent = [encode(item, self.number) for item in arguments]
        named = {name: encode(item, self.number) for name, item in keywords.items()}
        answer = self.exchange({"operation": operation, "arguments": sent, "keywords": named})
        for before, after in zip(arguments, answer["after"], strict=True):
            if after is not None and isinstance(before, list | dict | set):
                changed = self.here(after)
                if isinstance(before, list):
                    before[:] = changed
                else:
                    before.clear()
                    before.update(changed)
        return self.here(answer["value"])

    def here(self, sent: Any) -> Any:
        """What the candidate sent, as the task's code sees it."""
        return decode(sent, lambda number: Remote(self.ask, number))

    @staticmethod
    def number(value: Any) -> int:
        """The number of an object in the candidate."""
        if isinstance(value, Remote):
            return value._number
        raise Broken(f"the test passes a {type(value).__name__} to the program; only plain values can be passed")

    def names(self, code: str) -> dict[str, Any]:
        """What the task's code may use of the program: all but built-in names, and the modules that it takes for granted.

        A standard module is imported here, whatever the program made of its name.
        """
        bases = {
            node.value.id
            for node in ast.walk(ast.parse(code))
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        }
        modules = self.loaded["modules"] | {name: name for name in bases & sys.stdlib_module_names}
        names = {name: self.here(value) for name, value in self.loaded["values"].items()}
        names |= {name: module for name, value in modules.items() if (module := imported(value)) is not None}
        return {name: value for name, value in names.items() if name not in dir(builtins)}


class Broken(BaseException):
    """The task cannot be carried out, whatever the program does; no `except Exception` of a test may catch it."""


def imported(name: str) -> ModuleType | None:
    """A module by name; None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def judge(source: str, task: dict[str, Any], folder: str, cpu_seconds: int) -> dict[str, Any]:
    """The verdict on one task: {"kind": "passed", "failed" or "broken", "detail", "value"}."""
    value = None
    try:
        invigilator = Invigilator(source, folder, cpu_seconds)
        names = invigilator.names(task["code"])
        if task["wants_value"]:
            value = canonical(eval(compile(task["code"], "task", "eval"), names))
        else:
            exec(compile(task["code"], "task", "exec"), names)
    except Broken as error:
        return {"kind": "broken", "detail": str(error), "value": None}
    except BaseException as error:  # noqa: BLE001 (whatever ends the task before its last line is a failure)
        return {"kind": "failed", "detail": f"{type(error).__name__}: {error}"[:LONGEST_DETAIL], "value": None}
    return {"kind": "passed", "detail": "", "value": value}


def canonical(value: Any) -> str:
    """A plain value as text, equal for equal values: sets and dicts sorted, floats to 12 digits."""
    if isinstance(value, dict):
        return "{" + ", ".join(sorted(f"{canonical(key)}: {canonical(item)}" for key, item in value.items())) + "}"
    if isinstance(value, list | tuple | set | frozenset):
        items = [canonical(item) for item in value]
        ordered = items if isinstance(value, list | tuple) else sorted(items)
        return f"{type(value).__name__}({', '.join(ordered)})"[:LONGEST_VALUE]
    if isinstance(value, Remote):
        raise NotPlain("the value is an object of the program, which cannot be compared")
    return (f"{value:.12g}" if isinstance(value, float) else ascii(value))[:LONGEST_VALUE]


def examine(given: dict[str, Any], number: int) -> dict[str, Any]:
    """Judge one task in a process of its own, within its time; then kill whatever is left."""
    heard, told = os.pipe()
    os.mkdir(f"{number}")
    invigilator = os.fork()
    if invigilator == 0:
        quiet = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(quiet, stream)
        os.write(told, json.dumps(judge(given["program"], given["tasks"][number], f"{number}", given["cpu_seconds"])).encode())
        os._exit(0)
    os.close(told)
    told_all = listen(heard, given["seconds"])
    os.close(heard)
    os.kill(invigilator, signal.SIGKILL)
    os.waitpid(invigilator, 0)
    if given["walls"] and os.getppid() == 1:  # in a process namespace of our own, not among the user's processes
        kill_everything()
    if told_all is None:
        return {"kind": "failed", "detail": f"not finished after {given['seconds']:g} s", "value": None}
    return json.loads(told_all) if told_all else {"kind": "failed", "detail": "the examination was killed", "value": None}


def kill_everything() -> None:
    """Kill all processes of the namespace but this and the first, and wait until that one has buried them."""
    while True:
        try:
            os.kill(-1, signal.SIGKILL)
        except ProcessLookupError:
            return
        time.sleep(0.002)


def listen(descriptor: int, seconds: float) -> bytes | None:
    """All that is written until the other end is closed; None where it is still open after `seconds`."""
    content, deadline = b"", time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if select.select([descriptor], [], [], left)[0]:
            part = os.read(descriptor, 65536)
            content += part
            if not part:
                return content
    return None


def main() -> None:
    """Examine as told on standard input."""
    sys.path.pop(0)  # the scratch folder, where the program may write
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    print(json.dumps({"ready": True}), flush=True)
    given = json.load(sys.stdin)
    for number in range(len(given["tasks"])):
        print(json.dumps(examine(given, number)), flush=True)
