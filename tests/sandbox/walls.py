"""What the tests of the sandbox share: small limits, the question whether there can be walls here, and processes by namespace."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from exptilt.sandbox import Limits, SandboxError, run

ISOLATIONS = ["namespaces", *(["bubblewrap"] if os.geteuid() != 0 and shutil.which("bwrap") else [])]


def limits(seconds: float = 120.0, cpu_seconds: float = 0.3) -> Limits:
    """Small limits, so that what passes them does it soon."""
    return Limits(seconds, cpu_seconds, memory=128 << 20, processes=12, output=1 << 16, scratch=4 << 20)


def trouble() -> str | None:
    """Why there can be no sandbox on this machine; None where there can."""
    try:
        run("")
    except SandboxError as error:
        return str(error)
    return None


TROUBLE = trouble()
needs_walls = pytest.mark.skipif(TROUBLE is not None, reason=f"{TROUBLE}")


def namespace_of(pid: int) -> str | None:
    """The process namespace of a process; None where it is gone, or another user's."""
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return None


def processes_of(namespace: str | None) -> list[int]:
    """The host's ids of the processes in a process namespace, as far as this user may see them."""
    return [pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if namespace_of(pid) == namespace]


def descendants(pid: int) -> list[int]:
    """The host's ids of the children of a process, their children, and so on."""
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return children + [each for child in children for each in descendants(child)]
