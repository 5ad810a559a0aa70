"""Which walls there are, and the command that builds each: bubblewrap, our own namespaces, or none.

bubblewrap is preferred where it is on the PATH, but not for root: under it root's programs would still be root's processes
outside, which the kernel does not hold to a number. For root, and where bubblewrap is missing, `namespaces.py` does the same.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Literal

from exptilt.errors import SandboxError

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
_SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/nix/store", "/etc/ld.so.cache", "/etc/alternatives")
_OLDEST = (5, 14)  # the first Linux that counts processes for each user namespace
_DEVICES = ("null", "zero", "full", "random", "urandom")

View = list[tuple[str, str | None]]
"""Paths that the program can see, each with None, or with what it points to where it is a symbolic link."""


def choose_isolation(isolation: Isolation | None = None) -> Isolation:
    """The walls to use: those asked for, or the best there are. Raises SandboxError where they cannot be had here.

    Whether the kernel lets this user make namespaces shows when a program is started, not here.
    """
    if isolation not in ("bubblewrap", "namespaces", "none", None):
        raise SandboxError(f'isolation={isolation!r}: give "bubblewrap", "namespaces", "none", or None for the best there is')
    if sys.platform != "linux":
        raise SandboxError(f"the sandbox is made of Linux namespaces, and this is {sys.platform}: run it on Linux")
    if isolation == "none":
        warnings.warn(
            'isolation="none": generated programs run as this user, see its files and can signal its processes. '
            "Use it only for programs that you trust, or inside a machine that you can lose.",
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


def command(isolation: Isolation, python: str, size: int, settings: int, report: int) -> list[str]:
    """The command that builds the walls and runs `first.py` inside them, with a scratch folder of `size` bytes.

    settings, report: the descriptors that `first.py` is given.
    """
    first = [python, "-I", "-S", "-c", script("first"), str(settings), str(report)]
    if isolation == "none":
        return first
    if isolation == "bubblewrap":
        return [*_bubblewrap(visible_paths(python), size), *first]
    plan = {"view": visible_paths(python), "scratch": SCRATCH, "size": size, "arguments": first, "environment": ENVIRONMENT}
    return [sys.executable, "-I", "-S", "-c", script("namespaces"), json.dumps(plan), str(report)]


def _bubblewrap(view: View, size: int) -> list[str]:
    """bubblewrap's arguments for the same walls."""
    walls = ["bwrap", "--unshare-all", "--unshare-user", "--uid", "1000", "--gid", "1000", "--hostname", "sandbox"]
    walls += ["--die-with-parent", "--as-pid-1", "--cap-drop", "ALL", "--proc", "/proc"]
    for path, link in view:
        walls += ["--ro-bind", path, path] if link is None else ["--symlink", link, path]
    for name in _DEVICES:
        walls += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    return [*walls, "--size", str(size), "--tmpfs", SCRATCH, "--remount-ro", "/", "--chdir", SCRATCH, "--"]


@functools.lru_cache
def visible_paths(python: str) -> View:
    """The system's libraries and the folders that `python` lives in, nothing of a home folder but those.

    Raises SandboxError where that interpreter does not run, or where its folder would show a home folder as a whole.
    """
    ask = "import json, sys; print(json.dumps([sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix]))"
    try:
        said = subprocess.run([python, "-I", "-c", ask], capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        raise SandboxError(f"python={python!r} does not run: {error}. Give the path of a Python interpreter.") from error
    folders = {os.path.abspath(folder) for folder in json.loads(said.stdout)}
    folders |= {os.path.realpath(folder) for folder in folders}
    home = os.path.realpath(os.path.expanduser("~"))
    for folder in folders:
        if Path(home).is_relative_to(folder) and folder not in _SYSTEM:
            raise SandboxError(f"python={python!r} lives in {folder}, which holds {home}: use one in a virtual environment")
    view: View = []
    for path in sorted({*_SYSTEM, *folders}):
        under = any(link is None and Path(path).is_relative_to(seen) for seen, link in view)
        if os.path.lexists(path) and not under:
            view.append((path, os.readlink(path) if os.path.islink(path) else None))
    return view
