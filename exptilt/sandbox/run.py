"""`run`: one program, from its source to what it printed and how it ended."""

from __future__ import annotations

import base64
import fcntl
import json
import math
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import IO, Any, Literal

from exptilt.errors import SandboxError
from exptilt.sandbox.filter import seccomp_filter
from exptilt.sandbox.launch import ENVIRONMENT, SCRATCH, Isolation, choose_isolation, command
from exptilt.sandbox.view import PYTHON, view_of

Stopped = Literal["time", "cpu", "memory", "output"]

_MIB = 1 << 20
_PATIENCE = 30.0  # seconds that building the walls, or taking them down, may take on a busy machine
_LOOK = 0.5  # seconds; one look that took longer was held up with this process (Ctrl-Z), and counts as no more
_SEALED = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


@dataclass(frozen=True)
class Limits:
    """What a program may use. All limits except address space and file size hold for the whole tree of its processes.

    seconds: wall time, from the program's own start.
    cpu_seconds: CPU time of all its processes that are alive or were waited for.
    memory: resident bytes of all processes together, a shared page counted once for each of them, and 1 KiB for each file in the
        scratch folder; checked about every 10 ms. The kernel limits the address space of each single process to twice as much.
    processes: processes and threads at once.
    output: bytes of stdout and stderr together.
    scratch: bytes in the scratch folder, which is in memory but not counted in `memory`; also the size of any one file.
    """

    seconds: float = 10.0
    cpu_seconds: float = 5.0
    memory: int = 512 * _MIB
    processes: int = 16
    output: int = _MIB
    scratch: int = 32 * _MIB

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 < value < math.inf:
                raise ValueError(f"Limits({name}={value}): give a positive finite number")
            if name not in ("seconds", "cpu_seconds") and not isinstance(value, int):
                raise ValueError(f"Limits({name}={value}): give a whole number")

    def resource_limits(self, isolation: Isolation) -> dict[str, int]:
        """The kernel's own limits (setrlimit) on each process, by name."""
        limits = {
            "CPU": math.ceil(self.cpu_seconds) + 1,  # only in case the watcher, which counts the whole tree, fails
            "AS": 2 * self.memory,
            "FSIZE": self.scratch,
            "NOFILE": 128,
            "CORE": 1,  # 0 would still hand the dump to a program of the host, where core_pattern names one
            "MEMLOCK": 0,
            "MSGQUEUE": 0,
            "SIGPENDING": 256,
        }
        # Without a user namespace the kernel would count every process of this user.
        return limits if isolation == "none" else limits | {"NPROC": self.processes + 1}


DEFAULT = Limits()


@dataclass(frozen=True)
class Finished:
    """How a program ended.

    stdout, stderr: what it printed, cut at the limit.
    returncode: its exit status, or minus the signal that ended it; None where it was stopped.
    stopped: the limit that it passed, None where it came to its own end.
    seconds: wall time, including the building of the walls.
    cpu_seconds: CPU seconds as `Limits` counts them; 0 where it was stopped for its output.
    memory: the most resident bytes seen, as `Limits` counts them; 0 where it was stopped for its output.
    """

    stdout: bytes
    stderr: bytes
    returncode: int | None
    stopped: Stopped | None
    seconds: float
    cpu_seconds: float
    memory: int


def run(
    program: str,
    *,
    stdin: bytes = b"",
    files: Mapping[str, bytes] | None = None,
    limits: Limits = DEFAULT,
    python: str = PYTHON,
    isolation: Isolation | None = None,
) -> Finished:
    """Run a Python program in the sandbox and wait for its end. Blocking; may be called from many threads.

    program: the source; it runs as program.py in the scratch folder.
    files: more files for that folder, from name to content.
    python: the interpreter, whose installed packages the program can import.
    isolation: "bubblewrap", "namespaces", "none" (limits, but no walls: for trusted programs only; warns), or None for the best
        walls there are.
    Raises SandboxError where the walls cannot be built; a program that fails or passes a limit is not an error.
    """
    files = {"program.py": program.encode("utf-8", "surrogatepass"), **(files or {})}
    for name in files:
        if os.path.isabs(name) or ".." in name.split("/"):
            raise ValueError(f"file {name!r} would lie outside the scratch folder: give a relative path without '..'")
    return execute(("-s", "program.py"), stdin=stdin, files=files, limits=limits, python=python, isolation=isolation)


def execute(
    arguments: Sequence[str],
    *,
    stdin: bytes = b"",
    files: Mapping[str, bytes] | None = None,
    limits: Limits = DEFAULT,
    python: str = PYTHON,
    isolation: Isolation | None = None,
) -> Finished:
    """`run` for an interpreter started with any arguments, in a scratch folder that holds `files`."""
    isolation = choose_isolation(isolation)
    view = view_of(python)
    with ExitStack() as stack:
        scratch = SCRATCH if isolation != "none" else stack.enter_context(TemporaryDirectory())
        settings = {
            "scratch": scratch,
            "walls": isolation != "none",
            "filter": seccomp_filter(os.uname().machine).hex(),
            "files": {name: base64.b64encode(content).decode() for name, content in (files or {}).items()},
            "arguments": [view.python, *arguments],
            "environment": ENVIRONMENT | {"HOME": scratch},
            "limits": {"seconds": limits.seconds, "cpu_seconds": limits.cpu_seconds, "memory": limits.memory},
            "rlimits": limits.resource_limits(isolation),
        }
        given, settings_file = (_memory_file(content, stack) for content in (stdin, json.dumps(settings).encode()))
        heard, report = (stack.enter_context(open(end, mode)) for end, mode in zip(os.pipe(), ("rb", "wb"), strict=True))
        began = time.monotonic()
        process = subprocess.Popen(
            command(isolation, view, limits.scratch, settings_file, report.fileno()),
            stdin=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(settings_file, report.fileno()),
            env=ENVIRONMENT | {"PATH": os.environ.get("PATH", ENVIRONMENT["PATH"])},
            start_new_session=True,
        )
        report.close()
        try:
            streams = _collect(process, heard, limits)
        finally:
            heard.close()  # first.py ends everything when nobody listens
            _reap(process)
    return _finished(streams, isolation, time.monotonic() - began)


@dataclass
class _Streams:
    """What was read from one run so far.

    overflow: whether its output passed the limit and is no longer read.
    patience: seconds until nothing more can be expected.
    """

    stdout: bytes = b""
    stderr: bytes = b""
    report: bytes = b""
    overflow: bool = False
    patience: float = 0.0


def _collect(process: subprocess.Popen[bytes], heard: IO[bytes], limits: Limits) -> _Streams:
    """Read until all ends are closed, the output passes its limit, or nothing more can be expected."""
    streams = _Streams(patience=_PATIENCE)
    with selectors.DefaultSelector() as selector:
        for name, source in (("stdout", process.stdout), ("stderr", process.stderr), ("report", heard)):
            assert source is not None  # all three are pipes
            selector.register(source, selectors.EVENT_READ, name)
        while selector.get_map() and streams.patience > 0:
            began = time.monotonic()
            for ready, _ in selector.select(min(_LOOK, streams.patience)):
                content = os.read(ready.fd, 65536)
                setattr(streams, ready.data, getattr(streams, ready.data) + content)
                if not content:
                    selector.unregister(ready.fileobj)
                elif ready.data == "report":
                    streams.patience = _PATIENCE + limits.seconds
            streams.patience -= min(_LOOK, time.monotonic() - began)
            if len(streams.stdout) + len(streams.stderr) > limits.output:
                streams.overflow = True
                streams.stdout = streams.stdout[: limits.output]
                streams.stderr = streams.stderr[: limits.output - len(streams.stdout)]
                break
    return streams


def _reap(process: subprocess.Popen[bytes]) -> None:
    """Wait for the launcher to end, which it does after all processes inside; where it does not, kill its process group."""
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _finished(streams: _Streams, isolation: Isolation, seconds: float) -> Finished:
    """Read the report. Raises SandboxError where the program was never started, or the report is incomplete."""
    told: dict[str, Any] = {}
    for line in streams.report.splitlines():
        told |= json.loads(line)
    if "started" not in told:
        trouble = told.get("error") or streams.stderr.decode(errors="replace").strip() or "the launcher gave no reason"
        raise SandboxError(
            f"no sandbox ({isolation}) could be built here: {trouble}. Allow this user to create namespaces (a container may "
            "need a permission for it, Ubuntu kernel.apparmor_restrict_unprivileged_userns=0), try another isolation, or, for "
            'programs that you trust, pass isolation="none".'
        )
    if streams.overflow:
        return Finished(streams.stdout, streams.stderr, None, "output", seconds, 0.0, 0)
    if "stopped" not in told:
        raise SandboxError(
            f"the sandbox ({isolation}) ended after {seconds:.1f} s without reporting how its program ended: "
            "something outside killed it, such as the kernel when memory ran out. Run fewer programs at a time."
        )
    returncode = None if told["status"] is None else os.waitstatus_to_exitcode(told["status"])
    return Finished(streams.stdout, streams.stderr, returncode, told["stopped"], seconds, told["cpu"], told["memory"])


def _memory_file(content: bytes, stack: ExitStack) -> int:
    """A file in memory that nobody can change any more, to be read from its start: its descriptor, which the stack closes."""
    descriptor = os.memfd_create("given", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    stack.callback(os.close, descriptor)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALED)
    return descriptor
