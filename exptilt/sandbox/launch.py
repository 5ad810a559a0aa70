"""The kinds of walls and the command that builds each: bubblewrap, our own namespaces, or none.

bubblewrap is preferred where it is on the PATH, but not for root: with it root's programs would still be root's processes
outside, whose number the kernel does not limit. For root, and where bubblewrap is missing, `namespaces.py` does the same.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import warnings
from pathlib import Path
from typing import Literal

from exptilt.errors import SandboxError
from exptilt.sandbox.view import PYTHON, View, view_of

Isolation = Literal["bubblewrap", "namespaces", "none"]

SCRATCH = "/scratch"
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": SCRATCH,
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",  # a program should print the same thing each time
    "PYTHONDONTWRITEBYTECODE": "1",
    "OMP_NUM_THREADS": "1",  # threads count as processes
    "OPENBLAS_NUM_THREADS": "1",
}
_OLDEST = (5, 14)  # the first Linux that counts processes for each user namespace
_DEVICES = ("null", "full", "random", "urandom")  # mapped as shared, `zero` would be memory that no process shows


def choose_isolation(isolation: Isolation | None = None) -> Isolation:
    """The walls to use: those asked for, or the best available. Raises SandboxError where they are not available here.

    Whether the kernel lets this user create namespaces is seen when a program is started, not here.
    """
    if isolation not in ("bubblewrap", "namespaces", "none", None):
        raise SandboxError(f'isolation={isolation!r}: give "bubblewrap", "namespaces", "none", or None for the best there is')
    if sys.platform != "linux":
        raise SandboxError(f"the sandbox is made of Linux namespaces, and this is {sys.platform}: run it on Linux")
    if isolation == "none":
        warnings.warn(
            'isolation="none": generated programs run as this user, see its files and can signal its processes. '
            "Use it only for programs that you trust, or on a machine that you can afford to lose.",
            stacklevel=3,
        )
        return isolation
    release = platform.release()
    if tuple(int(part) for part in release.replace("-", ".").split(".")[:2]) < _OLDEST:
        raise SandboxError(f"the sandbox needs Linux 5.14 or newer, and this is {release}: process limits would not hold")
    if isolation == "bubblewrap" and os.geteuid() == 0:
        raise SandboxError('isolation="bubblewrap" cannot limit the processes of root: use "namespaces", or another user')
    if isolation == "bubblewrap" and shutil.which("bwrap") is None:
        raise SandboxError('isolation="bubblewrap", but there is no bwrap on the PATH: install bubblewrap, or use "namespaces"')
    return isolation or ("bubblewrap" if os.geteuid() != 0 and shutil.which("bwrap") else "namespaces")


def script(name: str) -> str:
    """The source of a script of this package, to be run where the package cannot be seen."""
    return Path(__file__).with_name(f"{name}.py").read_text()


def command(isolation: Isolation, view: View, size: int, settings: int, report: int) -> list[str]:
    """The command that builds the walls and runs `first.py` inside them, with a scratch folder of `size` bytes.

    settings, report: the descriptors that `first.py` is given.
    """
    first = [view.python, "-I", "-S", "-c", script("first"), str(settings), str(report)]
    if isolation == "none":
        return first
    if isolation == "bubblewrap":
        return [*_bubblewrap(view, size), *first]
    plan = {"view": view.paths, "hidden": view.hidden, "scratch": SCRATCH, "size": size, "environment": ENVIRONMENT}
    plan["arguments"] = first
    return [view_of(PYTHON).python, "-I", "-S", "-c", script("namespaces"), json.dumps(plan), str(report)]


def _bubblewrap(view: View, size: int) -> list[str]:
    """bubblewrap's arguments for the same walls."""
    walls = ["bwrap", "--unshare-all", "--unshare-user", "--uid", "1000", "--gid", "1000", "--hostname", "sandbox"]
    walls += ["--die-with-parent", "--as-pid-1", "--cap-drop", "ALL", "--proc", "/proc"]
    for path, link in view.paths:
        walls += ["--ro-bind", path, path] if link is None else ["--symlink", link, path]
    for path in view.hidden:
        walls += ["--tmpfs", path, "--remount-ro", path]
    for name in _DEVICES:
        walls += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    walls += ["--symlink", SCRATCH, "/dev/shm"]
    return [*walls, "--size", str(size), "--tmpfs", SCRATCH, "--remount-ro", "/", "--chdir", SCRATCH, "--"]
