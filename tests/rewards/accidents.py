"""Rewards that have accidents: the prompt's first word says which. A module of its own, for other processes to import."""

from __future__ import annotations

import ctypes
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event
from typing import Any

from exptilt.draft import Draft
from exptilt.errors import SandboxError

CURED = Event()  # ends every accident; no constant, so no part of a run's settings


def good(prompt: str, drafts: Sequence[Draft]) -> list[float]:
    return [sum(draft.tokens) / 4 for draft in drafts]


def clumsy(prompt: str, drafts: Sequence[Draft]) -> Any:
    accident = ACCIDENTS.get(prompt.split()[0])
    return good(prompt, drafts) if accident is None or CURED.is_set() else accident(prompt, drafts)


def _raise(error: BaseException) -> Callable[[str, Sequence[Draft]], Any]:
    def accident(prompt: str, drafts: Sequence[Draft]) -> Any:
        raise error

    return accident


def _hang(prompt: str, drafts: Sequence[Draft]) -> list[float]:
    CURED.wait()
    return [1.0] * len(drafts)


def _leave_a_child(prompt: str, drafts: Sequence[Draft]) -> list[float]:
    """Start a program that would run for ever, tell its number in the file that the prompt names, and hang."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    Path(prompt.split()[1]).write_text(str(child.pid))
    return _hang(prompt, drafts)


ACCIDENTS: dict[str, Callable[[str, Sequence[Draft]], Any]] = {
    "nan": lambda prompt, drafts: [math.nan] * len(drafts),
    "infinite": lambda prompt, drafts: [math.inf] * len(drafts),
    "short": lambda prompt, drafts: [1.0] * (len(drafts) - 1),
    "long": lambda prompt, drafts: [1.0] * (len(drafts) + 1),
    "nested": lambda prompt, drafts: [[1.0]] * len(drafts),
    "nothing": lambda prompt, drafts: None,
    "words": lambda prompt, drafts: ["good"] * len(drafts),
    "raises": _raise(KeyError("no such answer")),
    "exits": _raise(SystemExit(0)),
    "gives up": _raise(BaseException("for good")),
    "refuses": _raise(SandboxError("no walls here")),
    "hangs": _hang,
    # what no process survives
    "crashes": lambda prompt, drafts: ctypes.string_at(0),
    "leaves": lambda prompt, drafts: os._exit(3),
    "killed": lambda prompt, drafts: os.kill(os.getpid(), signal.SIGKILL),
    "swallows": lambda prompt, drafts: [float(len(bytearray(2**36)))] * len(drafts),
    "searches": lambda prompt, drafts: [float(re.match("(a+)+b", "a" * 60) is None)] * len(drafts),  # holds the interpreter
    "spawns": _leave_a_child,
}
