"""Programs that try to get out of the sandbox, or to take the machine down from within it, by kind.

Each is the text of a program that runs after `PRELUDE`. `$home`, `$port` and the like are filled in by the test with the
canaries that it watches (tests/sandbox/test_hostile.py): a secret file, a listening socket, a running process.
"""

from __future__ import annotations

from dataclasses import dataclass

PRELUDE = """
import ctypes, errno, os, signal, socket, subprocess, sys, time
print(os.readlink("/proc/self/ns/pid"), flush=True)
libc = ctypes.CDLL(None, use_errno=True)

def syscall(number, *arguments):
    if (result := libc.syscall(ctypes.c_long(number), *arguments)) == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result

def must_fail(what, function, *arguments):
    try:
        got = function(*arguments)
    except OSError as error:
        print("refused", what, error.errno, flush=True)
    else:
        print("ESCAPED", what, got, flush=True)

def read(path):
    with open(path, "rb") as file:
        return file.read(1000)

def write(path):
    with open(path, "wb") as file:
        return file.write(b"hostile")

def spin():
    while True:
        pass
"""


@dataclass(frozen=True)
class Hostile:
    """A hostile program.

    name: what it tries. source: how. ends: the ways in which it may end, "exit" for by itself or a limit of `Finished.stopped`.
    seconds: the wall time that it is given; short for those that would never end.
    """

    name: str
    source: str
    ends: frozenset[str] = frozenset({"exit"})
    seconds: float = 120.0

    @property
    def cpu_seconds(self) -> float:
        """The CPU time that it is given: so much that no other limit waits for it, unless it is to be stopped by this one."""
        return 0.3 if "cpu" in self.ends else 60.0


def exits(name: str, source: str) -> Hostile:
    """A program that tries something, is refused, and says so."""
    return Hostile(name, source)


def may_exit(name: str, source: str, *ends: str) -> Hostile:
    """A program that is refused, or stopped at one of the given limits, by the kind of walls."""
    return Hostile(name, source, frozenset({"exit", *ends}))


def stopped(name: str, source: str, *ends: str, seconds: float = 120.0) -> Hostile:
    """A program that has to be stopped, at one of the given limits."""
    return Hostile(name, source, frozenset(ends), seconds)
